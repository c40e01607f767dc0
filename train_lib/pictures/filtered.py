"""A photograph under the image filters that were designed by hand (models/filters.py)."""

import numpy as np
from matplotlib.figure import Figure

from models import filters
from train_lib.pictures import panels

NOISE = 0.1  # deviation, for values of 0..1


def filtered(image: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """What each filter makes of an image [h, w] of 0..1: {"Sobel x": [h, w], ...}.

    The filters that smooth get the image with noise, and the others the image itself. "corners" is
    bool: the largest answers of Harris's detector.
    """
    image = np.asarray(image, np.float32)
    noise = np.random.default_rng(seed).normal(size=image.shape).astype(np.float32)
    x, noisy = image[None, ..., None], (image + NOISE * noise)[None, ..., None]
    found = {
        "with noise": noisy,
        "mean of 5x5": filters.mean(noisy, 5),
        "Gaussian, sigma 1.5": filters.gaussian(noisy, 1.5),
        "bilateral, sigma 2 and 0.2": filters.bilateral(noisy, 2.0, 0.2),
        "Sobel x": filters.sobel_x(x),
        "Sobel y": filters.sobel_y(x),
        "Sobel, magnitude": filters.sobel_magnitude(x),
        "corners": filters.peaks(filters.harris(x, sigma=1.5), radius=6, share=0.05),
    }
    return {name: np.asarray(values)[0, ..., 0] for name, values in found.items()}


def filtered_figure(image: np.ndarray, seed: int = 0) -> Figure:
    """`filtered`, in two rows. Corners are circles on the image."""
    found = filtered(image, seed)
    height, width = image.shape
    columns = len(found) // 2
    inches = 1.75
    size = (inches * columns, 2 * (inches * height / width + 0.3))
    figure, axes = panels.blank(2, columns, size)
    for axis, (name, values) in zip(axes.flat, found.items(), strict=True):
        if name == "corners":
            panels.show(axis, image)
            rows, places = np.nonzero(values)
            axis.plot(places, rows, "o", mfc="none", mec="tab:red", markersize=4)
            name = f"Harris: {len(rows)} corners"
        else:
            high = np.abs(values).max() if "Sobel" in name else 1
            low = -high if values.min() < -0.5 * high else 0  # of derivatives, 0 is grey
            axis.imshow(values, cmap="gray", vmin=low, vmax=high)
        axis.set_title(name, fontsize=7)
    return figure
