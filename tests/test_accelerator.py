"""The script that measures an accelerator loses nothing if a part fails or is interrupted."""

import json
import sys

import pytest

from benchmarks import accelerator
from benchmarks.accelerator_parts import TINY, Family, Run


def test_a_failing_part_and_a_failing_measurement_do_not_lose_the_others(tmp_path):
    def failing(run):
        yield {"layer": "first"}
        raise ValueError("broken\nand more")

    def endless(run):
        while True:
            yield {"layer": "next"}

    path = tmp_path / "out.json"
    parts = {"failing": (failing, 9.0), "endless": (endless, 0.01), "late": (failing, 0.0)}
    accelerator.measure(parts, Run(TINY), 9.0, {"jax": "x"}, path)
    stored = json.loads(path.read_text())
    assert stored["jax"] == "x"
    assert stored["parts"]["failing"]["rows"] == [{"layer": "first"}]
    assert "ValueError: broken" in stored["parts"]["failing"]["note"]
    assert {"layer": "next"} in stored["parts"]["endless"]["rows"]
    assert "limit" in stored["parts"]["endless"]["note"]
    assert not stored["parts"]["late"]["rows"]


def test_what_is_measured_is_stored_before_the_next_measurement(tmp_path):
    path = tmp_path / "out.json"

    def interrupted(run):
        yield {"layer": "first"}
        assert json.loads(path.read_text())["parts"]["interrupted"]["rows"] == [{"layer": "first"}]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        accelerator.measure({"interrupted": (interrupted, 9.0)}, Run(TINY), 9.0, {}, path)
    assert json.loads(path.read_text())["parts"]["interrupted"]["rows"] == [{"layer": "first"}]


def test_gradients_on_this_device_agree_with_float64(tmp_path, monkeypatch, capsys):
    path = tmp_path / "out.json"
    arguments = [f"--out={path}", "--parts=gradients,recipe", "--tiny"]
    monkeypatch.setattr(sys, "argv", ["accelerator", *arguments])
    accelerator.main()
    parts = json.loads(path.read_text())["parts"]
    rows = [row for row in parts["gradients"]["rows"] if "layer" in row]
    assert len(rows) == 4
    assert all(0 <= row["highest"] < 1e-5 for row in rows)
    assert "--cifar10" in parts["recipe"]["rows"][0]["error"]
    assert "fully connected" in capsys.readouterr().out


def test_ratios_are_of_the_best_batch_sizes():
    row = {"family": "mlp_300", "mode": "train"}
    rates = [("ours", 8, 30.0), ("ours", 16, 20.0), ("torch", 8, 10.0), ("torch", 16, 15.0)]
    rows = [row | {"version": v, "batch": b, "images/s": r} for v, b, r in rates]
    rows.append(row | {"version": "linen", "batch": 8, "error": "out of memory"})
    (best,) = accelerator.accelerator_parts.best(rows)
    assert (best["ours/torch"], best["ours/linen"]) == (2.0, None)


@pytest.mark.parametrize("version", ["ours", "linen"])
def test_a_rate_has_the_operations_of_one_step(version):
    row = Family("mlp_300", 4, TINY).train(version)
    assert row["images/s"] > 0
    # 784 x 300 and 300 x 10 weights; the gradient of the images is not needed.
    products = 4 * (2 * 784 * 300 + 3 * 300 * 10)
    update = 8 * (785 * 300 + 301 * 10)  # of weights and momentum
    assert row["GFLOP/step"] == pytest.approx(1e-9 * (2 * products + update), rel=0.05)
