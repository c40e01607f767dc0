"""Losses and gradients that are not finite: stop, skip, or roll back at exactly that step."""

import dataclasses
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.mlp import get_config
from errors import UserError
from input_pipeline import batches
from train_lib import losses, recorder, schedules, train
from train_lib.train import train_and_evaluate


def config(**overrides):
    actual = get_config("10")
    actual.update_from_flattened_dict(
        {
            "dataset.name": "digits",
            "batch_size": 100,
            "epochs": 2.0,
            "num_devices": 1,
            "log_every_steps": 1,
            "steps_per_dispatch": 3,
            "schedule.name": "constant",
            "schedule.learning_rate": 0.05,
            "checkpoint.every_steps": 5,
            **overrides,
        }
    )
    return actual


@pytest.fixture(autouse=True)
def no_plots(monkeypatch):
    monkeypatch.setattr(train, "finish", lambda *_: None)


@jax.custom_vjp
def no_gradient(x, bad):
    return x


no_gradient.defvjp(
    lambda x, bad: (x, bad), lambda bad, g: (jnp.where(bad, jnp.nan, g), jnp.zeros_like(bad))
)


def poison(monkeypatch, *steps, gradient=False):
    """Makes the loss, or only its gradient, NaN in these steps. All their labels are 0."""
    make_batch, make_loss = batches.train_batches, losses.make_loss

    def train_batches(split, order, first, count):
        batch = make_batch(split, order, first, count)
        for step in steps:
            if first < step <= first + count:
                batch["label"] = batch["label"].copy()
                batch["label"][:, step - first - 1] = 0
        return batch

    def nan_loss(section):
        plain = make_loss(section)

        def loss(logits, labels):
            bad = (labels == 0).all() & (len(labels) == 100)
            if gradient:
                return plain(no_gradient(logits, bad.astype(jnp.float32)), labels)
            return jnp.where(bad, jnp.nan, plain(logits, labels))

        return dataclasses.replace(plain, per_example=loss)

    monkeypatch.setattr(batches, "train_batches", train_batches)
    monkeypatch.setattr("train_lib.experiment.losses.make_loss", nan_loss)


def steps_of(workdir):
    return [record["step"] for record in recorder.read(workdir)]


def saved(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


def test_a_loss_that_is_not_finite_stops_the_run_at_its_step(tmp_path, monkeypatch):
    poison(monkeypatch, 8)
    with pytest.raises(UserError) as error:
        train_and_evaluate(config(), tmp_path)
    assert str(error.value).startswith(
        "the loss is nan at step 8: lower config.schedule.learning_rate (now 0.05), or"
    )
    assert steps_of(tmp_path) == list(range(1, 8))
    assert saved(tmp_path) == [5]


def test_a_gradient_that_is_not_finite_stops_the_run_at_its_step(tmp_path, monkeypatch):
    poison(monkeypatch, 4, gradient=True)
    with pytest.raises(UserError, match=r"^the gradient of h1/bias is not finite at step 4: "):
        train_and_evaluate(config(), tmp_path)
    assert steps_of(tmp_path) == [1, 2, 3]


@pytest.mark.slow
def test_skipped_updates_change_nothing_and_are_counted(tmp_path, monkeypatch):
    """Like a step with a gradient of zero and no momentum; also when the run is resumed."""
    fields = {"not_finite.action": "skip", "not_finite.limit": 2, "optimizer.momentum": 0.0}
    poison(monkeypatch, 4, 11)
    whole = jax.device_get(train_and_evaluate(config(**fields), tmp_path / "whole"))
    assert (int(whole.step), int(whole.skipped)) == (29, 2)
    records = {record["step"]: record for record in recorder.read(tmp_path / "whole")}
    assert sorted(records) == list(range(1, 30))
    assert "train/loss" not in records[4] and "train/loss" in records[5]
    assert all(np.isfinite(list(record.values())).all() for record in records.values())
    # Resumed between the two: the count continues.
    assert saved(tmp_path / "whole")[-3:] == [20, 25, 29]
    fewer = config(**fields | {"not_finite.limit": 1})
    with pytest.raises(UserError, match="2 updates were not finite, the last at step 11: lower"):
        train_and_evaluate(fewer, tmp_path / "fewer")
    again = train_and_evaluate(config(**fields), tmp_path / "fewer", allow_config_change=True)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(again), whole)


def test_a_skipped_update_leaves_parameters_and_velocity_alone(tmp_path, monkeypatch):
    fields = {"not_finite.action": "skip", "checkpoint.every_steps": 1, "checkpoint.keep": 100}
    poison(monkeypatch, 7, gradient=True)
    train_and_evaluate(config(**fields, epochs=0.6), tmp_path)
    states = {}
    for step in (6, 7, 8):
        checkpoints = train.Checkpoints(tmp_path, read_only=True)
        states[step] = _arrays(checkpoints, step)
    for name, leaf in states[6].items():
        changed = not np.array_equal(leaf, states[7][name])
        is_counter = leaf.dtype.kind == "i" and "rolled_back" not in name
        assert changed == (is_counter or "window" in name), name
    assert any(not np.array_equal(leaf, states[8][n]) for n, leaf in states[7].items())


def _arrays(checkpoints, step):
    import orbax.checkpoint as ocp

    state = checkpoints._manager.restore(
        step, args=ocp.args.Composite(state=ocp.args.StandardRestore())
    ).state
    return {jax.tree_util.keystr(path): v for path, v in jax.tree.leaves_with_path(state)}


def test_roll_backs_lower_the_rate_until_training_succeeds(tmp_path, monkeypatch, capsys):
    """The rate is too high for any network; about a thousandth of it is not."""
    fields = {"not_finite.action": "roll_back", "not_finite.rate_factor": 0.001}
    high = {"schedule.learning_rate": 1e30, "not_finite.limit": 9, "model.activation": "relu"}
    state = train_and_evaluate(config(**fields, **high), tmp_path / "run")
    times = schedules.roll_backs(state.opt_state)
    assert times >= 2
    message = capsys.readouterr().err
    assert "going back to step 0, with 0.001 of the rate (1 of at most 9 times)" in message
    assert message.count("going back") == times
    records = recorder.read(tmp_path / "run")
    assert [record["step"] for record in records] == list(range(1, 30))
    for record in records:
        assert record["train/learning_rate"] == pytest.approx(1e30 * 0.001**times, rel=1e-5)
    json.dumps(records, allow_nan=False)
    with pytest.raises(UserError, match=r"lower config\.schedule"):
        train_and_evaluate(
            config(**fields, **high | {"not_finite.limit": times - 1}), tmp_path / "less"
        )
    capsys.readouterr()
    poison(monkeypatch, 35)  # a resumed run counts on
    with pytest.raises(UserError, match="the loss is nan at step 35"):
        longer = config(**fields, **high, epochs=3.0)
        train_and_evaluate(longer, tmp_path / "run", allow_config_change=True)
    assert f"({times + 1} of at most 9 times)" in capsys.readouterr().err


def test_a_roll_back_starts_from_the_last_checkpoint(tmp_path, monkeypatch, capsys):
    poison(monkeypatch, 8)
    fields = {"not_finite.action": "roll_back", "not_finite.limit": 2}
    with pytest.raises(UserError, match="the loss is nan at step 8"):
        train_and_evaluate(config(**fields), tmp_path)
    message = capsys.readouterr().err
    assert message.count("going back to step 5") == 2
    assert steps_of(tmp_path) == list(range(1, 8))
    actual = {r["step"]: r["train/learning_rate"] for r in recorder.read(tmp_path)}
    assert actual[5] == pytest.approx(0.05)
    assert actual[6] == pytest.approx(0.0125)


@pytest.mark.parametrize("leaf, value", [("mean", np.nan), ("var", np.inf), ("var", -1.0)])
def test_statistics_that_no_network_has_stop_the_run(leaf, value):
    """A training step does not use them, so its loss does not show them."""
    statistics = {"mean": jnp.zeros(2), "var": jnp.ones(2)}
    statistics[leaf] = statistics[leaf].at[1].set(value)
    state = types.SimpleNamespace(
        params={"h1": {"bias": jnp.zeros(2)}}, model_state={"batch_stats": {"bn1": statistics}}
    )
    with pytest.raises(recorder.NotFinite, match=rf"^bn1/{leaf} is not finite .*after step 7: "):
        recorder.Recorder._check_variables(None, 7, {"rate": 0.05}, state)


def test_a_test_loss_that_is_not_finite_stops_the_run(tmp_path, monkeypatch):
    evaluate = recorder.evaluate

    def evaluate_badly(exp, state, *arguments):
        result = evaluate(exp, state, *arguments)
        return dataclasses.replace(result, loss=np.nan) if int(state.step) == 29 else result

    monkeypatch.setattr(recorder, "evaluate", evaluate_badly)
    with pytest.raises(recorder.NotFinite, match=r"^the test loss is nan after step 29: lower"):
        train_and_evaluate(config(), tmp_path)
    assert steps_of(tmp_path) == list(range(1, 29))
    assert saved(tmp_path)[-1] == 25
