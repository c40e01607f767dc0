"""The gradient of max pooling goes to the pixels that have the maxima."""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from models.layers import Pool


def pool_routes(x: np.ndarray, window: int, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """The max pooling of a map [h, w], and the gradient [h, w] of the sum of its outputs.

    The gradient is the layer's own: the number of windows in which a pixel is the maximum. Of
    equal pixels the first counts (rows from the top, each from the left).
    """
    layer = Pool("max", window, stride)
    images = jnp.asarray(x, jnp.float32)[None, :, :, None]
    pooled, pull_back = jax.vjp(lambda images: layer.apply({}, images), images)
    (gradient,) = pull_back(jnp.ones_like(pooled))
    return np.asarray(pooled)[0, ..., 0], np.asarray(gradient)[0, ..., 0]


def max_pool_routing(x: np.ndarray, window: int, stride: int) -> Figure:
    """A map [h, w], its max pooling, and the gradient of the sum of the outputs (`pool_routes`).

    Frames mark the maxima. Maps of up to 12x12 show their numbers.
    """
    x = np.asarray(x, np.float32)
    pooled, gradient = pool_routes(x, window, stride)
    low, high = float(x.min()), max(float(x.max()), float(x.min()) + 1e-12)
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    panes = (
        ("input (frames: the maxima)", x, "Blues", low, high),
        ("output", pooled, "Blues", low, high),
        ("gradient of the sum of the outputs", gradient, "Oranges", 0, max(1, gradient.max())),
    )
    for axis, pane in zip(figure.subplots(1, 3), panes, strict=True):
        title, values, cmap, least, most = pane
        axis.imshow(values, cmap=cmap, vmin=least, vmax=least + 1.5 * (most - least))
        axis.set_title(title, fontsize=9)
        axis.set(xticks=[], yticks=[])
        if max(values.shape) <= 12:
            for row, column in np.ndindex(values.shape):
                text = f"{values[row, column]:.2g}"
                axis.text(column, row, text, ha="center", va="center", fontsize=7)
        if values is not pooled:
            for row, column in np.argwhere(gradient > 0):
                corner, style = (column - 0.46, row - 0.46), {"color": "tab:red", "linewidth": 1.5}
                axis.add_patch(Rectangle(corner, 0.92, 0.92, fill=False, **style))
    figure.suptitle(f"max pooling {window}x{window}, stride {stride}", fontsize=11)
    return figure
