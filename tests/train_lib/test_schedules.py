"""Schedules, and the rules that depend on errors, against closed forms and transcriptions."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import googlenet, lenet5, maxout, resnet, resnet_cifar10
from configs.schema import base, choices
from train_lib import optimizers, schedules


def section(part, /, **values):
    part = base()[part]
    part.update(values)
    return part


def rates(schedule, steps):
    return [float(schedule(jnp.int32(step))) for step in steps]


def test_cosine_schedule():
    schedule = schedules.make_schedule(
        section("schedule", name="cosine", learning_rate=0.2), 10, 40
    )
    assert rates(schedule, (0, 20, 40)) == pytest.approx([0.2, 0.1, 0.0], abs=1e-8)
    warm = section("schedule", name="cosine", learning_rate=0.2, warmup_epochs=1.0)
    schedule = schedules.make_schedule(warm, 10, 50)
    assert rates(schedule, (0, 5, 10, 30, 50)) == pytest.approx([0, 0.1, 0.2, 0.1, 0], abs=1e-8)


def test_steps_schedule_changes_at_the_epochs_boundaries():
    schedule = schedules.make_schedule(
        section("schedule", name="steps", learning_rate=1.0, boundaries=(2, 5), factors=(0.4, 0.2)),
        10,
        100,
    )
    actual = rates(schedule, (0, 19, 20, 49, 50, 99))
    assert actual == pytest.approx([1, 1, 0.4, 0.4, 0.2, 0.2])


def test_warmup_is_linear_and_keeps_the_boundaries():
    schedule = schedules.make_schedule(
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
    actual = rates(schedule, (0, 5, 10, 29, 30))
    assert actual == pytest.approx([0, 0.25, 0.5, 0.5, 0.05])


def test_googlenets_rate_falls_by_four_percent_every_eight_epochs():
    # ImageNet in batches of 32: 40,036.47 steps an epoch, the first fall at step 320,292.
    schedule = schedules.make_schedule(
        section("schedule", name="exponential", learning_rate=0.01, decay=0.96, decay_epochs=8.0),
        1_281_167 / 32,
        2_402_189,
    )
    actual = rates(schedule, (0, 320_291, 320_292, 640_583, 640_584, 2_402_188))
    expected = [0.01 * 0.96**n for n in (0, 0, 1, 1, 2, 7)]
    assert actual == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("rate", "factor"), [(0.1, 1.000004), (0.05, 1.00004)])
def test_maxouts_rate_falls_at_every_update_to_a_floor(rate, factor):
    schedule = schedules.make_schedule(
        section("schedule", name="exponential", learning_rate=rate, decay=1 / factor, minimum=1e-6),
        600,
        1,
    )
    # As the authors' code: divided by factor ** updates, in float64.
    updates = np.array([0, 1, 1000, 100_000, 480_000, 5_000_000])
    expected = np.maximum(rate / factor ** updates.astype(np.float64), 1e-6)
    # 1 / 1.000004 rounded to float32 would be off by a percent after 480,000.
    assert rates(schedule, updates) == pytest.approx(expected, rel=1e-5)
    assert expected[-1] == 1e-6


def test_maxouts_linear_rate():
    # 0.17 to a hundredth of it over 500 epochs, where it stays.
    schedule = schedules.make_schedule(
        section("schedule", name="linear", learning_rate=0.17, decay=0.01, decay_epochs=500.0),
        390.625,
        1,
    )
    half = 250 * 390.625
    assert rates(schedule, (0, half, 2 * half, 3 * half)) == pytest.approx(
        [0.17, 0.17 * 0.505, 0.0017, 0.0017], rel=1e-5
    )


def test_momentum_ramp():
    # Maxout: 0.5 to 0.7 over 250 epochs.
    values = {"momentum": 0.5, "momentum_end": 0.7, "momentum_epochs": 250.0}
    momentum = schedules.make_momentum(section("optimizer", **values), 600)
    actual = rates(momentum, (0, 75_000, 150_000, 400_000))
    assert actual == pytest.approx([0.5, 0.6, 0.7, 0.7])
    assert schedules.make_momentum(section("optimizer"), 600) is None


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [
        (0.0, {0: 1, 7: 1, 1000: 1}),
        (4.0, {0: 1, 10: 0.75, 20: 0.5, 39: 0.025, 40: 0, 41: 0, 1000: 0}),
        (0.5, {0: 1, 1: 0.8, 5: 0}),
    ],
)
def test_annealed_drop_scale(epochs, expected):
    # Rennie 2014: linearly to no dropping, and none from there on. Ten steps an epoch.
    schedule = schedules.make_drop_scale(section("schedule", drop_anneal_epochs=epochs), 10)
    for step, scale in expected.items():
        assert float(schedule(step)) == pytest.approx(scale, abs=1e-6)


# The plateau rule and the warm-up by error

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
    rate = schedules.Rate(optax.constant_schedule(rate), **rules)
    return rate, optimizers.make_optimizer(section, rate)


@pytest.mark.parametrize("form", choices("optimizer.momentum_form"))
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
        assert float(schedules.current_rate(state)) == factor
        state = rate.observe(state, error, step)
        again = rate.observe(state, error, step)
        jax.tree.map(np.testing.assert_array_equal, again, state)
        factor = 0.5**fallen
    assert fallen == 2


def test_without_the_plateau_rule_an_evaluation_changes_nothing():
    rate, optimizer = make("caffe")
    state = optimizer.init(jnp.zeros(3))
    assert rate.observe(state, 0.5, 1) is state


def test_the_warmup_ends_once_the_training_error_is_low():
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
        assert float(schedules.current_rate(state)) == pytest.approx(expected)
        assert float(updates) == pytest.approx(-expected)
    assert ended is not None and 120 < ended < 200
    assert mean > 0.8  # so it is the memory of it that counts


def test_a_config_enables_the_rules():
    section = base().schedule
    plain = schedules.make_rate(section, 10, 100)
    assert plain.plateau is None and plain.warmup is None
    section.update(name="plateau", learning_rate=0.25, warmup_rate=0.01, warmup_error=0.8)
    section.plateau.patience = 7
    rate = schedules.make_rate(section, 10, 100)
    assert rate.plateau == {"factor": 0.1, "patience": 7, "min_improvement": 0.001, "drops": 3}
    assert rate.warmup == (0.01, 0.8)
    assert float(rate.schedule(50)) == 0.25


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (lenet5.get_config(), "0.001, cosine"),
        (
            resnet_cifar10.get_config("110"),
            "0.01 until the training error is below 80%, then 0.1, steps: 0.01 from epoch 81.92,"
            " 0.001 from epoch 122.88",
        ),
        (googlenet.get_config(), "0.01, exponential: times 0.96 every 8 epochs"),
        (maxout.get_config("cifar10"), "0.17, linear: to 0.0017 in 500 epochs"),
        (
            resnet.get_config(),
            "0.1, plateau: times 0.1 after 5 evaluations without improvement, at most 3 times",
        ),
    ],
)
def test_the_rate_is_described_with_its_changes(config, expected):
    assert schedules.describe(config.schedule) == expected


def test_rates_are_those_of_the_batch_size():
    config = resnet_cifar10.get_config("20")
    config.schedule.warmup_epochs = 5.0
    expected = "from 0 in 5 epochs to 0.05, steps: 0.005 from epoch 81.92, 0.0005 from epoch 122.88"
    assert schedules.describe(config.schedule, 0.5) == expected
