"""The evidence for a class in an image: occlusion, saliency, and their maps over the image."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from errors import UserError
from models.inspection import scaled
from train_lib.pictures import panels

BATCH = 16  # covered images in every call of the network, so that it compiles once


def occlusion(
    probability: Callable, image: np.ndarray, window: int, stride: int, fill
) -> np.ndarray:
    """The probability of a class while a square hides a part (Zeiler, Fergus 2014, fig. 7).

    probability: images [16, height, width, channels] -> the class's probabilities [16]. For a
        `Trained` network, `lambda v: network.probabilities(network.variables, v)[:, label]`.
    image: [height, width, channels]: one of `network.views`.
    window: the square's side, in pixels. fill: its value, or one for each channel.

    Returns [ceil(height / stride), ceil(width / stride)], one value for each stride x stride cell,
    on whose centre the square lies. Where the value is low, the square hid evidence for the class.
    Raises UserError for sizes below 1.
    """
    image = np.asarray(image)
    if window < 1 or stride < 1:
        raise UserError(f"window={window}, stride={stride}: give sizes of at least 1 pixel")
    height, width = image.shape[:2]
    cells = [(i, j) for i in range(0, height, stride) for j in range(0, width, stride)]
    shift = (stride - window) // 2
    values = []
    for start in range(0, len(cells), BATCH):
        batch = np.repeat(image[None], BATCH, axis=0)
        for covered, (i, j) in zip(batch, cells[start : start + BATCH], strict=False):
            top, left = i + shift, j + shift
            covered[max(0, top) : top + window, max(0, left) : left + window] = fill
        values.append(np.asarray(probability(batch)))
    return np.concatenate(values)[: len(cells)].reshape(-(-height // stride), -1)


def saliency(
    module: nn.Module,
    variables: Mapping[str, Any],
    inputs: jax.Array,
    label: int,
    drop_scale: float = 1.0,
) -> np.ndarray:
    """How much the logit of a class changes with each pixel (Simonyan 2013, sec. 3): [h, w].

    The largest of |d logit / d input| over the channels, in evaluation mode. inputs: network input
    of one image, [height, width, channels] or [1, ...]. drop_scale: see `layers.Net`.
    """
    inputs = jnp.asarray(inputs)
    inputs = inputs[None] if inputs.ndim == 3 else inputs
    gradient = _gradient(module, dict(variables), inputs, label, drop_scale)
    return np.abs(np.asarray(gradient)[0]).max(axis=-1)


@functools.partial(jax.jit, static_argnums=(0, 4))  # global, so that it compiles once
def _gradient(module, variables, inputs, label, drop_scale):
    def logit(x):
        return module.apply(variables, x, train=False, **scaled(drop_scale))[0, label]

    return jax.grad(logit)(inputs)


def heat_on(
    image: np.ndarray,
    heat: np.ndarray,
    title: str = "",
    label: str = "",
    neutral: float | None = None,
    cell: int = 0,
) -> Figure:
    """An image, and a pale copy of it under a map.

    image: [h, w, 1 or 3], uint8 or float. heat: [rows, columns]: squares of `cell` pixels from the
    upper left corner on; 0: of any size, stretched over the image. label: of the bar of its
    colours. neutral: the value at which the map is transparent. It is the more opaque, the further
    a value is from it: values above are blue and values below are red. None: it is transparent at
    0, and values above are red.
    """
    has_sign, neutral = neutral is not None, neutral or 0.0
    image, heat = np.asarray(image), np.asarray(heat, np.float32)
    height, width = image.shape[:2]
    figure = Figure(figsize=(8, 4.2 * min(1.5, height / width)), layout="compressed")
    plain, covered = figure.subplots(1, 2)
    panels.show(plain, image)
    grey = image.mean(axis=-1) if image.ndim == 3 else image.astype(np.float32)
    low, contrast = float(grey.min()), max(1e-6, float(np.ptp(grey)))
    pale = {"cmap": "gray", "vmin": low - contrast, "vmax": low + 1.2 * contrast}
    covered.imshow(grey, interpolation="nearest", **pale)
    covered.axis("off")
    limit = max(1e-12, float(np.abs(heat - neutral).max()))
    rows, columns = (cell * n for n in heat.shape) if cell else (height, width)
    drawn = covered.imshow(
        heat,
        cmap="RdBu" if has_sign else "Reds",
        alpha=0.9 * (np.abs(heat - neutral) / limit) ** 0.5,
        vmin=neutral - limit if has_sign else neutral,
        vmax=neutral + limit,
        extent=(-0.5, columns - 0.5, rows - 0.5, -0.5),
        interpolation="nearest",
    )
    covered.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    bar = figure.colorbar(drawn, ax=covered)
    bar.set_label(label, parse_math=False)
    if limit > 1e-12:
        bar.ax.set_ylim(min(neutral, float(heat.min())), max(neutral, float(heat.max())))
    figure.suptitle(title, fontsize=9, parse_math=False, wrap=True)
    return figure


def receptive_field_on(image: np.ndarray, boxes: Mapping[str, tuple]) -> Figure:
    """Receptive fields, drawn on the image.

    image: [h, w, 1 or 3], uint8 or float. boxes: label -> (top, left, height, width), as
    `receptive_field` gives them.
    """
    figure, axis = panels.single(6.5, 4.6)
    panels.show(axis, image)
    for number, (label, (top, left, height, width)) in enumerate(boxes.items()):
        # Each a little smaller than drawn before, or boxes of the image's size would coincide.
        inset = 0.12 * number * min(1.0, min(image.shape[:2]) / 100)
        rows = top - 0.5 + inset, top + height - 0.5 - inset
        columns = left - 0.5 + inset, left + width - 0.5 - inset
        axis.plot(
            [columns[0], columns[1], columns[1], columns[0], columns[0]],
            [rows[0], rows[0], rows[1], rows[1], rows[0]],
            color=f"C{number % 10}",
            linewidth=1.8,
            label=f"{label}: {height}x{width}",
        )
    legend = axis.legend(loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=7)
    panels.plain_legend(legend)
    axis.set_title("receptive field of the unit in the middle of each layer, in pixels", fontsize=9)
    return figure
