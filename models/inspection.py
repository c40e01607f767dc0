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
    drop_scale: float = 1.0,
) -> dict[str, jax.Array]:
    """The output of every layer, in the order in which they compute.

    images: network input [batch, height, width, channels], float32. Names are paths of modules:
    "conv1" is the convolution's output, "conv1_relu" that of its activation,
    "inception_3a/1x1_relu" that of an activation in a block, "inception_3a" that of the block.
    train: as in training: BatchNorm uses the statistics of the batch, and dropout drops. seed: of
    dropout. drop_scale: factor on its rates, see `layers.Net`.
    """

    def named(layer, x, output):
        return ("/".join(layer.path), output) if layer.path else None

    options: dict[str, Any] = {"train": train, **scaled(drop_scale)}
    if train:
        options |= {"mutable": [*variables, "auxiliary"], "rngs": {"dropout": jax.random.key(seed)}}
    return dict(_recorded(on_one_device(module), variables, images, named, options))


def _recorded(module, variables, images, record, options) -> list[tuple[Any, jax.Array]]:
    """What `record(layer, input, output)` returns for each call of a layer: (label, array) or None.

    options: of module.apply.
    """
    labels = []

    def run(variables, images):
        arrays = []

        def keep(next_call, args, kwargs, context):
            output = next_call(*args, **kwargs)
            if context.method_name == "__call__" and isinstance(output, jax.Array):
                recorded = record(context.module, args[0], output)
                if recorded:
                    labels.append(recorded[0])
                    arrays.append(recorded[1])
            return output

        with nn.intercept_methods(keep):
            module.apply(variables, images, **options)
        return arrays

    return list(zip(labels, jax.jit(run)(variables, images), strict=True))


def scaled(drop_scale: float) -> dict[str, float]:
    """Arguments of module.apply. Only annealed networks need to take `drop_scale`."""
    return {} if drop_scale == 1 else {"drop_scale": drop_scale}


def on_one_device(module: nn.Module) -> nn.Module:
    """The network with BatchNorm over the images of one device."""
    return module.clone(batch_norm="per_device") if hasattr(module, "batch_norm") else module


def first_input(
    module: nn.Module,
    variables: Mapping[str, Any],
    images: jax.Array,
    wanted: Callable[[nn.Module], bool],
    drop_scale: float = 1.0,
) -> tuple[nn.Module, jax.Array] | None:
    """The first layer that computes and for which `wanted` is true, and its input.

    None if there is no such layer. The layer's fields can be read (`layer.window`); it cannot be
    called.
    """
    seen = []

    def first(layer, x, output):
        if seen or not wanted(layer):
            return None
        seen.append(layer)
        return layer, x

    options = {"train": False, **scaled(drop_scale)}
    return next(iter(_recorded(module, variables, images, first, options)), None)


def activated(outputs: Mapping[str, Any], layer: str) -> str:
    """The name, among those of `activations`, of the activation that follows `layer`.

    The name of the layer itself if none follows it. Raises UserError for an unknown layer.
    """
    for name in (*(layer_name(layer, kind) for kind in ACTIVATIONS), layer):
        if name in outputs:
            return name
    raise graph.missing(layer, outputs)
