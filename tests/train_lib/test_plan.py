"""The steps at which a run evaluates, saves and ends."""

import pytest
from conftest import tiny_config

from errors import UserError
from train_lib.plan import make_plan


def test_plan_of_steps():
    # 1,442 examples in batches of 100 are 14.42 steps an epoch; two epochs end in step 29.
    plan = make_plan(tiny_config(steps_per_dispatch=4), 1442)
    assert plan.total_steps == 29
    assert sorted(plan.evaluate_at) == [15, 29]
    assert sorted(plan.save_at) == [5, 10, 15, 20, 25, 29]
    step, dispatches = 0, []
    while step < plan.total_steps:
        dispatches.append(plan.dispatch(step))
        step += dispatches[-1]
    assert step == 29
    assert dispatches == [4, 1] * 5 + [4]
    assert plan.epoch(29) == pytest.approx(2.011, abs=1e-3)


def test_a_length_in_steps_replaces_the_epochs():
    """All other durations stay in epochs of 14.42 steps."""
    plan = make_plan(tiny_config(steps=40), 1442)
    assert (plan.total_steps, plan.epochs) == (40, pytest.approx(40 / 14.42))
    assert sorted(plan.evaluate_at) == [15, 29, 40]
    plan = make_plan(tiny_config(steps=7), 1442)  # shorter than an epoch
    assert sorted(plan.evaluate_at) == [7]
    assert sorted(plan.save_at) == [5, 7]
    fields = {"steps": 14, "epochs": 9.0, "schedule.warmup_epochs": 1.0}
    with pytest.raises(UserError, match=r"warmup_epochs=1.0: must be less than config.steps=14"):
        make_plan(tiny_config(**fields), 1442)
    assert make_plan(tiny_config(**fields | {"steps": 15}), 1442).total_steps == 15


def test_rounding_adds_no_step():
    # 30 * (50000 / 96) is 15625.000000000002.
    config = tiny_config(batch_size=96, epochs=30.0)
    plan = make_plan(config, 50_000)
    assert plan.total_steps == 15_625
    assert max(plan.evaluate_at) == max(plan.save_at) == 15_625
    assert max(plan.evaluate_at - {15_625}) < 15_600


def test_overrides_leave_no_stale_value():
    plan = make_plan(tiny_config(batch_size=721, epochs=4.0), 1442)
    assert plan.total_steps == 8
    assert sorted(plan.evaluate_at) == [2, 4, 6, 8]
