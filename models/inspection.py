"""What the layers of a net give for images, by name, as arrays of natural shape."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax

from errors import UserError
from models.layers import ACTIVATIONS
from models.layers.activations import layer_name


def activations(
    module: nn.Module,
    variables: Mapping[str, Any],
    images: jax.Array,
    train: bool = False,
    seed: int = 0,
) -> dict[str, jax.Array]:
    """The output of every layer, in the order in which they compute.

    images: network input [batch, height, width, channels], float32. Names are paths of modules:
    "conv1" is what the convolution gives, "conv1_relu" what its activation makes of it,
    "inception_3a/1x1_relu" one within a block, "inception_3a" the block's own.
    train: as in training: BatchNorm takes the batch's statistics, and dropout drops as `seed` says.
    """
    names: list[str] = []
    module = on_one_device(module)

    def run(variables, images):
        values = []

        def keep(next_call, args, kwargs, context):
            output = next_call(*args, **kwargs)
            path = context.module.path
            if context.method_name == "__call__" and path and isinstance(output, jax.Array):
                names.append("/".join(path))
                values.append(output)
            return output

        options: dict[str, Any] = {}
        if train:
            options = {
                "mutable": [*variables, "auxiliary"],
                "rngs": {"dropout": jax.random.key(seed)},
            }
        with nn.intercept_methods(keep):
            module.apply(variables, images, train=train, **options)
        return values

    values = jax.jit(run)(variables, images)
    return dict(zip(names, values, strict=True))


def on_one_device(module: nn.Module) -> nn.Module:
    """The network with BatchNorm over the images of one device."""
    return module.clone(batch_norm="per_device") if hasattr(module, "batch_norm") else module


def first_input(
    module: nn.Module,
    variables: Mapping[str, Any],
    images: jax.Array,
    wanted: Callable[[nn.Module], bool],
) -> tuple[nn.Module, jax.Array] | None:
    """The first layer, as they compute, for which `wanted` is true, and what it takes.

    None where there is none. The layer is to be read (`layer.window`), not called.
    """
    found = []

    def run(variables, images):
        values = []

        def keep(next_call, args, kwargs, context):
            if context.method_name == "__call__" and not values and wanted(context.module):
                found.append(context.module)
                values.append(args[0])
            return next_call(*args, **kwargs)

        with nn.intercept_methods(keep):
            module.apply(variables, images, train=False)
        return values

    values = jax.jit(run)(variables, images)
    return (found[0], values[0]) if values else None


def activated(found: Mapping[str, Any], layer: str) -> str:
    """The name, among those of `activations`, of what `layer` gives behind its activation.

    That is the layer itself where none follows it. Raises UserError, naming layers that there
    are, for one that there is not.
    """
    for name in (*(layer_name(layer, kind) for kind in ACTIVATIONS), layer):
        if name in found:
            return name
    first = ", ".join(list(found)[:6])
    raise UserError(f"there is no layer {layer}: the net has {first}, ... (see --mode=summary)")
