"""Plots of a run and of an evaluation, and the PNG files that they are written to.

The functions return Matplotlib figures without a window: a notebook shows them as they are.
"""

import pathlib
import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from errors import reported
from input_pipeline import imagenet
from train_lib.evaluation.metrics import Result, confusion_counts
from train_lib.pictures import panels, weights

MOST_IMAGES = 100  # in one figure
MOST_NAMED = 30  # classes with names and counts in a confusion matrix


def curves(runs: Mapping[str, Sequence[dict]]) -> Figure:
    """Error and loss over the epochs: training dashed, test solid, one colour for each run.

    As He 2015, fig. 6. runs: label -> the records of a run, as `recorder.read` gives them. Values
    that a run has not recorded are left out. The label of a single run may be "".
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    quantities = (("top1_error", "top-1 error, %", 100), ("loss", "loss", 1))
    for axis, (name, label, scale) in zip(figure.subplots(1, 2), quantities, strict=True):
        for number, (run, records) in enumerate(runs.items()):
            for part, style, width in (("train", "--", 1), ("test", "-", 1.6)):
                key = f"{part}/{name}"
                points = [(r["epoch"], scale * r[key]) for r in records if key in r]
                if not points:
                    continue
                (line,) = axis.plot(*zip(*points, strict=True), style, linewidth=width)
                line.set(color=f"C{number % 10}", label=f"{run} {part}".strip())
                if part == "test" and len(points) < 40:  # hard to see without markers
                    line.set(marker="o", markersize=3)
        axis.set(xlabel="epoch", ylabel=label)
        values = [y for line in axis.get_lines() for y in line.get_ydata()]
        if values and min(values) > 0:
            axis.set_yscale("log")
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter("{x:g}")
            # A narrow range may lie between two major ticks.
            is_narrow = max(values) < 4 * min(values)
            axis.yaxis.set_minor_formatter("{x:g}" if is_narrow else NullFormatter())
        axis.grid(alpha=0.3, which="both")
        if axis.get_lines():
            panels.plain_legend(axis.legend(fontsize=8))
    return figure


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, names) -> Figure:
    """Counts by true (row) and predicted (column) class; the errors are coloured."""
    count = len(names)
    matrix = confusion_counts(labels, predicted, count)
    errors = matrix - np.diag(np.diag(matrix))
    figure, axis = panels.single(7, 6.2)
    image = axis.imshow(errors, cmap="Reds", vmin=0, vmax=max(1, errors.max()))
    figure.colorbar(image, label="misclassified images")
    if count <= MOST_NAMED:
        axis.set_xticks(range(count), names, rotation=0 if count <= 10 else 90, parse_math=False)
        axis.set_yticks(range(count), names, parse_math=False)
        for row, column in zip(*np.nonzero(matrix), strict=True):
            is_dark = errors[row, column] > 0.6 * errors.max() and row != column
            colour = "white" if is_dark else "black"
            style = {"ha": "center", "va": "center", "fontsize": 8, "color": colour}
            axis.text(column, row, matrix[row, column], **style)
    error = errors.sum() / max(1, matrix.sum())
    axis.set(xlabel="predicted", ylabel="true", title=f"{errors.sum()} errors ({error:.2%})")
    return figure


def misclassified(result: Result, names, picture: Callable[[int], np.ndarray]) -> Figure:
    """The misclassified images, each with "true->predicted", as LeCun 1998, fig. 8.

    names: of the classes. picture: an example's number -> its image [h, w, 1 or 3].
    """
    predicted = result.classes[:, 0]
    wrong = np.flatnonzero((predicted != result.labels) & (result.labels >= 0))
    captions = [f"{names[result.labels[i]]}->{names[predicted[i]]}" for i in wrong]
    figure = _image_sheet(lambda i: picture(wrong[i]), captions, 0.8)
    more = "" if len(wrong) <= MOST_IMAGES else f" (the first {MOST_IMAGES})"
    figure.suptitle(f"{len(wrong)} of {result.examples} misclassified{more}", fontsize=9)
    return figure


def contact_sheet(picture: Callable[[int], np.ndarray | None], captions: Sequence[str]) -> Figure:
    """The first MOST_IMAGES pictures [h, w, 3], each with its caption."""
    figure = _image_sheet(picture, captions, 1.9)
    if len(captions) > MOST_IMAGES:
        figure.suptitle(f"the first {MOST_IMAGES} of {len(captions)}", fontsize=9)
    return figure


def _image_sheet(picture: Callable, captions: Sequence[str], inches: float) -> Figure:
    """Images with captions above them, in squares of `inches`.

    picture: a number -> its image; None leaves the place empty. All images are on one axis: drawing
    is then four times faster than with an axis for each image.
    """
    shown = captions[:MOST_IMAGES]
    rows, columns = panels.grid(max(1, len(shown)))
    above = 0.15 / inches  # the part of a square that its caption takes
    size = (max(4, inches * columns), max(1.5, inches * (1 + above) * rows + 0.4))
    figure, ((axis,),) = panels.blank(1, 1, size)
    axis.set(xlim=(0, columns), ylim=(rows * (1 + above), 0), aspect="equal", autoscale_on=False)
    for number, caption in enumerate(shown):
        row, column = divmod(number, columns)
        middle, top = column + 0.5, row * (1 + above) + above
        image = picture(number)
        if image is not None:
            height, width = np.array(image.shape[:2]) * 0.95 / max(image.shape[:2])
            extent = (middle - width / 2, middle + width / 2, top + height, top)
            image = image[..., 0] if image.shape[-1] == 1 else image
            axis.imshow(image, extent=extent, cmap="gray_r")
        axis.text(middle, top, caption, fontsize=8, ha="center", va="bottom", parse_math=False)
    return figure


def write_result(folder: pathlib.Path, result: Result, names, picture: Callable) -> None:
    """Writes confusion_matrix and misclassified of an evaluation. picture: see `misclassified`."""
    names = list(map(imagenet.readable, names))
    matrix = confusion_matrix(*result.labels_and_predictions, names)
    save(matrix, folder / "confusion_matrix.png")
    save(misclassified(result, names, picture), folder / "misclassified.png")


def write_all(exp, records: Sequence[dict], params, result: Result) -> None:
    """Writes learning_curves, confusion_matrix, misclassified and first_layer_filters.

    exp: the run's `Experiment`. records: see `curves`. result: of the test split.
    """
    folder = exp.workdir / "plots"
    save(curves({"": records}), folder / "learning_curves.png")
    write_result(folder, result, exp.info.class_names, lambda i: exp.picture(exp.test_split, i))
    kernel = weights.first_kernel(params)
    if kernel is not None:
        filters = weights.filters(kernel, getattr(exp.module, "towers", 1))
        save(filters, folder / "first_layer_filters.png")


def save(figure: Figure, path: pathlib.Path) -> None:
    """Writes a PNG file. Raises UserError if it cannot be written."""
    with (
        reported(f"cannot write {path}", "free some space, run again", OSError),
        warnings.catch_warnings(),
    ):
        # For class names that are too long, or in a script that the font lacks.
        warnings.simplefilter("ignore", UserWarning)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150, format="png")
