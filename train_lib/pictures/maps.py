"""Pictures of what layers give for images: feature maps, histograms, units that never fire."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from models.layers.activations import layer_name
from train_lib.pictures import panels

MOST_MAPS = 64
RECTIFIERS = ("relu", "leaky_relu", "prelu")
MOST_BARS = 60


def feature_maps(maps: np.ndarray, title: str = "") -> Figure:
    """The maps of one layer for one image, grey, the first MOST_MAPS of them.

    maps: [height, width, maps], or [units] of a layer without maps, which are pixels of one.
    Black is the least value of the figure and white the largest. The number of a map is that of
    its row plus that of its column.
    """
    maps = np.asarray(maps, np.float32)
    if maps.ndim == 1 or maps.shape[:2] == (1, 1):
        maps = as_square(maps.reshape(-1))[..., None]
    count = min(maps.shape[-1], MOST_MAPS)
    columns = min(count, 8 if count > 32 else panels.grid(count)[1])
    tiles = panels.shades(np.moveaxis(maps[..., :count], -1, 0), maps.min(), maps.max())
    rows = -(-count // columns)
    inches = 0.95 if count > 1 else 4
    figure = Figure(
        figsize=(max(3, inches * columns + 0.5), inches * rows + 0.8), layout="constrained"
    )
    axis = figure.subplots()
    if count == 1:
        axis.imshow(tiles[0], interpolation="nearest")
        axis.axis("off")
    else:
        panels.draw_mosaic(axis, tiles, columns, (0.12, 0.47, 0.71))
    more = f" (the first {count} of {maps.shape[-1]})" if count < maps.shape[-1] else ""
    values = f"black {maps.min():.3g}, white {maps.max():.3g}"
    figure.suptitle(f"{title}{more}\n{values}".strip(), fontsize=8, parse_math=False)
    return figure


def as_square(vector: np.ndarray) -> np.ndarray:
    """A vector [n] as rows of a map [h, w] near a square; what is missing at its end is 0."""
    width = max(1, round(len(vector) ** 0.5))
    while width < 2 * len(vector) ** 0.5 and len(vector) % width:
        width += 1  # 84 units: 7 rows of 12
    if len(vector) % width:
        width = max(1, round(len(vector) ** 0.5))
    height = -(-len(vector) // width)
    return np.pad(vector, (0, height * width - len(vector))).reshape(height, width)


def activation_histograms(found: Mapping[str, np.ndarray]) -> Figure:
    """Histograms of what layers give, a panel a layer in the order of `found`, counts logarithmic.

    found: of `inspection.activations`, or of `Trained.activations`. Each panel states mean and
    deviation, and the share of values that are exactly 0 (what a rectifier or dropout cuts off).
    """
    return panels.histograms(
        dict(found),
        "activations (counts logarithmic)",
        lambda v: f"{v.mean():.2g} ± {v.std():.2g}; {(v == 0).mean():.0%} are 0",
        log=True,
    )


def dead_units(found: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The share of units behind each rectifier that are above 0 for no image, and at no place.

    found: {name: [n, ..., units]} of `inspection.activations`; those behind ReLU, leaky ReLU and
    PReLU are looked at ("conv1_relu"), in their order. A unit is a map where there are maps. Such
    a ReLU passes no gradient for these images: take many, as a unit may be for others. Shares
    are in 0..1.
    """
    shares = {}
    for name, values in found.items():
        if name.endswith(tuple(layer_name("", kind) for kind in RECTIFIERS)):
            values = np.asarray(values)
            fires = (values > 0).any(axis=tuple(range(values.ndim - 1)))
            shares[name] = float(1 - fires.mean())
    return shares


def dead_unit_bars(shares: Mapping[str, float]) -> Figure:
    """A bar a layer: `dead_units` in percent, from the image at the top down."""
    names = panels.some(list(shares), MOST_BARS)
    figure = Figure(figsize=(6, 1 + 0.2 * max(4, len(names))), layout="constrained")
    axis = figure.subplots()
    values = [100 * shares[name] for name in names]
    bars = axis.barh(range(len(names)), values, color="tab:red")
    axis.bar_label(bars, [f"{value:.1f}" for value in values], fontsize=6, padding=2)
    axis.set_yticks(range(len(names)), names, fontsize=7, parse_math=False)
    axis.invert_yaxis()
    axis.set_xlim(0, max(5.0, min(110.0, 1.15 * max(values, default=0))))
    axis.set_xlabel("units that no image switches on, %")
    return figure
