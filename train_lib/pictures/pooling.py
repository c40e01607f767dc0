"""Max pooling backwards: the gradient goes to the pixel that won."""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from models.layers import Pool


def pool_routes(x: np.ndarray, window: int, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """What max pooling gives of a map [h, w], and the gradient [h, w] of the sum of that.

    By the layer's own gradient, so that an entry is the number of windows in which the pixel won;
    of equal ones, the first does (in rows from the top, each from the left).
    """
    layer = Pool("max", window, stride)
    images = jnp.asarray(x, jnp.float32)[None, :, :, None]
    pooled, back = jax.vjp(lambda images: layer.apply({}, images), images)
    (gradient,) = back(jnp.ones_like(pooled))
    return np.asarray(pooled)[0, ..., 0], np.asarray(gradient)[0, ..., 0]


def max_pool_routing(x: np.ndarray, window: int, stride: int) -> Figure:
    """A map [h, w], its max pooling, and where the gradient of the output goes.

    In frames, the winners. At the right, the gradient for one of 1 at each output: the number of
    windows that a pixel has won. Maps of up to 12x12 show their numbers.
    """
    x = np.asarray(x, np.float32)
    pooled, gradient = pool_routes(x, window, stride)
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    for axis, values, title, cmap in zip(
        figure.subplots(1, 3),
        (x, pooled, gradient),
        ("input; in frames: the winners", "output", "gradient of the sum of the outputs"),
        ("Blues", "Blues", "Oranges"),
        strict=True,
    ):
        low = 0 if cmap == "Oranges" else float(x.min())
        high = max(1, gradient.max()) if cmap == "Oranges" else max(float(x.max()), low + 1e-12)
        axis.imshow(values, cmap=cmap, vmin=low, vmax=low + 1.5 * (high - low))
        axis.set_title(title, fontsize=9)
        axis.set_xticks([])
        axis.set_yticks([])
        if max(values.shape) <= 12:
            for row, column in np.ndindex(values.shape):
                text = f"{values[row, column]:.2g}"
                axis.text(column, row, text, ha="center", va="center", fontsize=7)
        if values is not pooled:
            for row, column in np.argwhere(gradient > 0):
                left, top = column - 0.46, row - 0.46
                axis.plot(
                    [left, left + 0.92, left + 0.92, left, left],
                    [top, top, top + 0.92, top + 0.92, top],
                    color="tab:red",
                    linewidth=1.5,
                )
    figure.suptitle(f"max pooling {window}x{window}, stride {stride}", fontsize=9)
    return figure
