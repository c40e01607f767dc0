"""The gradient of pooling: to the pixels that have the maxima, or to all pixels equally."""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from models.layers import Pool


def pool_routes(
    x: np.ndarray, window: int, stride: int, kind: str = "max"
) -> tuple[np.ndarray, np.ndarray]:
    """The pooling of a map [h, w], and the gradient [h, w] of the sum of its outputs.

    The gradient is the layer's own. kind "max": the number of windows in which a pixel is the
    maximum. Of equal pixels the first counts (rows from the top, each from the left). "average":
    the number of windows that contain the pixel, divided by their size.
    """
    layer = Pool(kind, window, stride)
    images = jnp.asarray(x, jnp.float32)[None, :, :, None]
    pooled, pull_back = jax.vjp(lambda images: layer.apply({}, images), images)
    (gradient,) = pull_back(jnp.ones_like(pooled))
    return np.asarray(pooled)[0, ..., 0], np.asarray(gradient)[0, ..., 0]


def max_pool_routing(x: np.ndarray, window: int, stride: int) -> Figure:
    """A map [h, w], its max pooling, and the gradient of the sum of the outputs (`pool_routes`).

    Frames mark the maxima. Maps of up to 12x12 show their numbers.
    """
    x = np.asarray(x, np.float32)
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    _draw_pooling(figure.subplots(1, 3), x, window, stride, "max")
    figure.suptitle(f"max pooling {window}x{window}, stride {stride}", fontsize=11)
    return figure


def pooling_gradients(x: np.ndarray, window: int, stride: int) -> Figure:
    """The same for max pooling, above, and for average pooling, below."""
    x = np.asarray(x, np.float32)
    figure = Figure(figsize=(9, 6.4), layout="constrained")
    for axes, kind in zip(figure.subplots(2, 3), ("max", "average"), strict=True):
        _draw_pooling(axes, x, window, stride, kind)
        axes[0].set_ylabel(f"{kind} pooling")
    figure.suptitle(f"pooling {window}x{window}, stride {stride}", fontsize=11)
    return figure


def _draw_pooling(axes, x: np.ndarray, window: int, stride: int, kind: str) -> None:
    """Draws the map, its pooling and the gradient on three axes."""
    pooled, gradient = pool_routes(x, window, stride, kind)
    low, high = float(x.min()), max(float(x.max()), float(x.min()) + 1e-12)
    panes = (
        ("input (frames: the maxima)" if kind == "max" else "input", x, "Blues", low, high),
        ("output", pooled, "Blues", low, high),
        ("gradient of the sum of the outputs", gradient, "Oranges", 0, max(1, gradient.max())),
    )
    for axis, pane in zip(axes, panes, strict=True):
        title, values, cmap, least, most = pane
        axis.imshow(values, cmap=cmap, vmin=least, vmax=least + 1.5 * (most - least))
        axis.set_title(title, fontsize=9)
        axis.set(xticks=[], yticks=[])
        if max(values.shape) <= 12:
            points = 7 if max(x.shape) > 6 else 10
            for row, column in np.ndindex(values.shape):
                text = f"{values[row, column]:.3g}"
                axis.text(column, row, text, ha="center", va="center", fontsize=points)
        if values is not pooled and kind == "max":
            for row, column in np.argwhere(gradient > 0):
                corner, style = (column - 0.46, row - 0.46), {"color": "tab:red", "linewidth": 1.5}
                axis.add_patch(Rectangle(corner, 0.92, 0.92, fill=False, **style))
