"""Runs that are killed or stopped, and resumed, have exactly the result of an uninterrupted run."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tiny_config

from errors import UserError
from input_pipeline import batches
from tests.stress import runs
from tests.stress.runs import records
from train_lib import recorder, train
from train_lib.distributed import parallel
from train_lib.train import train_and_evaluate

TESTS = pathlib.Path(__file__).parents[1]

# One run each, interrupted at all of these in turn: (signal, moment, step). 29 steps; checkpoints
# at 5, 10, 15, 20, 25 and 29, evaluations at 15 and 29.
CHAINS = {
    1: [
        ("SIGKILL", "dispatch", 3),  # before anything was saved
        ("SIGKILL", "saving", 5),  # while the first save is being written
        ("SIGKILL", "saved", 10),  # between a save and the next step
        ("SIGTERM", "dispatch", 12),  # at no step that is saved anyway
        ("SIGTERM", "evaluating", 15),  # the evaluation is cut short, and made on return
        ("SIGKILL", "recording", 20),  # half a line is left in metrics.jsonl
        ("SIGINT", "dispatch", 22),
        ("SIGTERM", "saving", 25),
        ("SIGKILL", "saving", 29),
        ("SIGKILL", "saved", 29),  # complete but for the plots
    ],
    4: [
        ("SIGKILL", "saved", 10),
        ("SIGTERM", "dispatch", 14),
        ("SIGKILL", "evaluating", 15),
        ("SIGKILL", "saving", 25),
    ],
}


def overrides(steps_per_dispatch):
    return {
        "steps_per_dispatch": steps_per_dispatch,
        "log_every_steps": 2,
        "evaluate.batch_size": 64,
    }


def assert_equal_states(actual, expected):
    actual, expected = (
        dict(jax.tree.leaves_with_path(jax.device_get(s))) for s in (actual, expected)
    )
    assert actual.keys() == expected.keys()
    for path, leaf in expected.items():
        np.testing.assert_array_equal(actual[path], leaf, err_msg=str(path), strict=True)


@pytest.mark.slow
@pytest.mark.parametrize("steps_per_dispatch", CHAINS)
def test_interrupted_runs_equal_the_uninterrupted_run(tmp_path, steps_per_dispatch, request):
    if steps_per_dispatch == 4:
        request.getfixturevalue("product_options")
    config = tiny_config(**overrides(steps_per_dispatch))
    expected = train_and_evaluate(config, tmp_path / "uninterrupted")
    workdir = tmp_path / "interrupted"
    environment = {**os.environ, "PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}"}
    for name, moment, step in CHAINS[steps_per_dispatch]:
        arguments = [workdir, json.dumps(overrides(steps_per_dispatch)), name, moment, step]
        done = subprocess.run(
            [sys.executable, TESTS / "train_lib" / "run_until.py", *map(str, arguments)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        expected_code = -signal.SIGKILL if name == "SIGKILL" else 75
        assert done.returncode == expected_code, (name, moment, step, done.stderr)
        if name != "SIGKILL":
            assert f"stopped by {name} at step" in done.stderr
    actual = train_and_evaluate(config, workdir)
    assert_equal_states(actual, expected)
    steps = [record["step"] for record in records(workdir)]
    assert steps == sorted(set(steps)) == [*range(2, 15, 2), 15, *range(16, 29, 2), 29]
    assert records(workdir) == records(tmp_path / "uninterrupted")


@pytest.fixture
def complete(finished_run, tmp_path):
    """(workdir, final state) of a complete run of `tiny_config()`."""
    workdir, state = finished_run
    return shutil.copytree(workdir, tmp_path / "run"), state


@pytest.mark.parametrize("devices", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_data_in_the_devices_memory_changes_nothing(tmp_path, monkeypatch, complete, devices):
    """In training, only the numbers of the examples go to the devices."""
    workdir, expected = complete
    if devices == 2:
        expected = train_and_evaluate(tiny_config(num_devices=2), tmp_path / "expected")
    shutil.rmtree(workdir)
    config = tiny_config(num_devices=devices)
    monkeypatch.setattr(parallel, "have_own_memory", lambda devices: True)
    scatter, seen = parallel.scatter, []
    monkeypatch.setattr(parallel, "scatter", lambda b, on: seen.append(set(b)) or scatter(b, on))
    actual = train_and_evaluate(config, workdir)
    assert {"index"} in seen
    assert {"image", "label"} not in seen
    assert_equal_states(actual, expected)


def test_a_complete_run_stays_unchanged(complete):
    workdir, first = complete
    before = (workdir / "metrics.jsonl").read_bytes()
    second = train_and_evaluate(tiny_config(), workdir)
    assert_equal_states(second, first)
    assert (workdir / "metrics.jsonl").read_bytes() == before


def test_another_config_is_refused_unless_the_flag_allows_it(tmp_path):
    train_and_evaluate(tiny_config(epochs=1.0), tmp_path)
    with pytest.raises(UserError, match=r"epochs: 1\.0 -> 2\.0.*--allow_config_change"):
        train_and_evaluate(tiny_config(epochs=2.0), tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["epochs"] == 1.0
    state = train_and_evaluate(tiny_config(epochs=2.0), tmp_path, allow_config_change=True)
    assert int(state.step) == 29
    assert json.loads((tmp_path / "config.json").read_text())["epochs"] == 2.0


def test_a_run_that_is_shortened_to_where_it_stands_is_evaluated(tmp_path, monkeypatch):
    """Step 10 is logged and saved, but no evaluation was planned there."""
    fields = {"log_every_steps": 5, "evaluate.every_epochs": 2.0, "checkpoint.every_epochs": 2.0}
    config = tiny_config(**fields)
    monkeypatch.setattr(recorder.Recorder, "is_stopping", lambda self: self._last["step"] >= 10)
    with pytest.raises(train.Stopped):
        train_and_evaluate(config, tmp_path)
    assert [r["step"] for r in records(tmp_path)] == [5, 10]
    monkeypatch.undo()
    config.steps = 10
    train_and_evaluate(config, tmp_path, allow_config_change=True)
    assert [r["step"] for r in records(tmp_path)] == [5, 10]
    assert "test/loss" in records(tmp_path)[-1]


def test_a_refused_resume_changes_no_file(complete):
    """The flag does not help; afterwards the run can still be resumed with its own config."""
    workdir, first = complete
    before = {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}
    for changed, message in (
        (tiny_config(epochs=1.0), "is at step 29, but this config ends at step 15"),
        (tiny_config(**{"model.subsampling": "max"}), "is of another model"),
        (tiny_config(**{"optimizer.weight_decay": 0.1}), "is of another optimizer: .opt_state"),
        (tiny_config(**{"optimizer.max_norm": 2.0}), "of another optimizer: it has other parts"),
    ):
        with pytest.raises(UserError, match=message):
            train_and_evaluate(changed, workdir, allow_config_change=True)
        assert {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()} == before
    assert_equal_states(train_and_evaluate(tiny_config(), workdir), first)


@pytest.mark.slow
def test_the_log_has_the_values_of_the_steps(tmp_path):
    """Logged training loss and error are means since the last multiple of log_every_steps."""
    fine = tiny_config(epochs=1.0, log_every_steps=1)
    fields = {"log_every_steps": 5, "steps_per_dispatch": 3, "evaluate.every_epochs": 0.5}
    coarse = tiny_config(epochs=1.0, **fields)
    train_and_evaluate(fine, tmp_path / "fine")
    train_and_evaluate(coarse, tmp_path / "coarse")
    by_step = {r["step"]: r for r in records(tmp_path / "fine")}
    assert list(by_step) == list(range(1, 16))
    assert [r["step"] for r in records(tmp_path / "coarse")] == [5, 8, 10, 15]
    for record in records(tmp_path / "coarse"):
        start = {5: 1, 8: 6, 10: 6, 15: 11}[record["step"]]
        window = [by_step[s] for s in range(start, record["step"] + 1)]
        for name in ("train/loss", "train/top1_error"):
            assert record[name] == pytest.approx(np.mean([r[name] for r in window]), rel=1e-4)
        assert record["train/learning_rate"] == by_step[record["step"]]["train/learning_rate"]


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    unbounded = {"model.activation": "relu", "model.output": "softmax", "loss.name": "softmax"}
    config = tiny_config(**unbounded, **{"schedule.learning_rate": 1e30})
    with pytest.raises(UserError, match=r"the loss is .* lower config\.schedule\.learning_rate"):
        train_and_evaluate(config, tmp_path / "one")
    assert len(checkpoints_of(tmp_path / "one")) == 0
    # The exact step within one call of several, and not a record of it or behind it.
    many = tiny_config(**unbounded, **{"schedule.learning_rate": 1e30, "log_every_steps": 1})
    many.steps_per_dispatch = 5
    with pytest.raises(UserError) as error:
        train_and_evaluate(many, tmp_path / "many")
    actual = [record["step"] for record in records(tmp_path / "many")]
    assert f"at step {len(actual) + 1}:" in str(error.value)
    assert actual == list(range(1, len(actual) + 1))
    for record in [*records(tmp_path / "one"), *records(tmp_path / "many")]:
        assert np.isfinite(list(record.values())).all()


def test_parameters_that_are_not_finite_are_not_saved(tmp_path, monkeypatch):
    """The update before a save overflows: its loss is finite, but the next one would not be."""
    step_of, saved_at = train.several, 5

    def overflowing(step):
        def broken(state, batch):
            state, record = step(state, batch)
            kernel = state.params["c1"]["kernel"]
            bad = jnp.where(state.step == 2 * saved_at, jnp.inf, 1.0)
            params = {**state.params, "c1": {**state.params["c1"], "kernel": kernel * bad}}
            return state.replace(params=params), record

        return step_of(broken)

    monkeypatch.setattr(train, "several", overflowing)
    with pytest.raises(UserError, match=r"c1/kernel is not finite after step 10: lower.*now 0\."):
        train_and_evaluate(tiny_config(), tmp_path)
    assert checkpoints_of(tmp_path) == [saved_at]


def test_a_folder_that_disappears_is_one_line(tmp_path, monkeypatch):
    workdir, make = tmp_path / "run", batches.train_batches

    def train_batches(split, order, first, *rest):
        if first == 7:
            shutil.rmtree(workdir)
        return make(split, order, first, *rest)

    monkeypatch.setattr(batches, "train_batches", train_batches)
    with pytest.raises(UserError, match=rf"{workdir}.* check the folder") as error:
        train_and_evaluate(tiny_config(), workdir)
    assert "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_a_limit_on_the_size_of_files_is_one_line_and_loses_nothing(tmp_path, product_options):
    """A real error of the system, in the thread that saves."""
    import resource

    limited = tmp_path / "limited"
    command = [sys.executable, "-m", "tests.stress.runs", str(limited)]
    done = subprocess.run(
        command,
        cwd=TESTS.parent,
        env={**os.environ, "XLA_FLAGS": ""},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    last = done.stderr.splitlines()[-1]
    assert str(limited) in last and "too large" in last, last
    assert "Traceback" not in done.stderr
    assert runs.finish(limited).differences(runs.finish(tmp_path / "uninterrupted")) == []


def checkpoints_of(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())
