"""Figures of parameters: filters as small images, and histograms of weights by layer."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from errors import UserError
from train_lib.pictures import panels

MOST_FILTERS = 256  # of those with 1 or 3 channels
MOST_ROWS, MOST_CHANNELS = 24, 24  # of filters with more
TOWERS = ((0.85, 0.37, 0.01), (0.12, 0.47, 0.71), (0.46, 0.44, 0.70), (0.11, 0.62, 0.47))


def filters(kernel: np.ndarray, towers: int = 1) -> Figure:
    """The filters of a layer as images (Krizhevsky 2012, fig. 3).

    kernel: [kh, kw, channels, filters]. Filters with 1 channel are grey and those with 3 in colour,
        at most the first MOST_FILTERS. Each filter with another number of channels is a row of grey
        images, one for each of the first channels.
    towers: how many equal blocks the filters form, each drawn in frames of another colour.

    Grey is zero, and all filters have the same scale, which the bar shows: the weight that makes a
    pixel black or white, for each colour of a filter with 3 channels. The number of a filter is the
    number at its row plus the number at its column.

    Raises UserError for another shape of the kernel.
    """
    kernel = np.asarray(kernel, np.float32)
    if kernel.ndim != 4 or kernel.shape[-1] % towers:
        raise UserError(
            f"a kernel {list(kernel.shape)} in {towers} towers cannot be drawn: give"
            " [height, width, channels, filters], filters a multiple of the towers"
        )
    channels, count = kernel.shape[2], kernel.shape[3] // towers
    limit = max(1e-12, float(np.abs(kernel).max()))
    as_images = channels in (1, 3)
    shown = min(count, (MOST_FILTERS if as_images else MOST_ROWS) // towers)
    across = panels.grid(shown)[1] if as_images else min(channels, MOST_CHANNELS)
    if as_images and towers > 1:
        across = math.ceil(count / max(1, round((count / 5) ** 0.5)))  # 48 filters: 3 rows
    down = -(-shown // across) if as_images else shown
    inches = max(0.25, min(1, 7 / across))
    figure = Figure(
        figsize=(inches * across + 1.4, towers * (inches * down + 0.5) + 0.3), layout="compressed"
    )
    axes = figure.subplots(towers, 1, squeeze=False)[:, 0]
    for tower, axis in enumerate(axes):
        first = tower * count
        block = np.moveaxis(kernel[..., first : first + shown], -1, 0)
        if as_images:
            tiles = np.broadcast_to(block / (2 * limit) + 0.5, (*block.shape[:3], 3))
        else:
            rows = np.moveaxis(block[..., :across], -1, 1)
            tiles = panels.grey_tiles(rows.reshape(-1, *rows.shape[2:]), -limit, limit)
        frame = TOWERS[tower % len(TOWERS)] if towers > 1 else (1, 1, 1)
        panels.draw_mosaic(axis, tiles, across, frame, first)
        if not as_images:
            axis.set_yticks(axis.get_yticks(), [str(first + row) for row in range(shown)])
            axis.set_xticks(axis.get_xticks(), [str(channel) for channel in range(across)])
            axis.set_ylabel("filter", fontsize=7)
            axis.set_xlabel("input channel", fontsize=7)
            axis.xaxis.set_label_position("top")
        if towers > 1:
            label = f"tower {tower + 1}: filters {first} to {first + count - 1}"
            axis.set_title(label, fontsize=8, color=frame)
    _add_weight_bar(figure, axes, limit)
    parts = []
    if shown < count:
        parts.append(f"the first {shown} of {count} filters" + " of a tower" * (towers > 1))
    if not as_images:
        parts.append(f"input channels 0 to {across - 1} of {channels}, side by side")
    whole = f"{kernel.shape[3]} filters of {kernel.shape[0]}x{kernel.shape[1]} pixels"
    figure.suptitle("; ".join(parts) or whole, fontsize=9)
    return figure


def _add_weight_bar(figure: Figure, axes: np.ndarray, limit: float) -> None:
    """Adds the bar that says which weight is black (-limit) and which is white (limit)."""
    scale = ScalarMappable(Normalize(-limit, limit), "gray")
    bar = figure.colorbar(scale, ax=axes, aspect=30)
    bar.set_label("weight", fontsize=8)
    bar.ax.tick_params(labelsize=7)


def first_kernel(params: Mapping[str, Any], input_shape=None) -> np.ndarray | None:
    """The kernel [h, w, 1 or 3, n] of the first layer; None if it cannot be drawn.

    input_shape: (height, width, channels). If it is given, the weights of a first layer that is
    fully connected count as filters of the image's size.
    """
    for kernel in panels.kernels(params).values():
        if kernel.ndim == 4 and kernel.shape[2] in (1, 3):
            return np.asarray(kernel)
        if kernel.ndim == 2 and input_shape and kernel.shape[0] == math.prod(input_shape):
            return np.asarray(kernel).reshape(*input_shape, -1)
    return None


def weight_histograms(variables: Mapping[str, Any]) -> Figure:
    """Histograms of each layer's weights, without biases, with mean and standard deviation.

    variables: {"params": ...}, or parameters alone. Layers are in the order of their names, h2
    before h10, at most panels.MOST_HISTOGRAMS of them.
    """
    return panels.histograms(
        panels.kernels(variables.get("params", variables)),
        "weights of each layer (mean ± standard deviation)",
        lambda v: f"{v.mean():.2g} ± {v.std():.2g}",
        log=False,
    )
