"""Pictures of parameters: filters as small images, histograms of weights by layer."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict
from matplotlib.figure import Figure

from errors import UserError
from train_lib.pictures import panels

MOST_FILTERS = 256  # as images
MOST_ROWS, MOST_CHANNELS = 24, 24  # of filters with other than 1 or 3 channels
TOWERS = ((0.85, 0.37, 0.01), (0.12, 0.47, 0.71), (0.46, 0.44, 0.70), (0.11, 0.62, 0.47))


def filters(kernel: np.ndarray, towers: int = 1) -> Figure:
    """The filters of a layer as images (Krizhevsky 2012, fig. 3).

    kernel: [kh, kw, channels, filters]. With 1 channel they are grey, with 3 in colour, at most
    the first MOST_FILTERS; with another number each is a row of grey images, one an input channel,
    of the first filters (of each tower) and channels. Grey is zero, and all of a figure have one
    scale. The number of a filter is that of its row plus that of its column.

    towers: into how many equal parts the filters fall, in order: each is a block of its own, in
    frames of its own colour. Raises UserError for another kind of kernel.
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
    inches = max(0.25, min(0.62, 11 / across))
    figure = Figure(
        figsize=(inches * across + 0.6, towers * (inches * down + 0.5) + 0.3), layout="constrained"
    )
    axes = figure.subplots(towers, 1, squeeze=False)[:, 0]
    for tower, axis in enumerate(axes):
        first = tower * count
        own = np.moveaxis(kernel[..., first : first + shown], -1, 0)
        if as_images:
            tiles = np.broadcast_to(own / (2 * limit) + 0.5, (*own.shape[:3], 3))
        else:
            rows = np.moveaxis(own[..., :across], -1, 1)
            tiles = panels.shades(rows.reshape(-1, *rows.shape[2:]), -limit, limit)
        frame = TOWERS[tower % len(TOWERS)] if towers > 1 else (1, 1, 1)
        panels.draw_mosaic(axis, tiles, across, frame, first)
        if not as_images:
            axis.set_yticks(axis.get_yticks(), [str(first + row) for row in range(shown)])
            axis.set_ylabel("filter", fontsize=7)
        if towers > 1:
            label = f"tower {tower + 1}: filters {first} to {first + count - 1}"
            axis.set_title(label, fontsize=8, color=frame)
    parts = []
    if shown < count:
        parts.append(f"the first {shown} of {count} filters" + (" a tower" * (towers > 1)))
    if not as_images:
        parts.append(f"input channels 0 to {across - 1} of {channels}, side by side")
    if parts:
        figure.suptitle("; ".join(parts), fontsize=8)
    return figure


def first_kernel(params: Mapping[str, Any], input_shape=None) -> np.ndarray | None:
    """The kernel [h, w, 1 or 3, n] of the first layer; None if the net has none to be drawn.

    input_shape: (height, width, channels); with it, the weights of a first fully connected layer
    are filters as large as the image.
    """
    for name in panels.naturally(list(params)):
        layer = params[name]
        kernel = layer.get("kernel") if hasattr(layer, "get") else None
        if kernel is None:
            continue
        if kernel.ndim == 4 and kernel.shape[2] in (1, 3):
            return np.asarray(kernel)
        if kernel.ndim == 2 and input_shape and kernel.shape[0] == math.prod(input_shape):
            return np.asarray(kernel).reshape(*input_shape, -1)
    return None


def weight_histograms(variables: Mapping[str, Any]) -> Figure:
    """Histograms of the weights, a panel a layer, with their mean and deviation.

    variables: {"params": ...}, or parameters alone. Weights are the arrays called `kernel`, biases
    left out. Layers stand in the order of their names, h2 before h10; of more than
    panels.MOST_HISTOGRAMS, so many at equal distances.
    """
    leaves = flatten_dict(variables.get("params", variables), sep="/")
    own = {name[: -len("/kernel")]: leaf for name, leaf in leaves.items() if _is_kernel(name)}
    ordered = {name: own[name] for name in panels.naturally(list(own))}
    return panels.histograms(
        ordered, "weights", lambda v: f"{v.mean():.2g} ± {v.std():.2g}", log=False
    )


def _is_kernel(name: str) -> bool:
    return name.endswith("/kernel")
