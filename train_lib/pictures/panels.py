"""Shared by the figures: panels in rows and columns, small images side by side, sorted names."""

import bisect
import re
import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from flax.traverse_util import flatten_dict
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from matplotlib.ticker import NullFormatter

TICK_COLOUR = "0.35"  # of the numbers around images
FEW = 64  # panels whose last row should be full
MOST_HISTOGRAMS = 24  # panels in one figure
MOST_VALUES = 2**20  # of a layer in its histogram, evenly spaced


def grid(count: int) -> tuple[int, int]:
    """Rows and columns for `count` panels, somewhat wider than high.

    A few panels fill their rows, if one column more or fewer makes that possible.
    """
    columns = max(1, round(count**0.5 * 1.3))
    if count <= FEW:
        nearest = (columns, columns + 1, max(1, columns - 1))
        columns = min(nearest, key=lambda columns: -count % columns)
    return -(-count // columns), columns


def single(width: float, height: float):
    """A figure and its only axis. Sizes are in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def blank(rows: int, columns: int, size: tuple[float, float]):
    """A figure and its axes [rows, columns] without frames. size: of the figure, in inches."""
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    return figure, axes


def text_inches(text: str, points: float) -> float:
    """The width of a line of text in Matplotlib's font."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # for a script that the font lacks
        size = text_to_path.get_text_width_height_descent(text, FontProperties(size=points), False)
    return size[0] / 72


def fitted(text: str, inches: float, points: float) -> str:
    """The text, with its end replaced by "…" if it is wider than `inches`."""
    text = " ".join(text.split())[:200]  # one line
    if text_inches(text, points) <= inches:
        return text
    lengths = range(len(text))
    most = bisect.bisect(lengths, inches, key=lambda n: text_inches(text[:n] + "…", points))
    return text[: max(0, most - 1)].rstrip() + "…"


def wrapped(text: str, inches: float, points: float, most: int) -> str:
    """The text in at most `most` lines, broken at spaces, none wider than `inches`."""
    lines, words = [], text.split(" ")
    while words and len(lines) < most - 1:
        count = 1
        while count < len(words) and text_inches(" ".join(words[: count + 1]), points) <= inches:
            count += 1
        lines.append(" ".join(words[:count]))
        words = words[count:]
    lines.append(" ".join(words))
    return "\n".join(fitted(line, inches, points) for line in lines if line)


def plain_legend(legend) -> None:
    """Shows labels as they are: names may contain "$", which would begin a formula."""
    for text in legend.get_texts():
        text.set_parse_math(False)


def draw_mosaic(axis, tiles: np.ndarray, columns: int, frame, first: int = 0) -> None:
    """Draws tiles [n, h, w, 3] of 0..1 in rows of `columns`, in frames of one pixel (RGB).

    The number of a tile is the number at its row plus the number at its column. first: the number
    of the first tile. One image is drawn many times faster than hundreds of axes.
    """
    count, height, width, _ = tiles.shape
    rows = -(-count // columns)
    sheet = np.ones((rows * (height + 1) + 1, columns * (width + 1) + 1, 3), np.float32)
    for number, tile in enumerate(tiles):
        top = number // columns * (height + 1)
        left = number % columns * (width + 1)
        sheet[top : top + height + 2, left : left + width + 2] = frame
        sheet[top + 1 : top + height + 1, left + 1 : left + width + 1] = tile
    axis.imshow(sheet, interpolation="nearest")
    row_names = [str(first + row * columns) for row in range(rows)]
    axis.set_yticks((np.arange(rows) + 0.5) * (height + 1), row_names)
    column_names = [f"+{column}" for column in range(columns)]
    axis.set_xticks((np.arange(columns) + 0.5) * (width + 1), column_names)
    axis.xaxis.tick_top()
    axis.tick_params(length=0, labelsize=6, colors=TICK_COLOUR)
    axis.set_ylabel("number: row + column", fontsize=6, color=TICK_COLOUR)
    for side in axis.spines.values():
        side.set_visible(False)


def grey_tiles(maps: np.ndarray, low: float, high: float) -> np.ndarray:
    """Grey tiles [n, h, w, 3] of maps [n, h, w]: `low` is black, `high` is white."""
    low, high = np.float32(low), np.float32(high)
    grey = np.clip((maps - low) / np.maximum(high - low, 1e-12), 0, 1)
    return np.repeat(grey[..., None], 3, axis=-1).astype(np.float32)


def show(axis, image: np.ndarray) -> None:
    """Draws an image [h, w] or [h, w, 1 or 3]; floats are stretched to the range of grey values."""
    image = np.asarray(image)
    if image.ndim == 3 and image.shape[-1] == 1:
        image = image[..., 0]
    white = 255
    if image.dtype != np.uint8:
        low, high = float(image.min()), float(image.max())
        image, white = (image - low) / max(high - low, 1e-12), 1
    axis.imshow(image, cmap="gray", interpolation="nearest", vmin=0, vmax=white)
    axis.axis("off")


def kernels(params: Mapping) -> dict[str, np.ndarray]:
    """The layers' weights by path, {"conv1": array}, without biases, in `natural_order`."""
    leaves, suffix = flatten_dict(params, sep="/"), "/kernel"
    names = [name.removesuffix(suffix) for name in leaves if name.endswith(suffix)]
    return {name: leaves[name + suffix] for name in natural_order(names)}


def natural_order(names: Sequence[str]) -> list[str]:
    """Names sorted as people count: h2 before h10."""
    return sorted(names, key=lambda name: re.sub(r"\d+", lambda n: n.group().zfill(9), name))


def evenly_spaced(names: Sequence[str], most: int) -> list[str]:
    """At most `most` of the names, evenly spaced, with the first and the last."""
    if len(names) <= most:
        return list(names)
    return [names[round(i * (len(names) - 1) / (most - 1))] for i in range(most)]


def histograms(values: Mapping[str, np.ndarray], name: str, title: Callable, log: bool) -> Figure:
    """A panel for each layer: at most MOST_HISTOGRAMS layers and MOST_VALUES values of each.

    name: the title of the figure. title: a layer's values -> the text below its name. log: whether
    counts are on a logarithmic axis.
    """
    shown = evenly_spaced(list(values), MOST_HISTOGRAMS)
    rows, columns = grid(len(shown))
    figure, axes = blank(rows, columns, (2.4 * columns, 1.9 * rows + 0.4))
    for layer, axis in zip(shown, axes.flat, strict=False):
        axis.axis("on")
        flat = np.asarray(values[layer]).reshape(-1)
        flat = flat[:: -(-flat.size // MOST_VALUES)].astype(np.float64)
        flat = flat[np.isfinite(flat)]
        axis.hist(flat, bins=60, color="tab:blue", log=log)
        axis.set_title(f"{layer}\n{title(flat)}", fontsize=7, parse_math=False)
        axis.tick_params(labelsize=6)
        axis.locator_params(axis="x", nbins=4)
        axis.yaxis.set_minor_formatter(NullFormatter())
        if not log:
            axis.set_yticks([])
    left_out = f" ({len(shown)} of {len(values)} layers)" if len(shown) < len(values) else ""
    figure.suptitle(f"{name}{left_out}", fontsize=9)
    figure.supxlabel("value", fontsize=8)
    figure.supylabel("number of values", fontsize=8)
    return figure
