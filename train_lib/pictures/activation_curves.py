"""Activation functions with their derivatives, and the sum of sigmoids that ReLU approximates."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from models.layers import ACTIVATIONS, Activation
from train_lib.pictures import panels

# Slope and offset of the affine pieces of the maxout unit that is drawn.
PIECES = ((-0.8, -0.6), (0.1, 0.0), (1.0, -1.0))
_TITLES = {"prelu": "prelu, at its start", "maxout": f"maxout of {len(PIECES)} affine pieces"}


def activation_curves(x: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """An activation of `layers.ACTIVATIONS` and its derivative at x [n]: both [n].

    Both are those of `layers.Activation`. prelu has its first slope, 0.25. maxout has the pieces
    PIECES.
    """
    slopes, offsets = np.array(PIECES if kind == "maxout" else [(1.0, 0.0)]).T
    layer = Activation(kind, len(slopes))
    variables = layer.init(jax.random.key(0), jnp.zeros((1, len(slopes))))

    def at(value):
        return layer.apply(variables, (slopes * value + offsets)[None])[0, 0]

    values, derivatives = jax.vmap(jax.value_and_grad(at))(jnp.asarray(x, jnp.float32))
    return np.asarray(values), np.asarray(derivatives)


def activation_functions(low: float = -4.0, high: float = 4.0) -> Figure:
    """A panel for each activation: the function, and its derivative (dashed), from low to high."""
    kinds = [kind for kind in ACTIVATIONS if kind != "prelu_shared"]  # drawn like prelu
    rows, columns = 2, -(-len(kinds) // 2)
    figure = Figure(figsize=(2.6 * columns, 2.6 * rows), layout="constrained")
    x = np.linspace(low, high, 402)  # without 0, where rectifiers have no derivative
    axes = list(figure.subplots(rows, columns, sharex=True, sharey=True).flat)
    for axis, kind in zip(axes, kinds, strict=False):
        values, derivatives = activation_curves(x, kind)
        axis.axhline(0, color="0.8", linewidth=0.8)
        axis.axvline(0, color="0.8", linewidth=0.8)
        axis.plot(x, values, label="function")
        axis.plot(x, derivatives, "--", label="derivative")
        largest = f"largest derivative {derivatives.max():.3g}"
        axis.set_title(f"{_TITLES.get(kind, kind)}\n{largest}", fontsize=8)
        axis.set_ylim(-2, 3.2)
    for axis in axes[len(kinds) :]:
        axis.axis("off")
    axes[0].legend(fontsize=8, loc="upper left")
    figure.suptitle("activation functions and their derivatives", fontsize=10)
    return figure


def stacked_sigmoids(x: np.ndarray, count: int) -> np.ndarray:
    """The sum of sigmoid(x - i + 0.5) over i = 1 .. count, at x [n]: [n], in float64.

    For x well below `count`, it is close to softplus, log(1 + e^x), and so to ReLU: a rectifier
    stands for many sigmoids that share their weights.
    """
    shifts = np.arange(1, count + 1) - 0.5
    return (1 / (1 + np.exp(shifts - np.asarray(x, np.float64)[:, None]))).sum(axis=1)


def stacked_sigmoids_figure(counts: Sequence[int] = (1, 2, 4, 20)) -> Figure:
    """Sums of sigmoids, softplus and ReLU; on the right the distances of the sums from softplus."""
    x = np.linspace(-5, 10, 301)
    softplus = np.logaddexp(0, x)
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    sums: Mapping[int, np.ndarray] = {count: stacked_sigmoids(x, count) for count in counts}
    for count, values in sums.items():
        label = f"{count} sigmoid" + "s" * (count > 1)
        left.plot(x, values, label=label)
        right.plot(x, np.abs(values - softplus), label=label)
    left.plot(x, softplus, "k--", label="log(1 + exp x)")
    left.plot(x, np.maximum(0, x), color="0.6", linewidth=1, label="ReLU")
    right.plot(x, np.maximum(1e-12, softplus - np.maximum(0, x)), color="0.6", label="ReLU")
    left.set(xlabel="x", title="sum of sigmoid(x - i + 0.5)")
    right.set(xlabel="x", yscale="log", ylim=(1e-4, 10), title="distance from log(1 + exp x)")
    for axis in (left, right):
        axis.title.set_fontsize(9)
        axis.grid(alpha=0.3)
    panels.plain_legend(left.legend(fontsize=8))
    return figure
