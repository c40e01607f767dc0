"""The script that measures an accelerator loses nothing if a part fails or is interrupted."""

import json
import sys

import jax
import jax.numpy as jnp
import pytest

from benchmarks import accelerator
from benchmarks import accelerator_checks as checks
from benchmarks.accelerator_parts import PARTS, TINY, Family
from benchmarks.moved_bytes import moved_bytes


def command(*lines: str) -> list[str]:
    """A part that runs these lines of Python; `row(value)` prints a row."""
    start = "import json, os, sys, time; row = lambda v: print('row', json.dumps(v), flush=True)"
    return [sys.executable, "-c", "\n".join([start, *lines])]


def test_a_part_that_crashes_or_hangs_loses_neither_its_rows_nor_the_other_parts(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(accelerator, "GRACE", 1.0)
    path = tmp_path / "out.json"
    late = "row({'later': json.load(open(sys.argv[1]))['parts']['fails']['rows']})"
    commands = {
        "fails": (command("row({'layer': 'first'})", "raise ValueError('broken')"), 60.0),
        "crashes": (command("row({'layer': 'second'})", "os.abort()"), 60.0),
        "hangs": (command("row({'layer': 'third'})", "time.sleep(600)"), 3.0),
        "limited": (command('print(\'facts {"jax": "x"}\')', "print('limit')"), 60.0),
        "reads": ([*command(late), str(path)], 60.0),
    }
    accelerator.measure(commands, 300.0, path)
    stored = json.loads(path.read_text())
    assert stored["jax"] == "x"
    parts = stored["parts"]
    assert parts["fails"]["rows"] == [{"layer": "first"}]
    assert "status 1: ValueError: broken" in parts["fails"]["note"]
    assert parts["crashes"]["rows"] == [{"layer": "second"}] and "-6" in parts["crashes"]["note"]
    assert parts["hangs"]["rows"] == [{"layer": "third"}] and "-9" in parts["hangs"]["note"]
    assert "limit" in parts["limited"]["note"]
    assert parts["reads"]["rows"] == [{"later": [{"layer": "first"}]}]  # it was stored by then


def test_no_part_starts_after_the_budget(tmp_path):
    assert not accelerator.measure({"late": (command(), 9.0)}, 0.0, tmp_path / "a.json")["parts"]


def test_gradients_on_this_device_agree_with_float64(tmp_path, monkeypatch, capsys):
    path = tmp_path / "out.json"
    arguments = [f"--out={path}", "--parts=gradients:300,recipe", "--tiny"]
    monkeypatch.setattr(sys, "argv", ["accelerator", *arguments])
    accelerator.main()
    parts = json.loads(path.read_text())["parts"]
    rows = [row for row in parts["gradients"]["rows"] if "layer" in row]
    assert len(rows) == 5
    assert all(0 <= row["highest"] < 1e-5 for row in rows)
    assert "--cifar10" in parts["recipe"]["rows"][0]["error"]
    assert "fully connected" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["conv, maxout", "conv, batch norm, max pooling"])
def test_gradients_of_maxima_of_computed_values_agree_with_float64(name):
    assert checks.gradient_differences(name)["highest"] < 1e-5


def test_every_part_has_a_limit():
    assert list(PARTS) == list(accelerator.LIMITS)


def test_ratios_are_of_the_best_batch_sizes():
    row = {"family": "resnet_50_v1.5", "mode": "train"}
    rates = [("ours", 8, 3180.0), ("ours", 16, 2000.0), ("torch", 8, 1000.0)]
    rates.append(("torch, CUDA graphs", 16, 1590.0))
    rows = [row | {"version": v, "batch": b, "images/s": r} for v, b, r in rates]
    rows.append(row | {"version": "linen", "batch": 8, "error": "out of memory"})
    rows += [
        {"family": "mlp_300", "mode": "train", "version": v, "batch": 8, "images/s": r}
        for v, r in (("ours", 8.0), ("torch", 1.0))
    ]
    best, other, mean = accelerator.best(rows, "NVIDIA H200")
    assert (best["ours/torch"], best["ours/linen"], best["ours/MLPerf"]) == (2.0, None, 0.4)
    assert other["ours/MLPerf"] is None and mean["ratio"] == "ours/torch"
    assert (mean["families"], mean["geometric mean"]) == (2, pytest.approx(4.0))


def test_a_rate_has_the_operations_of_one_step():
    row = Family("mlp_300", 4, TINY).train("ours")
    assert row["images/s"] > 0 and row["steps/call"] == TINY.k
    # 784 x 300 and 300 x 10 weights; the gradient of the images is not needed.
    products = 4 * (2 * 784 * 300 + 3 * 300 * 10)
    update = 8 * (785 * 300 + 301 * 10)  # of weights and momentum
    assert row["GFLOP/step"] == pytest.approx(1e-9 * (2 * products + update), rel=0.05)


def test_moved_bytes_are_those_of_operands_and_results():
    """A fusion moves its operands and its result, whatever it computes in between."""
    x, w = jnp.ones((1000, 64), jnp.bfloat16), jnp.ones((64, 32), jnp.bfloat16)
    compiled = jax.jit(lambda x: jnp.sin(x) * 2 + 1).lower(x).compile()
    assert moved_bytes(compiled.as_text()) == 2 * x.nbytes
    # As XLA for GPUs writes it: a library call with scratch memory, in a block that is called.
    program = """HloModule step, is_scheduled=true

%fused (a: bf16[1000,32]) -> bf16[1000,32] {
  %a = bf16[1000,32]{1,0} parameter(0)
  ROOT %tanh = bf16[1000,32]{1,0} tanh(%a)
}

%command_buffer (x: bf16[1000,64], w: bf16[64,32]) -> bf16[1000,32] {
  %x = bf16[1000,64]{1,0} parameter(0)
  %w = bf16[64,32]{1,0} parameter(1)
  %gemm = (bf16[1000,32]{1,0}, u8[4194304]{0}) custom-call(%x, %w), custom_call_target="__cublas"
  %y = bf16[1000,32]{1,0} get-tuple-element(%gemm), index=0
  ROOT %fusion = bf16[1000,32]{1,0} fusion(%y), kind=kLoop, calls=%fused
}

ENTRY %main (x.1: bf16[1000,64], w.1: bf16[64,32]) -> bf16[1000,32] {
  %x.1 = bf16[1000,64]{1,0} parameter(0)
  %w.1 = bf16[64,32]{1,0} parameter(1)
  ROOT %call = bf16[1000,32]{1,0} call(%x.1, %w.1), to_apply=%command_buffer
}
"""
    result = 1000 * 32 * 2
    assert moved_bytes(program) == x.nbytes + w.nbytes + 3 * result
