"""Plots of a run and of an evaluation, and the PNG files that they are written to.

The functions return Matplotlib figures without a window: a notebook shows them as they are.
"""

import io
import itertools
import math
import pathlib
import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullFormatter
from PIL import Image

from errors import reported
from input_pipeline import imagenet
from train_lib.evaluation.metrics import Result, confusion_counts
from train_lib.pictures import panels, weights

DOTS_PER_INCH = 150
MOST_IMAGES = 100  # in one figure
POINTS = 8  # size of their captions
MOST_NAMED = 30  # classes with names and counts in a confusion matrix
MOST_PAIRS = 20  # of classes that are listed beside the confusion matrix of more


def curves(runs: Mapping[str, Sequence[dict]]) -> Figure:
    """Error and loss over the epochs: training dashed, test solid, one colour for each run.

    As He 2015, fig. 6. runs: label -> the records of a run, as `recorder.read` gives them. Values
    that a run has not recorded are left out, and so are means over few training steps: less than
    three quarters of the images of the run's largest mean. The label of a single run is not shown.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    quantities = (("top1_error", "top-1 error, %", 100), ("loss", "loss", 1))
    for axis, (name, label, scale) in zip(figure.subplots(1, 2), quantities, strict=True):
        for number, (run, records) in enumerate(runs.items()):
            for part, style, width in (("train", "--", 1), ("test", "-", 1.6)):
                key = f"{part}/{name}"
                most = max((r.get(f"{part}/examples", 0) for r in records), default=0)
                points = [
                    (r["epoch"], scale * r[key])
                    for r in records
                    if key in r and r.get(f"{part}/examples", most) >= 0.75 * most
                ]
                if not points:
                    continue
                (line,) = axis.plot(*zip(*points, strict=True), style, linewidth=width)
                label_of_line = f"{run} {part}" if len(runs) > 1 else part
                line.set(color=f"C{number % 10}", label=label_of_line)
                if len(points) < (40 if part == "test" else 3):  # hard to see without markers
                    line.set(marker="o" if part == "test" else "x", markersize=3 * width)
        axis.set(xlabel="epoch", ylabel=label)
        values = [y for line in axis.get_lines() for y in line.get_ydata()]
        positive = [y for y in values if y > 0]
        if positive and min(values) >= 0:
            _logarithmic(axis, positive, has_zero=min(values) == 0)
        axis.grid(alpha=0.3, which="both")
    lines = {line.get_label(): line for axis in figure.axes for line in axis.get_lines()}
    columns = {"ncols": max(2, min(3, len(runs))), "fontsize": 8}
    legend = figure.legend(lines.values(), lines, loc="outside lower center", **columns)
    panels.plain_legend(legend)
    figure.suptitle("training (dashed) and test (solid)", fontsize=10)
    return figure


def _logarithmic(axis, values: Sequence[float], has_zero: bool) -> None:
    """Makes the vertical axis logarithmic. values: all that are positive.

    has_zero: whether some are 0: the axis is linear from there to the smallest of the others.
    """
    least = min(values)
    if has_zero:
        axis.set_yscale("symlog", linthresh=least, linscale=0.3)
        axis.set_ylim(bottom=-0.1 * least)
        powers = range(math.floor(math.log10(least)), math.ceil(math.log10(max(values))) + 1)
        ticks = (factor * 10.0**power for power in powers for factor in (1, 2, 5))
        # Those of the linear part would cover each other.
        axis.yaxis.set_major_locator(FixedLocator([0, *(y for y in ticks if y >= least)]))
    else:
        axis.set_yscale("log")
        digits = (1, 2, 5) if max(values) > 10 * least else (1, 1.5, 2, 3, 5, 7)
        axis.yaxis.set_major_locator(LogLocator(base=10, subs=digits))
    axis.yaxis.set_major_formatter("{x:g}")
    # A narrow range may lie between two major ticks.
    is_narrow = max(values) < 4 * least and not has_zero
    axis.yaxis.set_minor_formatter("{x:g}" if is_narrow else NullFormatter())


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, names) -> Figure:
    """Counts by true (row) and predicted (column) class; the errors are coloured.

    With more than MOST_NAMED classes, each pair that was confused is a point, and the most frequent
    pairs are listed.
    """
    matrix = confusion_counts(labels, predicted, len(names))
    errors = matrix - np.diag(np.diag(matrix))
    draw = _named_matrix if len(names) <= MOST_NAMED else _pairs
    figure = draw(matrix, errors, names)
    wrong, count = errors.sum(), matrix.sum()
    title = f"{wrong} of {count} images misclassified ({wrong / max(1, count):.2%})"
    figure.suptitle(title, fontsize=11)
    return figure


def _named_matrix(matrix: np.ndarray, errors: np.ndarray, names) -> Figure:
    """A confusion matrix with the names of the classes, and the counts in its cells."""
    count, points, longest = len(names), 9, 1.8
    cell = max(0.36, min(0.8, 5.5 / count))
    shown = [panels.fitted(name, longest, points) for name in names]
    fits = all(panels.text_inches(name, points) < 0.9 * cell for name in shown)
    side = cell * count + longest
    figure = Figure(figsize=(side + 1.2, side), layout="compressed")
    axis = figure.subplots()
    image = axis.imshow(errors, cmap="Reds", vmin=0, vmax=max(1, errors.max()))
    figure.colorbar(image, label="misclassified images", ticks=_whole_numbers())
    style = {"fontsize": points, "parse_math": False}
    slanted = {} if fits else {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    axis.set_xticks(range(count), shown, **style, **slanted)
    axis.set_yticks(range(count), shown, **style)
    axis.set(xlabel="predicted class", ylabel="true class")
    for row, column in zip(*np.nonzero(matrix), strict=True):
        is_dark = errors[row, column] > 0.6 * errors.max() and row != column
        colour = "white" if is_dark else "black"
        style = {"ha": "center", "va": "center", "color": colour}
        axis.text(column, row, matrix[row, column], fontsize=8 if cell > 0.5 else 7, **style)
    return figure


def _pairs(matrix: np.ndarray, errors: np.ndarray, names) -> Figure:
    """A confusion matrix of many classes: a point for each pair, and the most frequent pairs."""
    figure = Figure(figsize=(14, 5.2), layout="compressed")
    places, pairs = figure.subplots(1, 2)
    rows, columns = np.nonzero(errors)
    counts = errors[rows, columns]
    order = np.argsort(counts, kind="stable")  # frequent pairs are drawn last, above the others
    style = {"c": counts[order], "cmap": "copper_r", "s": 6, "vmin": 0}
    drawn = places.scatter(columns[order], rows[order], **style)
    figure.colorbar(drawn, ax=places, label="misclassified images", ticks=_whole_numbers())
    limits = {"xlim": (-1, len(names)), "ylim": (len(names), -1)}
    places.set(xlabel="number of the predicted class", ylabel="number of the true class", **limits)
    places.set_aspect("equal")
    most = order[::-1][:MOST_PAIRS]
    shown = [
        " -> ".join(panels.fitted(names[number], 1.9, 8) for number in (rows[i], columns[i]))
        for i in most
    ]
    pairs.barh(range(len(most)), counts[most], color="tab:red")
    pairs.set_yticks(range(len(most)), shown, fontsize=8, parse_math=False)
    pairs.invert_yaxis()
    pairs.xaxis.set_major_locator(_whole_numbers())
    pairs.set_xlabel("misclassified images")
    pairs.set_title("most frequent: true class -> predicted class", fontsize=10)
    return figure


def _whole_numbers() -> MaxNLocator:
    return MaxNLocator(steps=[1, 2, 5, 10], integer=True)


def misclassified(result: Result, names, picture: Callable[[int], np.ndarray]) -> Figure:
    """The misclassified images, each with "true->predicted", as LeCun 1998, fig. 8.

    names: of the classes. Long ones are in two lines, cut off at the width of the image. picture:
    an example's number -> its image [h, w, 1 or 3].
    """
    predicted = result.classes[:, 0]
    wrong = np.flatnonzero((predicted != result.labels) & (result.labels >= 0))
    pairs = [(names[result.labels[i]], names[predicted[i]]) for i in wrong[:MOST_IMAGES]]
    inches, captions = 0.8, [f"{true}->{other}" for true, other in pairs]
    if any(panels.text_inches(caption, POINTS) > 0.95 * inches for caption in captions):
        captions = [f"{true}\n-> {other}" for true, other in pairs]
        lines = itertools.chain.from_iterable(caption.split("\n") for caption in captions)
        longest = max(panels.text_inches(line, POINTS) for line in lines)
        inches = max(inches, min(1.5, longest / 0.9))
    figure = _image_sheet(lambda i: picture(wrong[i]), captions, inches)
    more = "" if len(wrong) <= MOST_IMAGES else f" (the first {MOST_IMAGES})"
    figure.suptitle(f"{len(wrong)} of {result.examples} misclassified{more}", fontsize=9)
    return figure


def contact_sheet(picture: Callable[[int], np.ndarray | None], captions: Sequence[str]) -> Figure:
    """The first MOST_IMAGES pictures [h, w, 3], each with its caption in up to three lines."""
    inches, shown = 1.3, captions[:MOST_IMAGES]
    whole = [caption.replace(" %", "\N{NO-BREAK SPACE}%") for caption in shown]
    lines = [panels.wrapped(caption, 0.95 * inches, POINTS, most=3) for caption in whole]
    figure = _image_sheet(picture, lines, inches)
    first = f", the first {MOST_IMAGES}" if len(captions) > MOST_IMAGES else ""
    figure.suptitle(f"predicted classes of {len(captions)} images{first}", fontsize=9)
    return figure


def _image_sheet(picture: Callable, captions: Sequence[str], inches: float) -> Figure:
    """Images with captions above them, in squares of `inches`. Lines that are too long are cut off.

    picture: a number -> its image; None leaves the place empty. All images are on one axis: drawing
    is then four times faster than with an axis for each image.
    """
    rows, columns = panels.grid(max(1, len(captions)))
    # The part of a square that its caption takes.
    above = 0.15 / inches * max((caption.count("\n") + 1 for caption in captions), default=1)
    size = (max(4, inches * columns), max(1.5, inches * (1 + above) * rows + 0.4))
    figure, ((axis,),) = panels.blank(1, 1, size)
    axis.set(xlim=(0, columns), ylim=(rows * (1 + above), 0), aspect="equal", autoscale_on=False)
    style = {"fontsize": POINTS, "ha": "center", "va": "bottom", "parse_math": False}
    for number, caption in enumerate(captions):
        row, column = divmod(number, columns)
        middle, top = column + 0.5, row * (1 + above) + above
        image = picture(number)
        if image is not None:
            height, width = np.array(image.shape[:2]) * 0.95 / max(image.shape[:2])
            extent = (middle - width / 2, middle + width / 2, top + height, top)
            image = image[..., 0] if image.shape[-1] == 1 else image
            axis.imshow(image, extent=extent, cmap="gray_r")
        lines = [panels.fitted(line, 0.95 * inches, POINTS) for line in caption.split("\n")]
        axis.text(middle, top, "\n".join(lines), **style)
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
    """Writes a PNG file without transparency. Raises UserError if it cannot be written."""
    rendered = io.BytesIO()
    with (
        reported(f"cannot write {path}", "free some space, run again", OSError),
        warnings.catch_warnings(),
    ):
        # For class names that are too long, or in a script that the font lacks.
        warnings.simplefilter("ignore", UserWarning)
        path.parent.mkdir(parents=True, exist_ok=True)
        style = {"dpi": DOTS_PER_INCH, "format": "png", "bbox_inches": "tight"}
        figure.savefig(rendered, **style, pil_kwargs={"compress_level": 1})
        Image.open(rendered).convert("RGB").save(path, "PNG", dpi=2 * (DOTS_PER_INCH,))
