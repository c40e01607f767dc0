"""What the pictures share: panels in rows and columns, small images side by side, sorted names."""

import re
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

INK = "0.35"  # of what stands around pictures
MOST_HISTOGRAMS = 24  # panels
MOST_VALUES = 2**20  # of a layer, at equal distances


def grid(count: int) -> tuple[int, int]:
    """Rows and columns for so many panels, somewhat wider than high."""
    columns = max(1, round(count**0.5 * 1.3))
    return -(-count // columns), columns


def blank(rows: int, columns: int, size: tuple[float, float]):
    """A figure and its rows x columns axes without frames. size: of the figure, in inches."""
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    return figure, axes


def mosaic(tiles: np.ndarray, columns: int, frame) -> np.ndarray:
    """Tiles [n, h, w, 3] of 0..1 in rows of `columns`, one pixel of `frame` (RGB) around each.

    [rows * (h + 1) + 1, columns * (w + 1) + 1, 3]. One image is drawn many times faster than
    hundreds of axes. Places without a tile are white.
    """
    count, height, width, _ = tiles.shape
    rows = -(-count // columns)
    sheet = np.ones((rows * (height + 1) + 1, columns * (width + 1) + 1, 3), np.float32)
    for number, tile in enumerate(tiles):
        top = number // columns * (height + 1)
        left = number % columns * (width + 1)
        sheet[top : top + height + 2, left : left + width + 2] = frame
        sheet[top + 1 : top + height + 1, left + 1 : left + width + 1] = tile
    return sheet


def draw_mosaic(axis, tiles: np.ndarray, columns: int, frame=(1, 1, 1), first: int = 0) -> None:
    """A mosaic on an axis; at its left and on top, by which numbers a tile is found.

    The number of a tile is that of its row, on the left, plus that of its column, on top.
    """
    _, height, width, _ = tiles.shape
    axis.imshow(mosaic(tiles, columns, frame), interpolation="nearest")
    rows = -(-len(tiles) // columns)
    axis.set_yticks(
        (np.arange(rows) + 0.5) * (height + 1),
        [str(first + row * columns) for row in range(rows)],
    )
    axis.set_xticks(
        (np.arange(columns) + 0.5) * (width + 1), [f"+{column}" for column in range(columns)]
    )
    axis.xaxis.tick_top()
    axis.tick_params(length=0, labelsize=6, colors=INK)
    for side in axis.spines.values():
        side.set_visible(False)


def shades(maps: np.ndarray, low, high) -> np.ndarray:
    """Grey tiles [n, h, w, 3] of maps [n, h, w]: `low` is black, `high` white (numbers, or [n])."""
    low, high = (np.reshape(np.asarray(limit, np.float32), (-1, 1, 1)) for limit in (low, high))
    grey = np.clip((maps - low) / np.maximum(high - low, 1e-12), 0, 1)
    return np.repeat(grey[..., None], 3, axis=-1).astype(np.float32)


def show(axis, image: np.ndarray) -> None:
    """A picture [h, w] or [h, w, 1 or 3], uint8 or float; floats are stretched to their range."""
    image = np.asarray(image)
    if image.ndim == 3 and image.shape[-1] == 1:
        image = image[..., 0]
    if image.dtype != np.uint8:
        low, high = float(image.min()), float(image.max())
        image = (image - low) / max(high - low, 1e-12)
        limits = {"vmin": 0, "vmax": 1}
    else:
        limits = {"vmin": 0, "vmax": 255}
    axis.imshow(image, cmap="gray", interpolation="nearest", **limits)
    axis.axis("off")


def naturally(names: Sequence[str]) -> list[str]:
    """Names in the order in which people count: h2 before h10."""
    return sorted(names, key=lambda name: re.sub(r"\d+", lambda n: n.group().zfill(9), name))


def some(names: Sequence[str], most: int) -> list[str]:
    """`most` of them at equal distances, the first and the last among them; all if not more."""
    if len(names) <= most:
        return list(names)
    return [names[round(i * (len(names) - 1) / (most - 1))] for i in range(most)]


def histograms(values: dict[str, np.ndarray], what: str, title, log: bool) -> Figure:
    """A panel a layer, of at most MOST_HISTOGRAMS layers and MOST_VALUES values of each.

    title: values -> what stands above the panel, behind the name. log: whether counts are.
    """
    names = some(list(values), MOST_HISTOGRAMS)
    rows, columns = grid(len(names))
    figure = Figure(figsize=(2.4 * columns, 1.9 * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat[len(names) :]:
        axis.axis("off")
    for name, axis in zip(names, axes.flat, strict=False):
        flat = np.asarray(values[name]).reshape(-1)
        flat = flat[:: -(-flat.size // MOST_VALUES)].astype(np.float64)
        flat = flat[np.isfinite(flat)]
        axis.hist(flat, bins=60, color="tab:blue", log=log)
        axis.set_title(f"{name}\n{title(flat)}", fontsize=7, parse_math=False)
        axis.tick_params(labelsize=6)
        axis.locator_params(axis="x", nbins=4)
        axis.yaxis.set_minor_formatter(NullFormatter())
        if not log:
            axis.set_yticks([])
    left_out = f" ({len(names)} of {len(values)} layers)" if len(names) < len(values) else ""
    figure.suptitle(f"{what}{left_out}", fontsize=9)
    return figure
