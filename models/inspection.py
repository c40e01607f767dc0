"""The outputs of a network's layers for some images, by name."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax

from models import graph
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
    "conv1" is the convolution's output, "conv1_relu" that of its activation,
    "inception_3a/1x1_relu" that of an activation in a block, "inception_3a" that of the block.
    train: as in training: BatchNorm uses the statistics of the batch, and dropout drops. seed: of
    dropout.
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
    """The first layer that computes and for which `wanted` is true, and its input.

    None if there is no such layer. The layer's fields can be read (`layer.window`); it cannot be
    called.
    """
    layers = []

    def run(variables, images):
        values = []

        def keep(next_call, args, kwargs, context):
            if context.method_name == "__call__" and not values and wanted(context.module):
                layers.append(context.module)
                values.append(args[0])
            return next_call(*args, **kwargs)

        with nn.intercept_methods(keep):
            module.apply(variables, images, train=False)
        return values

    values = jax.jit(run)(variables, images)
    return (layers[0], values[0]) if values else None


def activated(outputs: Mapping[str, Any], layer: str) -> str:
    """The name, among those of `activations`, of the activation that follows `layer`.

    The name of the layer itself if none follows it. Raises UserError for an unknown layer.
    """
    for name in (*(layer_name(layer, kind) for kind in ACTIVATIONS), layer):
        if name in outputs:
            return name
    raise graph.missing(layer, outputs)
