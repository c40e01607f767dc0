"""The files of an evaluation in WORKDIR/evaluation: tables, plots, and every prediction."""

import csv
import hashlib
import io
import json
import pathlib
import re
import tempfile
from collections.abc import Callable, Sequence

import numpy as np

from command_line import expand
from errors import printable, reported
from input_pipeline import decode
from train_lib.evaluation.metrics import Result, confusion_counts
from train_lib.workdir import write_text


def folder_name(settings: dict) -> str:
    """The name of an evaluation's folder: its settings, an ensemble as a hash of its names."""
    parts = []
    for name, value in settings.items():
        if name == "ensemble":
            names = printable(",".join(value)).encode()
            value = f"ensemble-{hashlib.sha256(names).hexdigest()[:8]}"
        parts += map(str, value) if isinstance(value, list) else [value]
    return "_".join(_word(part) for part in parts)


def _word(text: str) -> str:
    """A text without special characters: "train[:45000]" becomes "train-to-45000"."""
    text = re.sub(r"(?<=[\[:])-", "minus-", text)
    text = text.replace("[:", "[to-").replace(":]", "-on").replace("%", "-percent")
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")


def make_folder(workdir: pathlib.Path, settings: dict) -> pathlib.Path:
    """Makes the folder of an evaluation. Raises UserError if it cannot be written to."""
    path = workdir / "evaluation" / folder_name(settings)
    check_writable(path / "result.json")
    return path


def check_writable(file: str | pathlib.Path) -> None:
    """Makes the folder of a file. Raises UserError if it cannot be written to."""
    folder = expand(file).parent
    with reported(f"cannot write to {folder}", "choose another folder", OSError):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.NamedTemporaryFile(dir=folder).close()


def _table(rows) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def predictions(result: Result, names: Sequence[str], ids: Callable[[int], str]) -> str:
    """CSV, one line for each example: id, label, and the five (or fewer) most probable classes.

    An example that could not be read has no label and no classes.
    """
    ranks = range(result.classes.shape[1])
    rows = [["id", "label", *(f"{c}{i + 1}" for i in ranks for c in ("class", "probability"))]]
    for i, label in enumerate(result.labels):
        row = [printable(ids(i))] + [""] * (len(rows[0]) - 1)
        if label >= 0:
            row[1], row[2::2] = names[label], [names[number] for number in result.classes[i]]
            row[3::2] = [f"{probability:.6g}" for probability in result.probabilities[i]]
        rows.append(row)
    return _table(rows)


def per_class(result: Result, names: Sequence[str]) -> str:
    """CSV, one line for each class: its examples, and its top-1 and top-5 accuracy."""
    rows = [["class", "examples", "top1_accuracy", "top5_accuracy"]]
    hits = result.classes == result.labels[:, None]
    for number, name in enumerate(names):
        own_hits, shares = hits[result.labels == number], ["", ""]
        if len(own_hits):
            shares = [f"{s:.6g}" for s in (own_hits[:, 0].mean(), own_hits.any(axis=1).mean())]
        rows.append([name, len(own_hits), *shares])
    return _table(rows)


def confusion(result: Result, names: Sequence[str]) -> str:
    """CSV of counts: one row for each true class, one column for each predicted class."""
    matrix = confusion_counts(*result.labels_and_predictions, len(names))
    rows = [[name, *row] for name, row in zip(names, matrix.tolist(), strict=True)]
    return _table([["true \\ predicted", *names], *rows])


def write(
    output: pathlib.Path, line: dict, result: Result, split, picture: Callable[[int], np.ndarray]
) -> None:
    """Writes an evaluation's files to a folder.

    result.json (line, which is also printed), predictions.csv, per_class.csv, confusion.csv,
    confusion_matrix.png and misclassified.png. picture: an example's number -> its image.
    Raises UserError, one line, if they cannot be written.
    """
    from train_lib.pictures import run_plots  # Matplotlib is imported for drawing only

    names = split.info.class_names
    write_text(output / "result.json", json.dumps(line, indent=2) + "\n")
    write_text(output / "predictions.csv", predictions(result, names, split.id))
    write_text(output / "per_class.csv", per_class(result, names))
    write_text(output / "confusion.csv", confusion(result, names))
    run_plots.write_result(output, result, names, picture)


def write_contact_sheet(file: str, paths: Sequence[str], captions: Sequence[str]) -> None:
    """Writes a PNG file of pictures with captions. Raises UserError if it cannot be written."""
    from train_lib.pictures import run_plots  # Matplotlib is imported for drawing only

    def thumbnail(i: int) -> np.ndarray | None:
        try:
            picture = decode.Picture(paths[i])
            return decode.pixels(picture.image(side=160))
        except decode.BadImage:  # it was skipped
            return None

    run_plots.save(run_plots.contact_sheet(thumbnail, captions), expand(file))
