"""Optimizers and schedules against NumPy and closed forms."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs.common import base
from train_lib import optimizers


def section(part, /, **values):
    part = base()[part]
    part.update(values)
    return part


@pytest.mark.parametrize("form", optimizers.MOMENTUM_FORMS)
@pytest.mark.parametrize("decayed", optimizers.DECAYED)
def test_sgd_equals_numpy_across_a_change_of_rate(form, decayed):
    rates = [0.1, 0.1, 0.01, 0.01, 0.01]
    momentum, decay = 0.9, 0.05
    optimizer = optimizers.make_optimizer(
        section(
            "optimizer",
            momentum=momentum,
            momentum_form=form,
            weight_decay=decay,
            decayed=decayed,
        ),
        lambda step: jnp.asarray(rates)[step],
    )
    rng = np.random.default_rng(0)
    params = {"c1": {"kernel": rng.normal(size=(2, 3)), "bias": rng.normal(size=3)}}
    params = {"c1": {k: v.astype(np.float32) for k, v in params["c1"].items()}}
    ours, state = params, optimizer.init(params)
    numpy = {k: v.astype(np.float64) for k, v in params["c1"].items()}
    velocity = {k: np.zeros_like(v) for k, v in numpy.items()}
    for rate in rates:
        gradient = {k: rng.normal(size=v.shape).astype(np.float32) for k, v in numpy.items()}
        updates, state = optimizer.update({"c1": gradient}, state, ours)
        ours = optax.apply_updates(ours, updates)
        for k in numpy:
            decays = decayed == "all" or k == "kernel"
            g = gradient[k] + (decay if decays else 0) * numpy[k]
            if form == "pytorch":
                velocity[k] = momentum * velocity[k] + g
                numpy[k] = numpy[k] - rate * velocity[k]
            else:  # Krizhevsky 2012, sec. 5
                velocity[k] = momentum * velocity[k] - rate * g
                numpy[k] = numpy[k] + velocity[k]
    for k, expected in numpy.items():
        np.testing.assert_allclose(ours["c1"][k], expected, rtol=1e-5)


def test_cosine_schedule():
    schedule = optimizers.make_schedule(
        section("schedule", name="cosine", learning_rate=0.2), 10, 40
    )
    assert [float(schedule(s)) for s in (0, 20, 40)] == pytest.approx([0.2, 0.1, 0.0], abs=1e-8)


def test_steps_schedule_changes_at_the_epochs_boundaries():
    schedule = optimizers.make_schedule(
        section("schedule", name="steps", learning_rate=1.0, boundaries=(2, 5), factors=(0.4, 0.2)),
        10,
        100,
    )
    found = [float(schedule(s)) for s in (0, 19, 20, 49, 50, 99)]
    assert found == pytest.approx([1, 1, 0.4, 0.4, 0.2, 0.2])


def test_warmup_is_linear_and_keeps_the_boundaries():
    schedule = optimizers.make_schedule(
        section(
            "schedule",
            name="steps",
            learning_rate=0.5,
            warmup_epochs=1.0,
            boundaries=(3,),
            factors=(0.1,),
        ),
        10,
        50,
    )
    found = [float(schedule(s)) for s in (0, 5, 10, 29, 30)]
    assert found == pytest.approx([0, 0.25, 0.5, 0.5, 0.05])
