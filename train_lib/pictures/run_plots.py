"""Pictures of a run, as PNG files in WORKDIR/plots.

The functions return figures that belong to no window system: a notebook shows them as they are.
"""

import pathlib
import warnings
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.figure import Figure

from errors import UserError
from train_lib import pictures
from train_lib.evaluation.metrics import Result
from train_lib.pictures import panels

MOST_MISCLASSIFIED = 100  # on one contact sheet
MOST_NAMED = 30  # classes with names and counts in a confusion matrix


def learning_curves(records: list[dict]) -> Figure:
    """Error and loss of one run over the passes: `pictures.curves` of several."""
    return pictures.curves({"": records})


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, names) -> Figure:
    """Counts by true (row) and predicted (column) class; the errors are coloured."""
    count = len(names)
    matrix = np.zeros((count, count), int)
    np.add.at(matrix, (labels, predicted), 1)
    errors = matrix - np.diag(np.diag(matrix))
    figure = Figure(figsize=(7, 6.2), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(errors, cmap="Reds", vmin=0, vmax=max(1, errors.max()))
    figure.colorbar(image, label="misclassified images")
    if count <= MOST_NAMED:
        axis.set_xticks(range(count), names, rotation=0 if count <= 10 else 90, parse_math=False)
        axis.set_yticks(range(count), names, parse_math=False)
        for row, column in zip(*np.nonzero(matrix), strict=True):
            dark = errors[row, column] > 0.6 * errors.max() and row != column
            axis.text(
                column,
                row,
                matrix[row, column],
                ha="center",
                va="center",
                fontsize=8,
                color="white" if dark else "black",
            )
    error = errors.sum() / max(1, matrix.sum())
    axis.set(xlabel="predicted", ylabel="true", title=f"{errors.sum()} errors ({error:.2%})")
    return figure


def misclassified(result: Result, names, picture: Callable[[int], np.ndarray]) -> Figure:
    """The misclassified images, each with "true->predicted", as LeCun 1998, fig. 8.

    names: of the classes. picture: an example's number -> its image [h, w, 1 or 3].
    """
    predicted = result.classes[:, 0]
    wrong = np.flatnonzero((predicted != result.labels) & (result.labels >= 0))
    shown = wrong[:MOST_MISCLASSIFIED]
    rows, columns = panels.grid(max(1, len(shown)))
    size = (max(4, 0.8 * columns), max(1.5, 0.95 * rows + 0.4))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for index, axis in zip(shown, axes.flat, strict=False):
        image = picture(index)
        axis.imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray_r")
        true = names[result.labels[index]]
        title = f"{true}->{names[predicted[index]]}"
        axis.set_title(title, fontsize=8, parse_math=False)
    more = "" if len(shown) == len(wrong) else f" (the first {len(shown)})"
    figure.suptitle(f"{len(wrong)} of {result.examples} misclassified{more}", fontsize=9)
    return figure


def contact_sheet(picture: Callable[[int], np.ndarray | None], captions: Sequence[str]) -> Figure:
    """Pictures [h, w, 3], the first MOST_MISCLASSIFIED of them, each with its caption."""
    count = min(len(captions), MOST_MISCLASSIFIED)
    rows, columns = panels.grid(count)
    figure = Figure(figsize=(1.9 * columns, 2.0 * rows + 0.3), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for index, axis in zip(range(count), axes.flat, strict=False):
        image = picture(index)
        if image is not None:
            axis.imshow(image)
        axis.set_title(captions[index], fontsize=8, parse_math=False)
    if count < len(captions):
        figure.suptitle(f"the first {count} of {len(captions)}", fontsize=9)
    return figure


def write_all(
    workdir: pathlib.Path, records, module, params, result: Result, names, picture
) -> None:
    """Writes learning_curves, confusion_matrix, misclassified and first_layer_filters."""
    counted = result.counted
    figures = {
        "learning_curves": learning_curves(records),
        "confusion_matrix": confusion_matrix(
            result.labels[counted], result.classes[counted, 0], names
        ),
        "misclassified": misclassified(result, names, picture),
    }
    kernel = pictures.first_kernel(params)
    if kernel is not None:
        towers = getattr(module, "towers", 1)
        figures["first_layer_filters"] = pictures.filters(kernel, towers)
    for name, figure in figures.items():
        save(figure, workdir / "plots" / f"{name}.png")


def save(figure: Figure, path: pathlib.Path) -> None:
    """Writes a PNG file. Raises UserError, one line, where that is not possible."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            # Of class names that are too long, or in a script that the font has not (boxes stand
            # for its letters).
            warnings.simplefilter("ignore", UserWarning)
            figure.savefig(path, dpi=150, format="png")
    except OSError as error:
        raise UserError(f"cannot write {path} ({error}): free some space, run again") from error
