"""The models by name. A config's `model` section is a name, a dtype and the model's options.

A model's options are the fields of its class that are made by `layers.option`.
"""

import difflib
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from ml_collections import ConfigDict

from errors import UserError
from models import (
    alexnet,
    cuda_convnet,
    googlenet,
    layers,
    lenet,
    maxout,
    mlp,
    resnet,
    vgg,
)

MODELS: dict[str, type[layers.Net]] = {
    "lenet5": lenet.LeNet5,
    "mlp": mlp.MLP,
    "connectivity": mlp.Connectivity,
    "alexnet": alexnet.AlexNet,
    "vgg": vgg.VGG,
    "googlenet": googlenet.GoogLeNet,
    "resnet": resnet.ResNet,
    "resnet_cifar10": resnet.CifarResNet,
    "cuda_convnet": cuda_convnet.CudaConvnet,
    "maxout": maxout.MaxoutNet,
}
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def choose(field: str, value: Any, allowed) -> Any:
    """`value` if it is allowed; otherwise a UserError that names the nearest and all choices."""
    if value in allowed:
        return value
    near = difflib.get_close_matches(str(value), [str(choice) for choice in allowed], n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise UserError(f"{field}={value}: {hint}choose one of {', '.join(map(str, allowed))}")


def options(name: str) -> dict[str, tuple | layers.Rule]:
    """The options of a model: for each its values, or a rule for them."""
    # A subclass that only changes a default inherits the values.
    return {
        field.name: field.metadata["allowed"]
        for base in reversed(MODELS[name].__mro__)
        for field in getattr(base, "__dataclass_fields__", {}).values()
        if "allowed" in field.metadata
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
    for option in options(name) if name in MODELS else ():
        if option not in section:
            section[option] = older.get(option, MODELS[name].__dataclass_fields__[option].default)


def sliding() -> list[str]:
    """Names of the models that can be applied at every place of a larger image (`class_map`)."""
    return [name for name, model in MODELS.items() if hasattr(model, "class_map")]


def create(section: Mapping[str, Any], num_classes: int, axis: str = "batch") -> nn.Module:
    """The linen module of a config's `model` section: {"name", "dtype", **options}.

    axis: name of the devices' axis, for `batch_norm` "across_devices".
    Raises UserError for an unknown model, option or value.
    """
    given = dict(section)
    name = choose("model.name", given.pop("name"), MODELS)
    dtype = DTYPES[choose("model.dtype", given.pop("dtype"), DTYPES)]
    allowed = options(name)
    for option, value in given.items():
        field, rule = f"model.{option}", allowed.get(option)
        if rule is None:
            raise UserError(
                f"{field} is not an option of {name}: it has {', '.join(sorted(allowed))}"
            )
        if not isinstance(rule, layers.Rule):
            choose(field, value, rule)
        elif not rule.holds(value):
            raise UserError(f"{field}={value}: {rule.message}")
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
    return MODELS[name](num_classes=num_classes, dtype=dtype, device_axis=axis, **given)
