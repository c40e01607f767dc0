"""Figures of restricted Boltzmann machines (Hinton 2010, A practical guide, sec. 5, 6 and 15)."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from train_lib.pictures import panels

MOST_SHOWN = 10


def reconstructions(images: np.ndarray, rebuilt: np.ndarray) -> Figure:
    """Images above their reconstructions, and the mean squared error of a pixel over all of them.

    images, rebuilt: [n, height, width, 1 or 3], values 0..1; the first MOST_SHOWN are drawn.
    """
    images, rebuilt = (np.asarray(values, np.float32) for values in (images, rebuilt))
    error = np.square(images - rebuilt).mean()
    tiles = np.concatenate([images[:MOST_SHOWN], rebuilt[:MOST_SHOWN]])
    columns = len(tiles) // 2
    figure, axis = panels.single(max(4, 0.8 * columns), 2.1)
    panels.draw_mosaic(axis, np.broadcast_to(tiles, (*tiles.shape[:3], 3)), columns, (1, 1, 1))
    axis.set_yticks(axis.get_yticks(), ["image", "rebuilt"])
    axis.set_xticks([])
    axis.set_ylabel("")
    figure.suptitle(f"mean squared error of {len(images)} images: {error:.4f}", fontsize=9)
    return figure


def free_energy_histograms(energies: Mapping[str, np.ndarray]) -> Figure:
    """Histograms of free energies, by groups of images: {"training": [n], "test": [m]}.

    Images with a low free energy are probable. If the mean of the training images is below that of
    other images, and falls further, the machine overfits (sec. 6).
    """
    figure, axis = panels.single(6, 4)
    values = {name: np.asarray(group, np.float64) for name, group in energies.items()}
    bins = np.histogram_bin_edges(np.concatenate(list(values.values())), bins=30)
    for name, group in values.items():
        label = f"{name}, mean {group.mean():.4g}"
        axis.hist(group, bins=bins, histtype="step", density=True, label=label)
    axis.set(xlabel="free energy", ylabel="density of images")
    axis.legend()
    return figure
