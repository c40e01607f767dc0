"""Convolution and max pooling with every number shown; the lines of a perceptron."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from models import filters, perceptron
from models.layers import Pool


def maps_and_pools(image: np.ndarray, kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The map of an image [h, w] under a kernel, without a border, and its 2x2 max pooling."""
    x = np.asarray(image, np.float32)[None, :, :, None]
    responses = filters.convolve(x, kernel[:, :, None, None], "none")
    pooled = Pool("max", 2, 2).apply({}, responses)
    return np.asarray(responses)[0, ..., 0], np.asarray(pooled)[0, ..., 0]


def convolution(image: np.ndarray, kernels: Mapping[str, np.ndarray]) -> Figure:
    """A row for each kernel: image, kernel, map, and 2x2 max pooling, with their numbers.

    image: [h, w] of whole numbers. Red is negative, blue is positive. Frames in the image show the
    place of the largest value of the map, in the map the windows of pooling.
    """
    figure = Figure(figsize=(9, 2.1 * len(kernels) + 0.3), layout="constrained")
    axes = figure.subplots(len(kernels), 4, squeeze=False, width_ratios=(6, 3, 4, 2))
    for row, (name, kernel) in zip(axes, kernels.items(), strict=True):
        responses, pooled = maps_and_pools(image, kernel)
        panes = {"image": image, name: kernel, "map": responses, "max pooling": pooled}
        for axis, (title, values) in zip(row, panes.items(), strict=True):
            axis.imshow(values, cmap="RdBu", vmin=-6, vmax=6)
            for (r, c), value in np.ndenumerate(values):
                axis.text(c, r, f"{value:g}", ha="center", va="center", fontsize=10)
            axis.set_title(title, fontsize=10)
            axis.set(xticks=[], yticks=[])
        top, left = np.unravel_index(responses.argmax(), responses.shape)
        _frame(row[0], top, left, *kernel.shape)
        for r, c in np.ndindex(pooled.shape):
            _frame(row[2], 2 * r, 2 * c, 2, 2)
    return figure


def _frame(axis, top: int, left: int, rows: int, columns: int) -> None:
    corner = (left - 0.47, top - 0.47)
    axis.add_patch(
        Rectangle(corner, columns - 0.06, rows - 0.06, fill=False, color="black", linewidth=1.5)
    )


def line_ends(weights: np.ndarray) -> np.ndarray:
    """Two distant points [2, 2] of the line on which weights [3] give 0; the last is the bias."""
    normal, bias = np.asarray(weights[:2], float), float(weights[2])
    middle = -bias * normal / (normal @ normal)
    along = np.array([-normal[1], normal[0]]) / np.linalg.norm(normal)
    return middle + np.outer([-9, 9], along)


def perceptrons(passes: int) -> Figure:
    """Rosenblatt's rule on AND, OR and XOR: the line after every example, and the mistakes.

    The line after the last pass is red; for XOR, the weights of both inputs are then 0 again.
    Points of class +1 are full.
    """
    figure = Figure(figsize=(11, 2.9), layout="constrained")
    *squares, right = figure.subplots(1, 4, width_ratios=(1, 1, 1, 1.3))
    for axis, (name, labels) in zip(squares, perceptron.FUNCTIONS.items(), strict=True):
        learnt = perceptron.learn(perceptron.POINTS, labels, passes=passes)
        history = np.unique(learnt.history.reshape(-1, 3), axis=0)
        for weights, colour in [*((w, "0.8") for w in history), (learnt.weights, "tab:red")]:
            if weights[:2].any():
                axis.plot(*line_ends(weights).T, color=colour)
        for label, fill in ((1, "black"), (-1, "white")):
            chosen = perceptron.POINTS[labels == label]
            axis.plot(*chosen.T, "o", mfc=fill, mec="black", ms=9, zorder=3)
        axis.set(xlim=(-0.5, 1.5), ylim=(-0.5, 1.5), xticks=(0, 1), yticks=(0, 1))
        axis.set(title=name.upper(), aspect="equal")
        right.plot(range(1, passes + 1), learnt.mistakes, "o-", label=name.upper())
    right.set(xlabel="pass", ylabel="mistakes", xticks=range(1, passes + 1), yticks=range(5))
    right.legend()
    return figure
