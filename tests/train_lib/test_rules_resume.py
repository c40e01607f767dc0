"""A run whose rate depends on its errors, interrupted between an evaluation and its save.

Its updates also depend on second derivatives, which are estimated at steps 0 and 15.
"""

import os
import signal

import jax
import numpy as np
import pytest

from configs.mlp import get_config
from input_pipeline import batches
from tests.stress.runs import beginnings, records
from train_lib import checkpoints, recorder, train
from train_lib.train import train_and_evaluate

# 18 steps; tests after 3, 6, 9, 12, 15 and 18, saves after 4, 8, 12, 15, 16 and 18. Deaths are
# exceptions in this process: what a process leaves half written is the subject of test_resume.
INTERRUPTIONS = [
    ("die", "recorded", 3),  # before anything was saved
    ("SIGTERM", "evaluating", 6),  # the test is cut short, and the state saved without it
    ("die", "recorded", 6),  # its record is there now, and the state is still the one without it
    ("die", "dispatch", 7),  # no save is due at 6
    ("SIGTERM", "evaluated", 9),  # between the test and the save that the signal asks for
    ("die", "evaluated", 12),  # between the test and its record
    ("die", "recorded", 12),  # between the record and the save
    ("SIGTERM", "dispatch", 13),
    ("SIGTERM", "evaluating", 15),  # saved without its test
    ("die", "recorded", 15),
    ("die", "dispatch", 16),  # saved again, with the error that the record has
]
# Where each goes on: the newest checkpoint before it.
BEGINNINGS = [0, 0, 6, 6, 6, 9, 9, 9, 13, 15, 15, 15]


class Death(BaseException):
    pass


def config_of_rules():
    """All rules with a state. No evaluation is ten times better than the one before."""
    config = get_config("30")
    config.update_from_flattened_dict(
        {
            "dataset.name": "digits",
            "batch_size": 100,
            "epochs": 1.2,
            "num_devices": 1,
            "log_every_steps": 1,
            "steps_per_dispatch": 1,
            "evaluate.every_epochs": 0.2,
            "checkpoint.every_steps": 4,
            "optimizer.momentum_end": 0.95,
            "optimizer.momentum_epochs": 1.0,
            "optimizer.momentum_form": "caffe",
            "optimizer.averaging": 0.8,
            "optimizer.curvature_examples": 100,
            "optimizer.mu": 1.0,
            "schedule.name": "plateau",
            "schedule.learning_rate": 0.2,
            "schedule.warmup_rate": 0.01,
            "schedule.warmup_error": 0.99,
            "schedule.plateau.factor": 0.5,
            "schedule.plateau.patience": 1,
            "schedule.plateau.min_improvement": 0.9,
            "schedule.plateau.drops": 2,
        }
    )
    return config


def run(workdir):
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(train, "finish", lambda *_: None)  # the plots take seconds
        return train_and_evaluate(config_of_rules(), workdir)


def interrupt(monkeypatch, how, moment, step):
    def now():
        if how == "die":
            raise Death
        os.kill(os.getpid(), getattr(signal, how))

    evaluate, write = recorder.evaluate, recorder.Writer.write
    save, make = checkpoints.Checkpoints.save, batches.train_batches

    def evaluate_and(exp, state, *rest):
        at = int(state.step) == step
        if at and moment == "evaluating":
            now()
        result = evaluate(exp, state, *rest)
        if at and moment == "evaluated":
            now()
        return result

    def write_and(self, record):
        write(self, record)
        if record["step"] == step and moment == "recorded":
            now()

    def save_and(self, at, *rest):
        save(self, at, *rest)
        if at == step and moment == "saved":
            self.wait()
            now()

    def batches_and(split, order, first, *rest):
        if first >= step and moment == "dispatch":
            now()
        return make(split, order, first, *rest)

    monkeypatch.setattr(recorder, "evaluate", evaluate_and)
    monkeypatch.setattr(recorder.Writer, "write", write_and)
    monkeypatch.setattr(checkpoints.Checkpoints, "save", save_and)
    monkeypatch.setattr(batches, "train_batches", batches_and)


def best_of(workdir):
    return checkpoints.Checkpoints(workdir, read_only=True).best_step()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted")
    return jax.device_get(run(workdir)), records(workdir), best_of(workdir)


def test_the_logged_rate_follows_the_rules(uninterrupted):
    _, lines, _ = uninterrupted
    assert [line["step"] for line in lines] == list(range(1, 19))
    error, over, tests, seen = 1.0, False, 0, set()
    for line in lines:
        error = 0.98 * error + 0.02 * line["train/top1_error"]
        over = over or error < 0.99
        # The first test is the best so far; each later one lowers the rate, two in all.
        rate = 0.2 * 0.5 ** min(2, max(0, tests - 1)) if over else 0.01
        assert line["train/learning_rate"] == pytest.approx(rate, rel=1e-6), line["step"]
        tests += "test/top1_error" in line
        seen.add(rate)
    assert seen == {0.01, 0.2, 0.1, 0.05}
    assert tests == 6


def test_an_interrupted_run_equals_the_uninterrupted_run(tmp_path, uninterrupted):
    with beginnings() as began:
        for interruption in INTERRUPTIONS:
            with pytest.MonkeyPatch.context() as monkeypatch:
                interrupt(monkeypatch, *interruption)
                with pytest.raises((Death, train.Stopped)):
                    run(tmp_path)
        assert checkpoints.Checkpoints(tmp_path, read_only=True).holds(15, scored=True)
        actual = jax.device_get(run(tmp_path))
    state, lines, best = uninterrupted
    jax.tree.map(np.testing.assert_array_equal, actual, state)
    assert records(tmp_path) == lines
    assert best_of(tmp_path) == best
    assert began == BEGINNINGS
