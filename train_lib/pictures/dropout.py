"""Dropout and standout: masked layers, and the average that an evaluation approximates."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from errors import UserError
from models import inspection, layers
from train_lib.pictures import panels
from train_lib.pictures.activation_maps import as_square

# The position of `train` in the arguments of each layer that drops.
_TRAIN_POSITION = {layers.Dropout: 1, layers.DropConnect: 1, layers.Standout: 2}


def dropout_masks(activation: np.ndarray, rate: float, seed: int, count: int) -> Figure:
    """An activation, and the same under `count` masks of dropout (Srivastava 2014, fig. 1).

    activation: a map [h, w]; or [units], drawn as a map that is nearly square. rate: the share that
    is dropped. The masks are those of `layers.Dropout`. Dropped values are red. Other values are
    not scaled.
    """
    activation = np.asarray(activation, np.float32)
    layer = layers.Dropout(rate, "test")
    kept = {
        f"mask {number}": _kept(layer, activation, key)
        for number, key in enumerate(_keys(seed, count), 1)
    }
    return _draw_masks(activation, kept, f"dropout of {rate:.0%}; red: dropped")


def annealed_masks(
    activation: np.ndarray, rate: float, scales: Mapping[str, float], seed: int
) -> Figure:
    """An activation under a mask at several times of annealed dropout (Rennie 2014).

    scales: label of the time -> factor on the rate, as `schedules.make_drop_scale` gives it. The
    random numbers are the same at all times, so a unit that was kept stays kept while the rate
    falls. The rest is as in `dropout_masks`.
    """
    activation, layer = np.asarray(activation, np.float32), layers.Dropout(rate, "test")
    (key,) = _keys(seed, 1)
    kept = {
        f"{label}, rate {100 * rate * scale:g} %": _kept(layer, activation, key, scale)
        for label, scale in scales.items()
    }
    return _draw_masks(activation, kept, f"annealed dropout from {rate:.0%} to 0; red: dropped")


def standout_masks(
    inputs: np.ndarray, alpha: float, beta: float, seed: int, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """The probabilities with which standout keeps units, and `count` of its masks (Ba, Frey 2013).

    inputs: of the units, before their activation: [h, w] or [units]. Both results are those of
    `layers.Standout`: [h, w], and bool [count, h, w].
    """
    inputs = np.asarray(inputs, np.float32)
    layer, ones = layers.Standout(alpha, beta), jnp.ones((1, *inputs.shape))
    share = np.asarray(layer.apply({}, ones, inputs[None], False)[0])
    return share, np.stack([_kept(layer, inputs, key) for key in _keys(seed, count)])


def standout_figure(inputs: np.ndarray, alpha: float, beta: float, seed: int, count: int) -> Figure:
    """The inputs of units, the probabilities of `standout_masks`, and its masks."""
    inputs = np.asarray(inputs, np.float32)
    share, masks = standout_masks(inputs, alpha, beta, seed, count)
    kept = {f"mask {number}": mask for number, mask in enumerate(masks, 1)}
    title = f"standout: kept with probability sigmoid({alpha:g} * input + {beta:g}); red: dropped"
    return _draw_masks(inputs, kept, title, {"probability, black 0, white 1": share})


def _keys(seed: int, count: int) -> list[jax.Array]:
    """The keys of `count` masks."""
    return [jax.random.fold_in(jax.random.key(seed), number) for number in range(count)]


def _kept(layer: nn.Module, values: np.ndarray, key: jax.Array, scale: float = 1.0) -> np.ndarray:
    """Which values a layer that drops would keep: bool, shaped like them."""
    ones, rngs = jnp.ones((1, *values.shape)), {"dropout": key}
    inputs = (ones, values[None]) if isinstance(layer, layers.Standout) else (ones,)
    return np.asarray(layer.apply({}, *inputs, True, scale, rngs=rngs)[0]) > 0


def _draw_masks(
    values: np.ndarray,
    kept: Mapping[str, np.ndarray],
    title: str,
    shares: Mapping[str, np.ndarray] | None = None,
) -> Figure:
    """Values, shares of 0..1 if there are any, and values under masks: each [h, w] or [units]."""
    shares = shares or {}
    as_map = as_square if values.ndim == 1 else np.asarray
    rows, columns = panels.grid(1 + len(shares) + len(kept))
    height, width = as_map(values).shape
    figure, axes = panels.blank(
        rows, columns, (2.3 * columns, (2.3 * height / width + 0.3) * rows + 0.3)
    )
    grey = panels.grey_tiles(as_map(values)[None], values.min(), values.max())[0]
    images = {f"{values.size} units": grey}
    for label, share in shares.items():
        images[label] = panels.grey_tiles(as_map(share)[None], 0, 1)[0]
    for label, mask in kept.items():
        image = grey.copy()
        image[as_map(mask) == 0] = (0.8, 0.15, 0.15)
        images[f"{label}: {mask.sum()} kept"] = image
    for (label, image), axis in zip(images.items(), axes.flat, strict=False):
        axis.imshow(image, interpolation="nearest")
        axis.set_title(label, fontsize=8)
    figure.suptitle(title, fontsize=9)
    return figure


def dropout_average(
    module: nn.Module,
    variables: Mapping[str, Any],
    inputs: jax.Array,
    counts: Sequence[int],
    seed: int,
    drop_scale: float = 1.0,
) -> dict[str, list]:
    """How far the mean over masks is from one evaluation pass (Srivastava 2014, sec. 7.5).

    inputs: network input [n, ...]. counts: numbers of masks. Only dropout, DropConnect and standout
    are in training mode; BatchNorm is in evaluation mode. drop_scale: see `layers.Net`.

    Returns "counts" and, for each count, two distances: "geometric" and "arithmetic", between that
    mean of the masked passes' class probabilities and the probabilities of the evaluation. A
    distance is the total variation in 0..1, averaged over images. The normalised geometric mean is
    the softmax of the mean logits. It converges to the evaluation's if dropout acts on the input of
    a linear layer (Hinton 2012). After other layers, and for the arithmetic mean, a difference
    remains. Raises UserError for a network that drops nothing.
    """
    dropping_layers = []

    def drop(next_call, args, kwargs, context):
        position = _TRAIN_POSITION.get(type(context.module))
        if context.method_name == "__call__" and position is not None:
            dropping_layers.append(context.module)
            args = (*args[:position], True, *args[position + 1 :])
        return next_call(*args, **kwargs)

    apply = functools.partial(module.apply, **inspection.scaled(drop_scale))

    @jax.jit
    def masked(variables, inputs, key):
        with nn.intercept_methods(drop):
            return apply(variables, inputs, train=False, rngs={"dropout": key})

    evaluated = jax.nn.softmax(jax.jit(apply)(variables, inputs), axis=-1)
    sum_of_logits, sum_of_probabilities = 0.0, 0.0
    distances = {"counts": sorted(set(counts)), "geometric": [], "arithmetic": []}
    for number in range(1, max(counts) + 1):
        logits = masked(variables, inputs, jax.random.fold_in(jax.random.key(seed), number))
        if not dropping_layers:
            raise UserError(
                "the network drops nothing: build it with --config.model.regulariser=..."
            )
        sum_of_logits += logits
        sum_of_probabilities += jax.nn.softmax(logits, axis=-1)
        if number in distances["counts"]:
            geometric = jax.nn.softmax(sum_of_logits / number, axis=-1)
            distances["geometric"].append(_distance(geometric, evaluated))
            distances["arithmetic"].append(_distance(sum_of_probabilities / number, evaluated))
    return distances


def _distance(a, b) -> float:
    return float(jnp.mean(jnp.abs(a - b).sum(axis=-1)) / 2)


def dropout_average_curve(distances: Mapping[str, Sequence]) -> Figure:
    """`dropout_average` over the number of masks, on logarithmic axes, beside 1 / sqrt(number)."""
    figure, axis = panels.single(6, 4)
    counts = np.asarray(distances["counts"], float)
    for name in ("geometric", "arithmetic"):
        values = np.asarray(distances[name], float)
        axis.plot(counts, np.where(values > 0, values, np.nan), "o-", label=f"{name} mean")
    root = max(distances["geometric"][0], 1e-12) * (counts[0] / counts) ** 0.5
    axis.plot(counts, root, ":", color="0.5", label="1 / sqrt(masks)")
    axis.set(xscale="log", yscale="log", xlabel="masks averaged")
    axis.set_xticks(counts, [f"{count:g}" for count in counts], fontsize=8)
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter("{x:g}")
    for side in (axis.xaxis, axis.yaxis):
        side.set_minor_formatter(NullFormatter())
    axis.set_ylabel("total variation distance")
    axis.set_title("mean over masks of dropout, and the evaluation's single pass", fontsize=10)
    axis.grid(alpha=0.3, which="both")
    axis.legend()
    return figure
