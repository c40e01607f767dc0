"""Tables of parameters against values computed by hand."""

import numpy as np
import pytest

from errors import UserError
from models import parameter_tables

KERNEL = np.array([[3.0, 0.0], [-4.0, 0.0]], np.float32)


def test_rows_of_parameters():
    (row, bias) = parameter_tables.parameters(
        {"params": {"fc": {"kernel": KERNEL, "bias": np.ones(2)}}}
    )
    assert row == {
        "name": "params/fc/kernel",
        "shape": [2, 2],
        "count": 4,
        "mean": -0.25,
        "deviation": pytest.approx((25 / 4 - 1 / 16) ** 0.5),
        "norm": 5.0,
        "zeros": 0.5,
    }
    assert (bias["deviation"], bias["zeros"], bias["count"]) == (0.0, 0.0, 2)


def test_rows_of_differences():
    one = {"fc": {"kernel": KERNEL, "bias": np.zeros(2)}, "new": {"bias": np.zeros(1)}}
    other = {
        "fc": {"kernel": KERNEL + np.diag([0.0, 1.0]), "bias": np.zeros(2)},
        "new": {"bias": np.ones(1)},
    }
    kernel, bias, new = parameter_tables.differences(one, other)
    assert kernel["name"] == "fc/kernel"
    assert (kernel["norm"], kernel["relative"], kernel["largest"]) == (1.0, 0.2, 1.0)
    assert (kernel["changed"], bias["relative"], new["relative"]) == (0.25, 0.0, float("inf"))
    with pytest.raises(UserError, match=r"1 arrays differ in name or shape \(new/bias\)"):
        parameter_tables.differences(one, {"fc": one["fc"]})
    with pytest.raises(UserError, match=r"\(fc/bias\)"):
        parameter_tables.differences({"fc": one["fc"]}, {"fc": {**one["fc"], "bias": np.zeros(3)}})


def test_text_lines_up():
    lines = parameter_tables.text(
        parameter_tables.parameters({"a": {"kernel": KERNEL}, "long": {"bias": KERNEL[0]}})
    )
    head, _, first, second = lines.split("\n")
    assert head.split() == ["name", "shape", "count", "mean", "deviation", "norm", "zeros"]
    assert first.split()[:4] == ["a/kernel", "2x2", "4", "-0.25"]
    assert len({len(head), len(first), len(second)}) == 1
    assert parameter_tables.text([]) == ""
