"""Names by patterns. tests/train_lib/weights/test_warm_start.py has more on `matching`."""

import pytest

from configs.patterns import by_layer, matching
from errors import UserError

LAYERS = ["conv1", "conv2_1/bn1", "conv2_1/conv1", "fc"]


def test_a_name_goes_before_patterns():
    values = {"conv2_*": 0.1, "conv2_1/bn1": 0.0, "f?": 2.0}
    expected = {"conv2_1/bn1": 0.0, "conv2_1/conv1": 0.1, "fc": 2.0}
    assert by_layer(values, LAYERS, "optimizer.layer_rates") == expected


def test_patterns_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match=r"layer_rates\.conv9\*: there is no such layer: choose"):
        by_layer({"conv9*": 0.1}, LAYERS, "optimizer.layer_rates")
    with pytest.raises(UserError, match=r"layer_rates: \*1 and conv\* both match conv1: change"):
        by_layer({"conv*": 0.1, "*1": 0.2}, LAYERS, "optimizer.layer_rates")
    with pytest.raises(UserError, match=r"frozen: !conv1 .*: for the whole layer write !conv1/\*$"):
        matching(["conv1/kernel", "fc/kernel"], ["!conv1"], "optimizer.frozen")
