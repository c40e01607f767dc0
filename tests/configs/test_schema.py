"""Which configs are refused, and how."""

import importlib
import re

import pytest
from conftest import tiny_config

from configs import schema
from errors import UserError
from input_pipeline import crops, views
from models import layers, registry
from train_lib import optimizers
from train_lib.evaluation import protocols


@pytest.mark.parametrize(
    ("field", "value", "message"),
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
        (
            "optimizer.averaging",
            1.0,
            "optimizer.averaging=1.0: must be at least 0 and less than 1",
        ),
        ("optimizer.momentum_end", 0.7, "momentum_end=0.7 and .momentum_epochs=0.0: set both"),
        ("optimizer.mu", 0.02, "curvature_examples=0 and .mu=0.02: set both, or neither"),
        ("optimizer.layer_rates", {"c1": -1.0}, "config.optimizer.layer_rates.c1=-1.0: must be 0"),
        ("optimizer.layer_decays", {"c1": -1.0}, "config.optimizer.layer_decays.c1=-1.0: must be"),
        ("optimizer.max_norms", {"c1": 0.0}, "config.optimizer.max_norms.c1=0.0: must be more"),
        ("schedule.name", "steps", "name=steps: without config.schedule.boundaries"),
        (
            "augment.crop",
            True,
            "augment.crop=True has no effect with config.preprocess.crop=0",
        ),
        ("schedule.name", "exponential", "config.schedule.decay=1: must be less"),
        ("schedule.decay", 0.0, "config.schedule.decay=0.0: must be more than 0 and at most 1"),
        ("schedule.warmup_error", 0.8, "warmup_rate=0.0 and .warmup_error=0.8: set both"),
        ("schedule.plateau.factor", 1.0, "config.schedule.plateau.factor=1.0"),
        ("schedule.plateau.patience", 0, "config.schedule.plateau.patience=0: must be 1 or more"),
        (
            "dataset.division",
            1,
            "division=1 needs config.dataset.train_per_class or .test_fraction",
        ),
        ("dataset.test_per_class", 5, "test_per_class=5 needs config.dataset.train_per_class"),
        ("init_layers", ("c1/*",), "config.init_layers needs config.init_from"),
        ("seed", -1, "config.seed=-1"),
        ("preprocess.mean", "image", "choose one of none, channel, pixel"),
        ("preprocess.mean", "pixel", "low=-0.1: must be 0 with config.preprocess.mean=pixel"),
        ("augment.lighting", "pca", "choose one of none, eigenvalues, deviations"),
        ("augment.lighting_deviation", 0.0, "config.augment.lighting_deviation=0.0"),
        ("augment.photometric", 1.5, "config.augment.photometric=1.5: must be from 0 to 1"),
        ("evaluate.protocol", "ten", "choose one of auto, full, center, ten_crop"),
        ("evaluate.scales", (0,), "must be values, each a whole number of pixels"),
        ("evaluate.crops", "ten_crop", "choose one of grid, squares"),
        ("evaluate.map_average", "logits", "choose one of scores, probabilities"),
    ],
)
def test_impossible_values_are_refused_by_name(field, value, message):
    config = tiny_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=message.replace(".", r"\.")):
        schema.validate(config, given={field})


@pytest.mark.parametrize(
    "fields",
    [
        {"schedule.name": "steps"},
        {"augment.crop": True},
        {"dataset.test_fraction": 0.5},
        {"dataset.train_per_class": 30},
        {"schedule.boundaries": (1.0,), "schedule.factors": (0.1,)},
        {"schedule.plateau.factor": 0.5},
        {"schedule.drop_anneal_epochs": 1.0},
        {"model.drop_rate": 0.2},
        {"not_finite.limit": 3},
    ],
)
def test_fields_without_effect_are_refused_on_the_command_line_only(fields):
    """Stored runs that have such fields can still be opened."""
    config = tiny_config(**fields)
    schema.validate(config)
    with pytest.raises(UserError):
        schema.validate(config, given=fields)


def test_a_run_has_one_length_in_epochs_or_in_steps():
    """The epochs of the recipe may stay, those of the command line would have no effect."""
    config = tiny_config(steps=7)
    schema.validate(config, given={"steps"})
    for is_stored in (False, True):
        with pytest.raises(UserError, match=r"epochs=2.0 and .steps=7 both set the length"):
            schema.validate(config, {"epochs"}, is_stored)
    config.steps = 0
    schema.validate(config, {"epochs", "steps"})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "linear", "decay": 0.5}, "config.schedule.decay_epochs=0: must be more"),
        ({"warmup_rate": 0.1, "warmup_error": 0.8, "warmup_epochs": 1.0}, "two kinds of warm-up"),
        (
            {"boundaries": (0.5,), "factors": (0.1,)},
            "config.schedule.boundaries has no effect with config.schedule.name=cosine: set"
            " config.schedule.name=steps, or leave it out",
        ),
    ],
)
def test_impossible_schedules_are_refused(fields, message):
    config = tiny_config()
    config.schedule.update(fields)
    with pytest.raises(UserError, match=message.replace(".", r"\.")):
        schema.validate(config, given={f"schedule.{name}" for name in fields})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mean": "given"}, "set both mean=given and given_mean, or neither"),
        ({"given_mean": (0.5,)}, "set both mean=given and given_mean, or neither"),
        (
            {"mean": "given", "given_mean": (127.0,)},
            "given_mean=(127.0,): must be values, each from",
        ),
        (
            {"deviation": (0.0,)},
            "deviation=(0.0,): must be values, each more than 0 and",
        ),
    ],
)
def test_impossible_colours_are_refused(fields, message):
    config = tiny_config()
    config.preprocess.update({"low": 0.0} | fields)
    with pytest.raises(UserError, match=re.escape(message)):
        schema.validate(config)


def test_the_advice_of_refusals_is_accepted():
    """A schedule with steps, another schedule over it, and a random crop with a size."""
    config = tiny_config(
        **{
            "schedule.name": "steps",
            "schedule.boundaries": (1.0,),
            "schedule.factors": (0.1,),
            "augment.crop": True,
            "preprocess.crop": 28,
        }
    )
    schema.validate(config)
    config.schedule.name = "plateau"  # the boundaries of the recipe may stay
    schema.validate(config, given={"schedule.name"})


@pytest.mark.parametrize(
    "name",
    [
        *("alexnet", "connectivity", "cuda_convnet", "filter_bank", "googlenet", "lenet5"),
        *("maxout", "resnet", "resnet_cifar10", "vgg"),
    ],
)
def test_the_shipped_configs_are_valid(name):
    module = importlib.import_module(f"configs.{name}")
    for argument in module.ARGUMENTS:
        schema.validate(module.get_config(argument))


def test_unknown_arguments_are_refused():
    from configs import lenet5

    with pytest.raises(ValueError, match="digits, mnist"):
        lenet5.get_config("cifar")


@pytest.mark.parametrize(
    ("field", "table"),
    [
        ("model.activation", layers.ACTIVATIONS),
        ("model.dtype", registry.DTYPES),
        ("optimizer.decayed", optimizers.DECAYS),
        ("evaluate.protocol", ["auto", *protocols.PROTOCOLS]),
        ("evaluate.crops", crops.KINDS.keys() - {"ten_crop"}),
        ("view.interpolation", [*views.INTERPOLATIONS, "random"]),
    ],
)
def test_modules_implement_every_choice(field, table):
    assert set(schema.choices(field)) == set(table)
