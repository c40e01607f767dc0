"""--mode=predict: the most probable classes of the user's picture files."""

import pathlib
import sys
from collections.abc import Collection, Sequence

import numpy as np
from ml_collections import ConfigDict

from errors import UserError, printable
from input_pipeline import images as image_files
from input_pipeline.split import ArraySplit
from train_lib.distributed import processes
from train_lib.evaluation import ensemble, result_files

# The probability of "no character" above which a prediction warns of it. Under LeNet-5's MAP
# criterion it is never below 48 %. After 5 epochs on MNIST it was above 90 % for 6 % of the first
# 2,000 test images.
_PROBABLY = 0.9


def predict_images(
    config: ConfigDict, workdir: pathlib.Path, images: Sequence[str], given: Collection[str] = ()
) -> str:
    """The most probable classes of each image and their probabilities, one line for each image.

    images: paths of files and folders. given: the config's fields that the user gave, see
    `experiment.resolve`. Writes the contact sheet of config.predict.contact_sheet, if there is one.
    """
    if not images:
        raise UserError("--images is missing: give --images=a.png,b.jpg or --images=FOLDER")
    paths = image_files.find(images)
    if config.predict.contact_sheet:
        result_files.check_writable(config.predict.contact_sheet)
    members = ensemble.find(config, workdir, given, needs_data=False)
    # The members' images may differ in size and colours.
    splits, inverted = zip(*(_as_split(member.exp, paths) for member in members), strict=True)
    probabilities, labels, _, _ = ensemble.predict(members, splits, "predicting")
    names = members[0].readable_names
    other_class = next(filter(None, (member.exp.loss.other_class for member in members)), "")
    lines, captions = [], []
    for i, path in enumerate(paths):
        if labels[i] < 0:  # it was skipped, which was reported
            captions.append("not readable")
            continue
        words = in_words(probabilities[i], names, other_class)
        note = "; dark on light: inverted" if inverted[-1][i] else ""
        lines.append(f"{printable(path)}: {words}{note}")
        captions.append(in_words(probabilities[i], names, other_class, is_short=True))
    if config.predict.contact_sheet and processes.is_first():
        result_files.write_contact_sheet(config.predict.contact_sheet, paths, captions)
    return "\n".join(lines)


def in_words(
    row: np.ndarray, names: Sequence[str], other_class: str = "", is_short: bool = False
) -> str:
    """The most probable classes, at most five, best first. Those below half a percent are left out.

    row: the probabilities of the classes.
    other_class: the name of a class whose probability is what the row lacks to 1. Unless it is very
        probable, the other probabilities are shown as shares of their sum.
    is_short: only the most probable class, as the caption of an image.
    """
    if not np.isfinite(row).all():
        return "no class, because the network's outputs are not finite"
    best, rest = np.argsort(-row, kind="stable")[: 1 if is_short else 5], 1 - row.sum()
    if other_class and rest > _PROBABLY:
        start, but = ("", "?") if is_short else ("looks most like ", ", but is probably")
        return f"{start}{names[best[0]]}{but} {other_class} ({_percent(rest)})"
    shares = row / row.sum() if other_class else row
    shown = [k for k in best if k == best[0] or shares[k] >= 0.005]
    return ", ".join(f"{names[k]} ({_percent(shares[k])})" for k in shown)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.005 else "below 1 %"


def _as_split(exp, paths: Sequence[str]):
    """Picture files as a split that an experiment can evaluate, and which of them are inverted."""
    shape, inverted = exp.info.image_shape, [False] * len(paths)
    if exp.reading.view.size and shape[2] == 3:
        return image_files.PictureSplit(exp.info, tuple(paths)), inverted
    images, labels = np.zeros((len(paths), *shape), np.uint8), np.zeros(len(paths), np.int32)
    for i, path in enumerate(paths):
        try:
            images[i], inverted[i] = exp.read_picture(path)
        except UserError as error:
            if exp.config.dataset.on_bad_image == "error":
                raise
            processes.print_once(f"skipped {path} ({error})", file=sys.stderr)
            labels[i] = -1
    return ArraySplit(exp.info, images, labels), inverted
