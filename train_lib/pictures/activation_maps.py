"""Figures of layers' outputs: feature maps, histograms, units that are always off."""

import math
from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from models.layers.activations import layer_name
from train_lib.pictures import panels

MOST_MAPS = 64
MOST_BARS = 60


def feature_maps(maps: np.ndarray, title: str = "") -> Figure:
    """The maps of one layer for one image, in grey: the first MOST_MAPS of them.

    maps: [height, width, maps]; or [units] of a layer without maps, drawn as the pixels of one.
    Black is the smallest value of the layer, white the largest. The number of a map is the number
    at its row plus the number at its column.
    """
    maps = np.asarray(maps, np.float32)
    if maps.ndim == 1 or maps.shape[:2] == (1, 1):
        maps = as_square(maps.reshape(-1))[..., None]
    count = min(maps.shape[-1], MOST_MAPS)
    columns = min(count, 8 if count > 32 else panels.grid(count)[1])
    tiles = panels.grey_tiles(np.moveaxis(maps[..., :count], -1, 0), maps.min(), maps.max())
    inches = 0.95 if count > 1 else 4
    figure, axis = panels.single(
        max(3, inches * columns + 0.5), inches * -(-count // columns) + 0.8
    )
    if count == 1:
        axis.imshow(tiles[0], interpolation="nearest")
        axis.axis("off")
    else:
        panels.draw_mosaic(axis, tiles, columns, (0.12, 0.47, 0.71))
    more = f" (the first {count} of {maps.shape[-1]})" if count < maps.shape[-1] else ""
    values = f"black {maps.min():.3g}, white {maps.max():.3g}"
    figure.suptitle(f"{title}{more}\n{values}".strip(), fontsize=8, parse_math=False, wrap=True)
    return figure


def as_square(vector: np.ndarray) -> np.ndarray:
    """A vector [n] in the rows of a map [h, w] that is nearly square, filled up with zeros."""
    root = len(vector) ** 0.5
    widths = range(max(1, round(root)), math.ceil(2 * root) + 1)
    # Without zeros if possible: 84 units are 7 rows of 12.
    width = next((width for width in widths if len(vector) % width == 0), widths[0])
    height = -(-len(vector) // width)
    return np.pad(vector, (0, height * width - len(vector))).reshape(height, width)


def activation_histograms(activations: Mapping[str, np.ndarray]) -> Figure:
    """Histograms of layers' outputs, a panel for each layer, with logarithmic counts.

    activations: of `inspection.activations` or `Trained.activations`. Each panel states the mean,
    the standard deviation, and the share of values that are exactly 0 (rectified or dropped).
    """
    return panels.histograms(
        activations,
        "outputs of each layer (mean ± standard deviation; share of zeros)",
        lambda v: f"{v.mean():.3g} ± {v.std():.3g}; {(v == 0).mean():.0%} are 0",
        log=True,
    )


def dead_units(activations: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The share, in 0..1, of each ReLU's units that are 0 for every image, at every place.

    activations: {name: [n, ..., units]} of `inspection.activations`; those after ReLU count
    ("conv1_relu"). A unit is a map where there are maps. It passes no gradient for these images. It
    may for others, so give many images.
    """
    shares = {}
    for name, values in activations.items():
        if name.endswith(layer_name("", "relu")) and not name.endswith(
            layer_name("", "leaky_relu")
        ):
            values = np.asarray(values)
            is_on = (values > 0).any(axis=tuple(range(values.ndim - 1)))
            shares[name] = float(1 - is_on.mean())
    return shares


def dead_unit_bars(shares: Mapping[str, float], images: int | None = None) -> Figure:
    """A bar for each layer: `dead_units` in percent, the layer nearest to the image at the top.

    images: the number of images that `shares` come from, for the title.
    """
    names = panels.evenly_spaced(list(shares), MOST_BARS)
    figure, axis = panels.single(6, 1 + 0.2 * max(4, len(names)))
    values = [100 * shares[name] for name in names]
    bars = axis.barh(range(len(names)), values, color="tab:red")
    axis.bar_label(bars, [f"{value:.1f}" for value in values], fontsize=6, padding=2)
    axis.set_yticks(range(len(names)), names, fontsize=7, parse_math=False)
    axis.invert_yaxis()
    axis.set_xlim(0, max(5.0, min(110.0, 1.15 * max(values, default=0))))
    axis.set_xlabel("share of units, %")
    every = "every image" if images is None else f"all {images} images"
    figure.suptitle(f"units that are 0 for {every}", fontsize=9)
    return figure
