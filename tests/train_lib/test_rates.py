"""The plateau rule and the warm-up by error against plain transcriptions."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs.common import base
from train_lib import optimizers, rates

PLATEAU = {"factor": 0.5, "patience": 2, "min_improvement": 0.1, "drops": 2}
# Evaluations, and how often the rate has fallen after each.
ERRORS = [
    (0.9, 0),
    (0.82, 0),  # not a tenth lower: the first without an improvement
    (0.8, 0),  # below 0.81
    (0.72, 0),  # as low as 0.8 less a tenth is not below it (in float32): 1
    (0.85, 1),  # 2: falls
    (0.71, 1),  # below
    (0.71, 1),  # the same again: 1
    (0.70, 2),  # 2: falls
    (0.70, 2),
    (0.70, 2),  # at most twice
    (0.1, 2),
]


def make(form, rate=1.0, momentum=0.5, **rules):
    section = base().optimizer
    section.update(momentum=momentum, momentum_form=form)
    rate = rates.Rate(optax.constant_schedule(rate), **rules)
    return rate, optimizers.make_optimizer(section, rate)


@pytest.mark.parametrize("form", optimizers.MOMENTUM_FORMS)
def test_the_rate_falls_when_the_error_stops_improving(form):
    rate, optimizer = make(form, plateau=PLATEAU)
    w = jnp.zeros(3)
    state = optimizer.init(w)
    weights, velocity, factor = np.zeros(3), np.zeros(3), 1.0
    rng = np.random.default_rng(0)
    update = jax.jit(optimizer.update)
    for step, (error, fallen) in enumerate(ERRORS, 1):
        gradient = rng.normal(size=3).astype(np.float32)
        updates, state = update(gradient, state, w)
        w = optax.apply_updates(w, updates)
        if form == "caffe":  # the rate is inside the velocity
            velocity = 0.5 * velocity - factor * gradient
            weights = weights + velocity
        else:
            velocity = 0.5 * velocity + gradient
            weights = weights - factor * velocity
        np.testing.assert_allclose(w, weights, rtol=1e-5, atol=1e-6)
        assert float(rates.current(state)) == factor
        state = rate.observe(state, error, step)
        again = rate.observe(state, error, step)
        jax.tree.map(np.testing.assert_array_equal, again, state)
        factor = 0.5**fallen
    assert fallen == 2


def test_without_the_rule_nothing_is_observed():
    rate, optimizer = make("caffe")
    state = optimizer.init(jnp.zeros(3))
    assert rate.observe(state, 0.5, 1) is state


def test_the_warmup_ends_for_good_when_the_training_error_was_low():
    """He 2015, sec. 4.2: 0.01 until the training error is below 80 %."""
    _, optimizer = make("pytorch", 0.1, momentum=0.0, warmup=(0.01, 0.8))
    w = jnp.zeros(())
    state = optimizer.init(w)
    update = jax.jit(optimizer.update)
    rng = np.random.default_rng(0)
    # A net that learns, a lucky first batch, and a bad time after the warm-up.
    errors = np.clip(np.linspace(0.9, 0.6, 300) + 0.03 * rng.normal(size=300), 0, 1)
    errors[0], errors[200:] = 0.5, 1.0
    mean, over, ended = 1.0, False, None
    for step, error in enumerate(errors):
        mean = 0.98 * mean + 0.02 * error
        if mean < 0.8 and not over:
            over, ended = True, step
        updates, state = update(jnp.ones(()), state, w, train_error=jnp.float32(error))
        expected = 0.1 if over else 0.01
        assert float(rates.current(state)) == pytest.approx(expected)
        assert float(updates) == pytest.approx(-expected)
    assert ended is not None and 120 < ended < 200
    assert mean > 0.8  # so it is the memory of it that counts


def test_a_config_switches_the_rules_on():
    section = base().schedule
    plain = rates.make_rate(section, 10, 100)
    assert plain.plateau is None and plain.warmup is None
    section.update(name="plateau", learning_rate=0.25, warmup_rate=0.01, warmup_error=0.8)
    section.plateau.patience = 7
    rate = rates.make_rate(section, 10, 100)
    assert rate.plateau == {"factor": 0.1, "patience": 7, "min_improvement": 0.001, "drops": 3}
    assert rate.warmup == (0.01, 0.8)
    assert float(rate.schedule(50)) == 0.25
