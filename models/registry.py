"""The models by name. A config's `model` section is a name, a dtype and the options below."""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from errors import UserError
from models import layers, lenet


@dataclasses.dataclass(frozen=True)
class Entry:
    """A constructor, the input (height, width, channels) it is made for, its options' choices."""

    constructor: type[nn.Module]
    input_shape: tuple[int, int, int]
    choices: Mapping[str, tuple[str, ...]]


MODELS: dict[str, Entry] = {
    "lenet5": Entry(
        lenet.LeNet5,
        lenet.INPUT_SHAPE,
        {
            "subsampling": lenet.SUBSAMPLING,
            "activation": tuple(layers.ACTIVATIONS),
            "output": lenet.OUTPUTS,
            "c3": lenet.C3,
        },
    ),
}

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def choose(what: str, value: Any, allowed) -> Any:
    """`value` if it is allowed; otherwise a UserError that names the nearest and all choices."""
    if value in allowed:
        return value
    near = difflib.get_close_matches(str(value), list(allowed), n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise UserError(f"{what}={value}: {hint}choose one of {', '.join(map(str, allowed))}")


def create(section: Mapping[str, Any], num_classes: int) -> nn.Module:
    """The linen module of a config's `model` section: {"name", "dtype", **options}.

    Raises UserError for an unknown model, option or value.
    """
    options = dict(section)
    name = choose("model.name", options.pop("name"), MODELS)
    dtype = DTYPES[choose("model.dtype", options.pop("dtype"), DTYPES)]
    entry = MODELS[name]
    for option, value in options.items():
        if option not in entry.choices:
            raise UserError(
                f"model.{option} is no option of {name}: it has {', '.join(entry.choices)}"
            )
        choose(f"model.{option}", value, entry.choices[option])
    return entry.constructor(num_classes=num_classes, dtype=dtype, **options)
