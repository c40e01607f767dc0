"""Charts of the numbers of weights and multiply-adds, from the descriptions of `models.summary`."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from models.layers import DropConnect, FullyConnected
from train_lib.pictures import panels

FULLY_CONNECTED, OTHERS = "fully connected", "convolutions and others"
_TYPES = (FullyConnected.__name__, DropConnect.__name__)


def parts(description: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Parameters and multiply-adds of the fully connected layers, and of all others.

    description: of `models.summary.describe`. Returns {FULLY_CONNECTED: {"params", "macs"}, OTHERS:
    {...}}.
    """
    found = {name: {"params": 0, "macs": 0} for name in (OTHERS, FULLY_CONNECTED)}
    for row in description["layers"]:
        part = FULLY_CONNECTED if row["type"] in _TYPES else OTHERS
        for key, total in found[part].items():
            found[part][key] = total + row[key]
    return found


def size_chart(descriptions: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Bars of the parameters, and of the multiply-adds for one image, of several networks."""
    figure = Figure(figsize=(9.5, 0.9 + 0.5 * len(descriptions)), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    found = {name: parts(description) for name, description in descriptions.items()}
    for axis, key, unit, label in (
        (axes[0], "params", 1e6, "parameters, millions"),
        (axes[1], "macs", 1e9, "multiply-adds of one image, billions"),
    ):
        left = np.zeros(len(found))
        for part, colour in ((OTHERS, "tab:blue"), (FULLY_CONNECTED, "tab:orange")):
            values = np.array([of_parts[part][key] / unit for of_parts in found.values()])
            axis.barh(range(len(found)), values, left=left, color=colour, label=part)
            left += values
        for row, value in enumerate(left):
            axis.text(value + 0.01 * left.max(), row, f"{value:.1f}", va="center", fontsize=8)
        axis.set(xlabel=label, xlim=(0, 1.13 * left.max()))
    axes[0].set_yticks(range(len(found)), list(found))
    axes[0].invert_yaxis()
    axes[1].legend(fontsize=8)
    return figure


def convolution_weights(description: Mapping[str, Any], block: str) -> dict[str, int]:
    """The weights of a block's convolutions: {"conv1": n, ...}. Biases are none, as in ResNet."""
    rows = description["layers"]
    names = [row["name"] for row in rows if row["name"].startswith(f"{block}/conv")]
    return {row["name"].split("/")[1]: row["params"] for row in rows if row["name"] in names}


def block_chart(blocks: Mapping[str, Mapping[str, int]]) -> Figure:
    """Bars of blocks, divided into their layers. blocks: label -> `convolution_weights`."""
    figure, axis = panels.single(9, 0.9 + 0.6 * len(blocks))
    most = max(sum(weights.values()) for weights in blocks.values())
    for row, weights in enumerate(blocks.values()):
        left = 0
        for number, value in enumerate(weights.values()):
            axis.barh(row, value, left=left, color=f"C{number}", edgecolor="white")
            left += value
        sums = " + ".join(f"{value:,}" for value in weights.values())
        axis.text(left + 0.01 * most, row, f"{sums} = {left:,}", va="center", fontsize=8)
    axis.set_yticks(range(len(blocks)), list(blocks), fontsize=8)
    axis.invert_yaxis()
    axis.set(xlabel="weights of the convolutions", xlim=(0, 1.45 * most))
    axis.xaxis.set_major_formatter("{x:,.0f}")
    return figure


def connectivity_chart(weights: Mapping[str, tuple[int, int]]) -> Figure:
    """Bars on a logarithmic axis: label -> weights of a layer, and the same with its biases."""
    figure, axis = panels.single(9, 0.9 + 0.6 * len(weights))
    names = list(weights)
    axis.barh(names, [without for without, _ in weights.values()], color="tab:blue")
    for row, (without, with_biases) in enumerate(weights.values()):
        text = f" {without:,} ({with_biases:,} with biases)"
        axis.text(without, row, text, va="center", fontsize=8)
    axis.invert_yaxis()
    most = max(without for without, _ in weights.values())
    ticks = [10**power for power in range(2, len(str(most)), 2)]
    axis.set(xscale="log", xlim=(100, 1e8 * most), xlabel="weights")  # space for the text
    axis.set_xticks(ticks)
    axis.minorticks_off()
    return figure
