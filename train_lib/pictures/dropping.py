"""Dropout: what its masks leave of a layer, and the average over masks that a test stands for."""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from errors import UserError
from models import layers
from train_lib.pictures import panels
from train_lib.pictures.maps import as_square

# Where in the arguments of a layer that drops `train` stands.
_TRAIN = {layers.Dropout: 1, layers.DropConnect: 1, layers.Standout: 2}


def dropout_masks(activation: np.ndarray, rate: float, seed: int, count: int) -> Figure:
    """An activation, and what `count` masks of dropout leave of it (Srivastava 2014, fig. 1).

    activation: [units], shown as rows of a near-square, or a map [h, w]. rate: share dropped.
    The masks are those of `layers.Dropout`; values that are kept are as they were (the layer also
    divides them, by its scaling "train"), and what is dropped is red.
    """
    activation = np.asarray(activation, np.float32)
    layer, ones = layers.Dropout(rate, "test"), jnp.ones((1, *activation.shape))
    flat = activation.ndim == 1
    picture = as_square(activation) if flat else activation
    rows, columns = panels.grid(count + 1)
    height = 2.3 * picture.shape[0] / picture.shape[1] + 0.3
    figure, axes = panels.blank(rows, columns, (2.3 * columns, height * rows + 0.3))
    low, high = float(activation.min()), float(activation.max())
    grey = panels.shades(picture[None], low, high)[0]
    axes.flat[0].imshow(grey, interpolation="nearest")
    axes.flat[0].set_title(f"{activation.size} units", fontsize=8)
    for number, axis in zip(range(count), axes.flat[1:], strict=False):
        key = jax.random.fold_in(jax.random.key(seed), number)
        kept = np.asarray(layer.apply({}, ones, True, rngs={"dropout": key})[0]) > 0
        image = grey.copy()
        image[(as_square(kept) if flat else kept) == 0] = (0.8, 0.15, 0.15)
        axis.imshow(image, interpolation="nearest")
        axis.set_title(f"mask {number + 1}: {kept.sum()} kept", fontsize=8)
    figure.suptitle(f"dropout of {rate:.0%}; red: dropped", fontsize=9)
    return figure


def dropout_average(
    module: nn.Module,
    variables: Mapping[str, Any],
    inputs: jax.Array,
    counts: Sequence[int],
    seed: int,
) -> dict[str, list]:
    """How far the mean over masks is from the one pass of a test (Srivastava 2014, sec. 7.5).

    inputs: network input [n, ...]. counts: numbers of masks. Only what drops is in training mode
    (dropout, DropConnect, standout); BatchNorm is as in a test.

    Returns counts; "geometric" and "arithmetic", for each count the distance between the mean of
    so many masked passes' class probabilities and those of the test, the mean over images of half
    the sum of absolute differences (total variation, 0..1). The geometric mean, normalised, is the
    softmax of the mean logits: it goes to the test's where dropout acts on a linear layer's input
    (Hinton 2012); through other layers, and for the arithmetic mean, something remains.
    Raises UserError for a net that drops nothing.
    """
    dropping = []

    def drop(next_call, args, kwargs, context):
        kind = type(context.module)
        if context.method_name == "__call__" and kind in _TRAIN:
            dropping.append(kind)
            args = (*args[: _TRAIN[kind]], True, *args[_TRAIN[kind] + 1 :])
        return next_call(*args, **kwargs)

    @jax.jit
    def masked(variables, inputs, key):
        with nn.intercept_methods(drop):
            return module.apply(variables, inputs, train=False, rngs={"dropout": key})

    test = jax.nn.softmax(jax.jit(module.apply)(variables, inputs), axis=-1)
    logits, probabilities = 0.0, 0.0  # sums so far
    found = {"counts": sorted(set(counts)), "geometric": [], "arithmetic": []}
    for number in range(1, max(counts) + 1):
        own = masked(variables, inputs, jax.random.fold_in(jax.random.key(seed), number))
        if not dropping:
            raise UserError("the net drops nothing: build it with --config.model.regulariser=...")
        logits, probabilities = logits + own, probabilities + jax.nn.softmax(own, axis=-1)
        if number in found["counts"]:
            geometric = jax.nn.softmax(logits / number, axis=-1)
            found["geometric"].append(_distance(geometric, test))
            found["arithmetic"].append(_distance(probabilities / number, test))
    return found


def _distance(one, other) -> float:
    return float(jnp.mean(jnp.abs(one - other).sum(axis=-1)) / 2)


def dropout_average_curve(found: Mapping[str, Sequence]) -> Figure:
    """`dropout_average` over the number of masks, on logarithmic axes, beside 1 / sqrt(number)."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    counts = np.asarray(found["counts"], float)
    for name in ("geometric", "arithmetic"):
        values = np.asarray(found[name], float)
        axis.plot(counts, np.where(values > 0, values, np.nan), "o-", label=f"{name} mean")
    start = max(found["geometric"][0], 1e-12)
    axis.plot(
        counts, start * (counts[0] / counts) ** 0.5, ":", color="0.5", label="1 / sqrt(masks)"
    )
    axis.set(
        xscale="log",
        yscale="log",
        xlabel="masks averaged",
        ylabel="distance to the test's probabilities",
    )
    axis.grid(alpha=0.3, which="both")
    axis.legend()
    return figure
