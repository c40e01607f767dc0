"""Schedules against closed forms and transcriptions."""

import jax.numpy as jnp
import numpy as np
import pytest

from configs.common import base
from train_lib import schedules


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
    found = rates(schedule, (0, 19, 20, 49, 50, 99))
    assert found == pytest.approx([1, 1, 0.4, 0.4, 0.2, 0.2])


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
    found = rates(schedule, (0, 5, 10, 29, 30))
    assert found == pytest.approx([0, 0.25, 0.5, 0.5, 0.05])


def test_googlenets_rate_falls_by_four_percent_every_eight_epochs():
    # ImageNet in batches of 32: 40,036.47 steps an epoch, the first fall at step 320,292.
    schedule = schedules.make_schedule(
        section("schedule", name="exponential", learning_rate=0.01, decay=0.96, decay_epochs=8.0),
        1_281_167 / 32,
        2_402_189,
    )
    found = rates(schedule, (0, 320_291, 320_292, 640_583, 640_584, 2_402_188))
    expected = [0.01 * 0.96**n for n in (0, 0, 1, 1, 2, 7)]
    assert found == pytest.approx(expected, rel=1e-6)


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
    found = rates(momentum, (0, 75_000, 150_000, 400_000))
    assert found == pytest.approx([0.5, 0.6, 0.7, 0.7])
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
