"""Training images as recipes cut and augment them, side by side, and the crops of evaluations."""

from collections.abc import Mapping, Sequence

import jax
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from ml_collections import ConfigDict

from input_pipeline import crops, decode
from input_pipeline.statistics import Statistics
from input_pipeline.transform import make_transform
from input_pipeline.views import View, resampling
from train_lib.pictures import panels


def training_views(
    config: ConfigDict,
    image: np.ndarray,
    count: int,
    seed: int,
    statistics: Statistics | None = None,
) -> np.ndarray:
    """Views of one image as training uses them: uint8 [count, h, w, c]. The first is evaluation's.

    They are cut and augmented as the config says, but no mean is subtracted. image: uint8
    [h, w, c]. statistics: of the training set, for `augment.lighting`.
    """
    view = View.from_section(config.view)
    preprocessing = ConfigDict(config.preprocess.to_dict())
    preprocessing.update({"mean": "none", "low": 0.0, "high": 255.0, "deviation": ()})
    transform = make_transform(preprocessing, config.augment, statistics)
    random = [view.cut(image, np.random.default_rng([seed, n]))[0] for n in range(count - 1)]
    keys = jax.random.split(jax.random.key(seed), count - 1)
    plain = transform(view.cut(image)[0][None])
    augmented = transform(np.stack(random), keys)
    views = np.concatenate([np.asarray(plain), np.asarray(augmented)])
    return np.clip(np.round(views), 0, 255).astype(np.uint8)


def rows_of_images(rows: Mapping[str, np.ndarray], first: str) -> Figure:
    """A row of images [n, h, w, 1 or 3] below each label. first: what the first of a row is.

    All rows have images of one size, and the same number of them.
    """
    height, width = next(iter(rows.values())).shape[1:3]
    columns = max(map(len, rows.values()))
    inches = min(0.85, 9 / columns)
    size = (inches * columns, (inches * height / width + 0.25) * len(rows) + 0.3)
    figure = Figure(figsize=size, layout="constrained")
    parts = figure.subfigures(len(rows), 1, squeeze=False)[:, 0]
    for part, (label, images) in zip(parts, rows.items(), strict=True):
        part.suptitle(label, x=0.01, ha="left", fontsize=8)
        axes = part.subplots(1, columns)
        for axis, image in zip(axes, images, strict=True):
            panels.show(axis, image)
        frame = _frame((0, 0, height, width), "tab:red")
        frame.set(clip_on=False, linewidth=2.5)
        axes[0].add_patch(frame)
    figure.suptitle(f"red frame: {first}", fontsize=9)
    return figure


def evaluation_crops(image: np.ndarray, kind: str, shorter: int, size: int):
    """An image brought to a shorter side, its crops of `crops.KINDS`, and what they cut.

    image: uint8 [h, w, c]. Returns (uint8 [h', w', c], list of `crops.Crop`, uint8
    [n, size, size, c] without mirror images).
    """
    whole = crops.rescale(decode.Pixels(image), shorter, resampling("bilinear", None))
    cut, _ = crops.Crops(kind, size, (shorter,)).cut(image)
    return whole, crops.KINDS[kind](*whole.shape[:2], size), cut


def ten_crops(image: np.ndarray, shorter: int = 256, size: int = 224) -> Figure:
    """AlexNet's ten crops (Krizhevsky 2012, sec. 4.1): five frames on the image, and all ten."""
    whole, chosen, cut = evaluation_crops(image, "ten_crop", shorter, size)
    figure = Figure(figsize=(10, 2.9), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.5))
    names = ("top left", "top right", "bottom left", "bottom right", "centre")
    axis = left.subplots()
    _draw_frames(axis, whole, chosen)
    axis.set_title(f"shorter side {shorter}, crops of {size}x{size}", fontsize=9)
    axes = right.subplots(2, len(chosen))
    for number, name in enumerate(names):
        for row, one in enumerate((cut[number], cut[number][:, ::-1])):
            panels.show(axes[row, number], one)
            axes[row, number].add_patch(_frame((0, 0, size, size), f"C{number}"))
        axes[0, number].set_title(name, fontsize=8)
    right.supxlabel("below: their mirror images", fontsize=8)
    return figure


def many_crops(image: np.ndarray, kinds: Sequence[tuple[str, str, int]], size: int = 224) -> Figure:
    """The frames of several kinds of crops. kinds: (label, kind of `crops.KINDS`, shorter side)."""
    figure = Figure(figsize=(5 * len(kinds), 3.7), layout="constrained")
    for axis, (label, kind, shorter) in zip(figure.subplots(1, len(kinds)), kinds, strict=True):
        whole, chosen, _ = evaluation_crops(image, kind, shorter, size)
        _draw_frames(axis, whole, chosen)
        title = f"{label}: {len(chosen)} crops, {2 * len(chosen)} with mirror images"
        axis.set_title(title, fontsize=9)
    return figure


def _draw_frames(axis, image: np.ndarray, chosen: Sequence[crops.Crop]) -> None:
    """Draws the image with the crops' frames, each a little smaller than the one before."""
    panels.show(axis, image)
    for number, crop in enumerate(chosen):
        inset = 0.5 * (number % 5)
        box = (crop.top + inset, crop.left + inset, crop.side - 2 * inset, crop.side - 2 * inset)
        axis.add_patch(_frame(box, f"C{number % 10}"))


def _frame(box: tuple[float, float, float, float], colour: str) -> Rectangle:
    """A frame on an image, of a box (top, left, height, width) in pixels."""
    top, left, height, width = box
    style = {"fill": False, "edgecolor": colour, "linewidth": 1.6}
    return Rectangle((left - 0.5, top - 0.5), width, height, **style)
