"""Validation, differences and the plan of steps."""

import importlib
import json
import re

import pytest
from conftest import tiny_config

from configs import maxout
from errors import UserError
from input_pipeline import augment, transform
from train_lib import config as config_lib
from train_lib import losses, plans, schedules


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("batch_size", 0, "config.batch_size=0: must be 1 or more"),
        ("epochs", -1.0, "config.epochs=-1.0: must be more than 0"),
        ("schedule.learning_rate", float("nan"), "config.schedule.learning_rate=nan"),
        ("schedule.name", "cosin", "choose one of constant, cosine, steps"),
        ("loss.name", "softmax", "set config.loss.name to map or mse"),
        ("model.output", "softmax", "set config.loss.name to softmax"),
        ("loss.j", 0.0, "config.loss.j=0.0"),
        ("schedule.boundaries", (3, 2), "same length"),
        ("schedule.warmup_epochs", 5.0, "must be less than config.epochs"),
        ("optimizer.momentum", 1.0, "config.optimizer.momentum=1.0"),
        ("optimizer.averaging", 1.0, "config.optimizer.averaging=1.0: must be in 0 .. less than 1"),
        ("optimizer.momentum_end", 0.7, "momentum_end=0.7 and .momentum_epochs=0.0: one needs"),
        ("optimizer.layer_rates", {"c1": -1.0}, "config.optimizer.layer_rates.c1=-1.0: must be 0"),
        ("optimizer.layer_decays", {"c1": -1.0}, "config.optimizer.layer_decays.c1=-1.0: must be"),
        ("optimizer.max_norms", {"c1": 0.0}, "config.optimizer.max_norms.c1=0.0: must be more"),
        ("schedule.name", "steps", "name=steps: without config.schedule.boundaries"),
        ("augment.crop", True, "config.augment.crop=True places config.preprocess.crop at random"),
        ("schedule.name", "exponential", "config.schedule.decay=1: must be less"),
        ("schedule.decay", 0.0, "config.schedule.decay=0.0: must be in more than 0 .. 1"),
        ("schedule.warmup_error", 0.8, "warmup_rate=0.0 and .warmup_error=0.8: one needs"),
        ("schedule.plateau.factor", 1.0, "config.schedule.plateau.factor=1.0"),
        ("schedule.plateau.patience", 0, "config.schedule.plateau.patience=0: must be 1 or more"),
        ("init_layers", ("c1/*",), "config.init_layers needs config.init_from"),
        ("seed", -1, "config.seed=-1"),
        ("preprocess.mean", "image", "choose one of none, channel, pixel"),
        ("preprocess.mean", "pixel", "low=-0.1: must be 0 with config.preprocess.mean=pixel"),
        ("augment.lighting", "pca", "choose one of none, eigenvalues, deviations"),
        ("augment.lighting_deviation", 0.0, "config.augment.lighting_deviation=0.0"),
        ("augment.photometric", 1.5, "config.augment.photometric=1.5: must be in 0 .. 1"),
        ("evaluate.protocol", "ten", "choose one of auto, full, center, ten_crop"),
        ("evaluate.scales", (0,), "must be whole numbers of pixels"),
        ("evaluate.crops", "ten_crop", "choose one of grid, squares"),
        ("evaluate.map_average", "logits", "choose one of scores, probabilities"),
    ],
)
def test_impossible_values_are_refused_by_name(field, value, said):
    config = tiny_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=said.replace(".", r"\.")):
        config_lib.validate(config, given={field})


@pytest.mark.parametrize(
    "fields",
    [
        {"schedule.name": "steps"},
        {"augment.crop": True},
        {"schedule.boundaries": (1.0,), "schedule.factors": (0.1,)},
    ],
)
def test_what_changes_nothing_is_refused_of_the_command_line_only(fields):
    """Runs that were made so can still be opened."""
    config = tiny_config(**fields)
    config_lib.validate(config)
    with pytest.raises(UserError):
        config_lib.validate(config, given=fields)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": "linear", "decay": 0.5}, "config.schedule.decay_epochs=0: must be more"),
        ({"warmup_rate": 0.1, "warmup_error": 0.8, "warmup_epochs": 1.0}, "two kinds of warm-up"),
        ({"boundaries": (0.5,), "factors": (0.1,)}, "config.schedule.name=cosine has none"),
    ],
)
def test_schedules_that_cannot_be_are_refused(fields, said):
    config = tiny_config()
    config.schedule.update(fields)
    with pytest.raises(UserError, match=said.replace(".", r"\.")):
        config_lib.validate(config, given={f"schedule.{name}" for name in fields})


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"mean": "given"}, "given mean needs mean=given, and that needs one"),
        ({"given_mean": (0.5,)}, "given mean needs mean=given, and that needs one"),
        ({"mean": "given", "given_mean": (127.0,)}, "given_mean=(127.0,): must be numbers, 0 .. 1"),
        ({"deviation": (0.0,)}, "deviation=(0.0,): must be numbers, more than 0 .. 1"),
    ],
)
def test_colours_that_cannot_be_are_refused(fields, said):
    config = tiny_config()
    config.preprocess.update({"low": 0.0} | fields)
    with pytest.raises(UserError, match=re.escape(said)):
        config_lib.validate(config)


def test_what_the_refusals_ask_for_is_taken():
    """The two ways from one kind of schedule to the other, and a random crop of a square."""
    config = tiny_config(
        **{
            "schedule.name": "steps",
            "schedule.boundaries": (1.0,),
            "schedule.factors": (0.1,),
            "augment.crop": True,
            "preprocess.crop": 28,
        }
    )
    config_lib.validate(config)
    config.schedule.name = "plateau"  # its own boundaries may stay
    config_lib.validate(config, given={"schedule.name"})


@pytest.mark.parametrize(
    "name",
    [
        *("alexnet", "connectivity", "cuda_convnet", "googlenet", "lenet5"),
        *("maxout", "resnet", "resnet_cifar10", "vgg"),
    ],
)
def test_the_shipped_configs_are_valid(name):
    module = importlib.import_module(f"configs.{name}")
    for argument in module.ARGUMENTS:
        config_lib.validate(module.get_config(argument))


def test_unknown_arguments_are_refused():
    from configs import lenet5

    with pytest.raises(ValueError, match="digits, mnist"):
        lenet5.get_config("cifar")


def test_the_light_tables_agree_with_the_modules():
    assert config_lib.LOSSES == losses.NAMES
    assert config_lib.SCHEDULES == schedules.NAMES
    assert config_lib.MEANS == transform.MEANS
    assert config_lib.LIGHTINGS == augment.LIGHTINGS


def test_differences_are_named_and_paths_may_differ():
    stored = config_lib.flatten(tiny_config())
    now = tiny_config(**{"batch_size": 50, "dataset.data_dir": "/elsewhere"})
    assert config_lib.differences(stored, now) == ["batch_size: 100 -> 50"]


def test_plan_of_steps():
    # 1,442 examples in batches of 100 are 14.42 steps an epoch; two epochs end in step 29.
    plan = plans.make_plan(tiny_config(steps_per_dispatch=4), 1442)
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


def test_rounding_makes_no_step():
    # 30 * (50000 / 96) is 15625.000000000002.
    config = tiny_config(batch_size=96, epochs=30.0)
    plan = plans.make_plan(config, 50_000)
    assert plan.total_steps == 15_625
    assert max(plan.evaluate_at) == max(plan.save_at) == 15_625
    assert max(plan.evaluate_at - {15_625}) < 15_600


def test_overrides_leave_no_stale_value():
    plan = plans.make_plan(tiny_config(batch_size=721, epochs=4.0), 1442)
    assert plan.total_steps == 8
    assert sorted(plan.evaluate_at) == [2, 4, 6, 8]


def test_an_option_that_was_another_ones_is_as_it_was():
    """Maxout's images were scaled as all else was."""
    now = maxout.get_config()
    stored = json.loads(config_lib.to_json(now))
    del stored["model"]["input_dropout_scaling"]
    for scaling in ("train", "test"):
        stored["model"]["dropout_scaling"] = scaling
        assert config_lib.completed(stored).model.input_dropout_scaling == scaling
    now.model.dropout_scaling = "test"
    flat = config_lib.flatten(config_lib.completed(stored))
    del flat["model.input_dropout_scaling"]
    assert config_lib.differences(flat, now) == ["model.input_dropout_scaling: test -> none"]
    assert "input_dropout_scaling" not in config_lib.completed({"model": {"name": "mlp"}}).model


def test_a_config_of_an_older_version_is_completed():
    config = tiny_config()
    stored = json.loads(config_lib.to_json(config))
    del stored["evaluate"]["scales"], stored["init_layers"], stored["predict"]
    stored["schedule"]["learning_rate"] = 0.5
    found = config_lib.flatten(config_lib.completed(stored))
    wanted = config_lib.flatten(config) | {"schedule.learning_rate": 0.5}
    assert found == wanted
