"""Figures for LeNet-5 alone: the connection table of C3, and the codes of its outputs."""

import numpy as np
from matplotlib.figure import Figure

from models import lenet
from train_lib.pictures import panels

MOST_EXAMPLES = 10
_AMPLITUDE = 1.7159  # of F6's squashing function (LeCun 1998, app. A)


def c3_table() -> Figure:
    """Which maps of S2 each map of C3 is connected to (LeCun 1998, table I): 60 connections.

    A row for each map of S2, a column for each map of C3, with the number of its connections.
    """
    table = np.zeros((6, len(lenet.C3_TABLE)), int)
    for column, rows in enumerate(lenet.C3_TABLE):
        table[list(rows), column] = 1
    figure, axis = panels.single(7, 3.4)
    axis.imshow(table, cmap="Blues", vmin=0, vmax=1.6)
    for row, column in zip(*np.nonzero(table), strict=True):
        axis.text(column, row, "X", ha="center", va="center", fontsize=9)
    axis.set_xticks(range(16), [f"{n}\n({k})" for n, k in enumerate(table.sum(0))], fontsize=8)
    axis.set_yticks(range(6), [f"{n}  ({k})" for n, k in enumerate(table.sum(1))], fontsize=8)
    axis.set_xticks(np.arange(17) - 0.5, minor=True)
    axis.set_yticks(np.arange(7) - 0.5, minor=True)
    axis.grid(which="minor", color="0.8")
    axis.tick_params(which="both", length=0)
    axis.set(
        xlabel="map of C3 (connections)",
        ylabel="map of S2 (connections)",
        title=f"{table.sum()} of {table.size} pairs of maps are connected",
    )
    return figure


def rbf_codes(f6: np.ndarray | None = None, labels=None) -> Figure:
    """The ten codes of the RBF outputs as 12x7 images (LeCun 1998, fig. 3); ink is +1.

    f6: outputs of F6 after its squashing function, [n, 84]. The first MOST_EXAMPLES are drawn, each
        above the code of its label, with their squared distance, which is the RBF's output y
        (eq. 7), and with the nearest code if that is another one.
    labels: digits [n]; None: the nearest codes.
    """
    codes = lenet.rbf_codes().astype(np.float64)
    shown = 0 if f6 is None else min(len(f6), MOST_EXAMPLES)
    figure, axes = panels.blank(3 if shown else 1, 10, (9, 5.6 if shown else 2))

    def draw(axis, values, title):
        axis.imshow(values.reshape(12, 7), cmap="gray_r", vmin=-_AMPLITUDE, vmax=_AMPLITUDE)
        axis.set_title(title, fontsize=8)

    for digit in range(10):
        draw(axes[0, digit], codes[digit], str(digit))
    for i in range(shown):
        output = np.asarray(f6[i], np.float64).reshape(84)
        distances = np.sum((output - codes) ** 2, axis=1)
        nearest = int(distances.argmin())
        label = nearest if labels is None else int(labels[i])
        draw(axes[1, i], output, "F6" if labels is None else f"F6 of a {label}")
        text = f"code {label}: {distances[label]:.1f}"
        if nearest != label:
            text += f"\nnearest {nearest}: {distances[nearest]:.1f}"
        draw(axes[2, i], codes[label], text)
    title = "the ten codes; outputs of F6; their codes and squared distances"
    figure.suptitle(title if shown else "the codes of the ten digits: dark +1, light -1")
    return figure
