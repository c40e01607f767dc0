"""The models by name. A config's `model` section is a name, a dtype and the model's options.

A model's options are the fields of its class that are made by `layers.option`.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from ml_collections import ConfigDict

from configs.rules import Rule, choice
from errors import UserError
from models import (
    alexnet,
    cuda_convnet,
    filter_bank,
    googlenet,
    layers,
    lenet,
    maxout,
    mlp,
    rbm,
    resnet,
    vgg,
)
from models.traditional.pipelines import Pipeline

MODELS: dict[str, type[layers.Net]] = {
    "lenet5": lenet.LeNet5,
    "mlp": mlp.MLP,
    "connectivity": mlp.Connectivity,
    "filter_bank": filter_bank.FilterBank,
    "alexnet": alexnet.AlexNet,
    "vgg": vgg.VGG,
    "googlenet": googlenet.GoogLeNet,
    "resnet": resnet.ResNet,
    "resnet_cifar10": resnet.CifarResNet,
    "cuda_convnet": cuda_convnet.CudaConvnet,
    "maxout": maxout.MaxoutNet,
    "rbm": rbm.RBMStack,
}
# Models that are fitted to the whole training set at once, in one step: they have a method `fit`.
FITTED: dict[str, type[layers.Net]] = {"traditional": Pipeline}
_ALL = MODELS | FITTED
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def options(name: str) -> dict[str, Rule]:
    """The options of a model: for each the rule for its values."""
    # A subclass that only changes a default inherits the rule.
    return {
        field.name: field.metadata["rule"]
        for base in reversed(_ALL[name].__mro__)
        for field in getattr(base, "__dataclass_fields__", {}).values()
        if "rule" in field.metadata
    }


# Options of older versions: the values without effect, and the models that no longer have them.
_RETIRED = {
    "lrn": (
        ("published", "none"),
        ("lenet5", "mlp", "connectivity", "resnet", "resnet_cifar10", "maxout"),
    ),
    "pooling": (("published",), ("mlp", "connectivity", "resnet_cifar10")),
}
# Options that had the value of another option in older versions.
_FOLLOWED = {"maxout": {"input_dropout_scaling": "dropout_scaling"}}


def upgrade(section: ConfigDict) -> None:
    """Adapts a stored `model` section, perhaps of an older version, to today's options.

    Retired options that have no effect are removed. Any other value of a retired option stays, and
    `create` refuses it. Missing options get the values that they had before they were options.
    """
    name = section.name
    for option, (values, names) in _RETIRED.items():
        if name in names and section.get(option) in values:
            del section[option]
    older = {option: section[other] for option, other in _FOLLOWED.get(name, {}).items()}
    for option in options(name) if name in _ALL else ():
        if option not in section:
            section[option] = older.get(option, _ALL[name].__dataclass_fields__[option].default)


def sliding() -> list[str]:
    """Names of the models that can be applied at every place of a larger image (`class_map`)."""
    return [name for name, model in MODELS.items() if hasattr(model, "class_map")]


def create(section: Mapping[str, Any], num_classes: int, axis: str = "batch") -> nn.Module:
    """The linen module of a config's `model` section: {"name", "dtype", **options}.

    axis: name of the devices' axis, for `batch_norm` "across_devices".
    Raises UserError for an unknown model, option or value.
    """
    check(section)
    given = dict(section)
    name, dtype = given.pop("name"), DTYPES[given.pop("dtype")]
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
    return _ALL[name](num_classes=num_classes, dtype=dtype, device_axis=axis, **given)


def check(section: Mapping[str, Any]) -> None:
    """Raises UserError for an unknown model, option or value in a config's `model` section."""
    name = section["name"]
    choice(*_ALL).check("config.model.name", name)
    rules = {"name": choice(*_ALL), "dtype": choice(*DTYPES), **options(name)}
    for option, value in section.items():
        if option not in rules:
            raise UserError(
                f"config.model.{option} is not an option of {name}: it has"
                f" {', '.join(sorted(options(name)))}"
            )
        rules[option].check(f"config.model.{option}", value)
