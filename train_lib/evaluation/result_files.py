"""What a test leaves behind, in WORKDIR/evaluation: tables, plots, and every prediction."""

import csv
import hashlib
import io
import json
import pathlib
import re
import tempfile
from collections.abc import Callable, Sequence

import numpy as np

from errors import UserError, printable
from input_pipeline import decode
from train_lib.evaluation.metrics import Result
from train_lib.workdir import write_text


def name_of(asked: dict) -> str:
    """The name of a test's folder: all that was asked for, an ensemble as a hash of its names."""
    parts = []
    for name, value in asked.items():
        if name == "ensemble":
            names = printable(",".join(value)).encode()
            value = f"ensemble-{hashlib.sha256(names).hexdigest()[:8]}"
        parts += map(str, value) if isinstance(value, list) else [value]
    return "_".join(re.sub(r"[^A-Za-z0-9]+", "-", part).strip("-") for part in parts)


def folder(workdir: pathlib.Path, asked: dict) -> pathlib.Path:
    """Makes the folder of a test. Raises UserError, before any work, where that cannot be."""
    path = workdir / "evaluation" / name_of(asked)
    check_writable(path / "result.json")
    return path


def check_writable(file: str | pathlib.Path) -> None:
    """Makes the folder that a file shall be in. Raises UserError where it cannot be written to."""
    path = pathlib.Path(file).expanduser().parent
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path):
            pass
    except OSError as error:
        raise UserError(f"cannot write to {path} ({error}): choose another folder") from error


def _table(rows) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def predictions(result: Result, names: Sequence[str], ids: Callable[[int], str]) -> str:
    """CSV, a line an example: id, label, and the five (or fewer) most probable classes.

    An example that could not be read has no label and no classes.
    """
    top = result.classes.shape[1]
    heads = [f"{what}{i}" for i in range(1, top + 1) for what in ("class", "probability")]
    rows = [["id", "label", *heads]]
    for i, label in enumerate(result.labels):
        row = [printable(ids(i))]
        if label >= 0:
            row.append(names[label])
            for one, probability in zip(result.classes[i], result.probabilities[i], strict=True):
                row += [names[one], f"{probability:.6g}"]
        rows.append(row + [""] * (2 + 2 * top - len(row)))
    return _table(rows)


def per_class(result: Result, names: Sequence[str]) -> str:
    """CSV, a line a class: its examples, and the shares right at once and among the first five."""
    rows = [["class", "examples", "top1_accuracy", "top5_accuracy"]]
    hits = result.classes == result.labels[:, None]
    for number, name in enumerate(names):
        chosen = result.labels == number
        count = int(chosen.sum())
        shares = [hits[chosen, 0].mean(), hits[chosen].any(axis=1).mean()] if count else []
        rows.append([name, count, *(f"{share:.6g}" for share in shares)] + [""] * (2 - len(shares)))
    return _table(rows)


def confusion(result: Result, names: Sequence[str]) -> str:
    """CSV: a row a true class, a column a predicted one, counts."""
    matrix = np.zeros((len(names), len(names)), int)
    np.add.at(matrix, (result.labels[result.counted], result.classes[result.counted, 0]), 1)
    rows = [[name, *row] for name, row in zip(names, matrix.tolist(), strict=True)]
    return _table([["true \\ predicted", *names], *rows])


def write(
    output: pathlib.Path, line: dict, result: Result, split, picture: Callable[[int], np.ndarray]
) -> None:
    """Writes a test's files to a folder.

    result.json (line, what is printed), predictions.csv, per_class.csv, confusion.csv,
    confusion_matrix.png and misclassified.png. picture: an example's number -> its image.
    Raises UserError, one line, where they cannot be written.
    """
    from train_lib.pictures import run_plots  # imports Matplotlib, which only drawing needs

    names, counted = split.info.class_names, result.counted
    write_text(output / "result.json", json.dumps(line, indent=2) + "\n")
    write_text(output / "predictions.csv", predictions(result, names, split.id))
    write_text(output / "per_class.csv", per_class(result, names))
    write_text(output / "confusion.csv", confusion(result, names))
    matrix = run_plots.confusion_matrix(result.labels[counted], result.classes[counted, 0], names)
    run_plots.save(matrix, output / "confusion_matrix.png")
    run_plots.save(run_plots.misclassified(result, names, picture), output / "misclassified.png")


def contact_sheet(file: str, paths: Sequence[str], captions: Sequence[str]) -> None:
    """A PNG file of pictures, each with its caption. Raises UserError if it cannot be written."""
    from train_lib.pictures import run_plots  # imports Matplotlib, which only drawing needs

    def thumbnail(i: int) -> np.ndarray | None:
        try:
            return decode.pixels(
                decode.Picture(paths[i], formats=decode.MORE_FORMATS).image(side=160)
            )
        except decode.BadImage:  # one that was skipped
            return None

    run_plots.save(run_plots.contact_sheet(thumbnail, captions), pathlib.Path(file).expanduser())
