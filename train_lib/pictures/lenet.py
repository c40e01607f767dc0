"""Pictures of what only LeNet-5 has: the connection table of C3, and the codes of its outputs."""

import numpy as np
from matplotlib.figure import Figure

from models.lenet import C3_TABLE
from models.lenet import rbf_codes as codes
from train_lib.pictures import panels

MOST_EXAMPLES = 10
_AMPLITUDE = 1.7159  # of F6's squashing function (LeCun 1998, app. A)


def c3_table() -> Figure:
    """Which maps of S2 each map of C3 is connected to (LeCun 1998, table I): 60 connections.

    A row a map of S2, a column a map of C3; how many a map has stands at its end.
    """
    joined = np.zeros((6, len(C3_TABLE)), int)
    for column, rows in enumerate(C3_TABLE):
        joined[list(rows), column] = 1
    figure = Figure(figsize=(7, 3.4), layout="constrained")
    axis = figure.subplots()
    axis.imshow(joined, cmap="Blues", vmin=0, vmax=1.6)
    for row, column in zip(*np.nonzero(joined), strict=True):
        axis.text(column, row, "X", ha="center", va="center", fontsize=9)
    axis.set_xticks(range(16), [f"{n}\n({k})" for n, k in enumerate(joined.sum(0))], fontsize=8)
    axis.set_yticks(range(6), [f"{n}  ({k})" for n, k in enumerate(joined.sum(1))], fontsize=8)
    axis.set_xticks(np.arange(17) - 0.5, minor=True)
    axis.set_yticks(np.arange(7) - 0.5, minor=True)
    axis.grid(which="minor", color="0.8")
    axis.tick_params(which="both", length=0)
    axis.set(
        xlabel="map of C3 (and how many it sees)",
        ylabel="map of S2 (and by how many seen)",
        title=f"{joined.sum()} pairs of maps of {joined.size}",
    )
    return figure


def rbf_codes(f6: np.ndarray | None = None, labels=None) -> Figure:
    """The ten codes of the RBF outputs as 12x7 pictures (LeCun 1998, fig. 3); ink is +1.

    f6: what F6 gives, behind its squashing function, [n, 84], of which the first MOST_EXAMPLES
    are shown: each above the code of its label, between them their squared distance, which is the
    RBF's output y (eq. 7), and the nearest code where it is another. labels: digits [n]; None: the
    nearest codes.
    """
    centres = codes().astype(np.float64)
    shown = 0 if f6 is None else min(len(f6), MOST_EXAMPLES)
    figure, axes = panels.blank(3 if shown else 1, 10, (9, 6 if shown else 1.9))

    def draw(axis, values, title):
        axis.imshow(values.reshape(12, 7), cmap="gray_r", vmin=-_AMPLITUDE, vmax=_AMPLITUDE)
        axis.set_title(title, fontsize=8)

    for digit in range(10):
        draw(axes[0, digit], centres[digit], str(digit))
    for i in range(shown):
        unit = np.asarray(f6[i], np.float64).reshape(84)
        distances = np.sum((unit - centres) ** 2, axis=1)
        nearest = int(distances.argmin())
        label = nearest if labels is None else int(labels[i])
        draw(axes[1, i], unit, f"F6 of a {label}" if labels is not None else "F6")
        text = f"code {label}: {distances[label]:.1f}"
        if nearest != label:
            text += f"\nnearest {nearest}: {distances[nearest]:.1f}"
        draw(axes[2, i], centres[label], text)
    if shown:
        figure.suptitle("the ten codes; outputs of F6; their codes and squared distances")
    return figure
