"""The modes that test a trained run: evaluate and predict. Each returns what is printed."""

import contextlib
import json
import pathlib
import sys
from collections.abc import Collection, Sequence

import numpy as np
from ml_collections import ConfigDict

from errors import UserError, printable
from input_pipeline import images as image_files
from input_pipeline import sources
from input_pipeline.split import ArraySplit, part_of
from train_lib import console, experiment
from train_lib.distributed import processes
from train_lib.evaluation import ensemble, protocols, result_files
from train_lib.evaluation.metrics import evaluate, from_probabilities


def _probabilities(found: Sequence[ensemble.Member], split, what: str):
    """(steps, mean probabilities float32 [n, classes], labels, images a second) of members.

    labels: -1 for what was skipped. One member's state is held at a time.
    """
    steps, total, labels = [], None, None
    all_passes = [protocols.passes(member.exp) for member in found]
    meter = _meter(split, what, sum(map(len, all_passes)))
    with contextlib.closing(meter):
        for member, passes in zip(found, all_passes, strict=True):
            with meter.paused():
                step, state = member.load()
            one, own = protocols.predict(passes, state, split, meter)
            del state
            one = one / len(found)
            total = one if total is None else np.add(total, one, out=total)
            labels = own if labels is None else np.where(own < 0, own, labels)
            steps.append(step)
    # An image that one of them could not read is skipped by all.
    return steps, total, labels, _rate(meter) / sum(map(len, all_passes))


def _meter(split, what: str, looks: int = 1) -> console.Meter:
    """Counts this process's part of the split, so many times each example."""
    part = part_of(split, processes.index(), processes.count())
    return console.Meter(len(part) * looks, what, quiet=not processes.is_first())


def _rate(meter: console.Meter) -> float:
    """Images a second of all processes together."""
    return meter.rate() * processes.count()


def evaluate_run(config: ConfigDict, workdir: pathlib.Path, given: Collection[str] = ()) -> str:
    """Tests a run, or an ensemble; writes `result_files.write`'s files. One line of JSON.

    given: the config's fields that the user gave, see `foreign.settled`.
    """
    found = ensemble.find(config, workdir, given=given)
    exp, section = found[0].exp, config.evaluate
    for member in found:
        protocols.check_copy(member.exp)
    names = {"test": config.dataset.test_split, "train": config.dataset.train_split}
    split_name = sources.split_name(config.dataset, names[section.split])
    split = sources.load(config.dataset, split_name)
    ensemble.check_classes(found, split.info)
    processes.check_same("data set", [len(split)])
    asked = {
        "dataset": config.dataset.name,
        "split": split_name,
        "protocol": protocols.name(exp),
        **protocols.describe(exp),
    }
    if section.checkpoint != "latest":
        asked["checkpoint"] = section.checkpoint
    if section.ensemble:
        asked["ensemble"] = [member.name for member in found]
    output = result_files.folder(workdir, asked) if processes.is_first() else None
    what = f"{config.dataset.name} {split_name}"
    if len(found) == 1 and protocols.is_single(exp):
        step, state = found[0].load()
        with contextlib.closing(_meter(split, what)) as meter:
            result = evaluate(exp.eval_step(), state, exp.eval_batches, split, meter=meter)
        steps, rate = [step], _rate(meter)
    else:
        steps, probabilities, labels, rate = _probabilities(found, split, what)
        result = from_probabilities(probabilities, labels)
    line = asked | {
        "examples": result.examples,
        "loss": result.loss,
        "top1_error": result.top1_error,
        "top5_error": result.top5_error,
        "step": steps[0] if len(steps) == 1 else steps,
        "images_per_second": round(rate, 1),
    }
    if processes.is_first():
        result_files.write(output, line, result, split, lambda i: exp.picture(split, i))
    return json.dumps(line)


def _pictures(exp: experiment.Experiment, paths: Sequence[str]):
    """Picture files as a split that the run's net can look at, and which of them were inverted."""
    if exp.reading.view.size and exp.info.image_shape[2] == 3:
        return image_files.PictureSplit(exp.info, tuple(paths)), [False] * len(paths)
    shape, labels = exp.info.image_shape, np.zeros(len(paths), np.int32)
    images, inverted = np.zeros((len(paths), *shape), np.uint8), [False] * len(paths)
    for i, path in enumerate(paths):
        try:
            images[i], inverted[i] = image_files.read(path, shape, exp.config.predict.invert)
        except UserError as error:
            if exp.config.dataset.on_bad_image == "error":
                raise
            processes.print_once(f"skipped {path} ({error})", file=sys.stderr)
            labels[i] = -1
    return ArraySplit(exp.info, images, labels), inverted


def predict_images(
    config: ConfigDict,
    workdir: pathlib.Path,
    images: Sequence[str],
    given: Collection[str] = (),
) -> str:
    """Class and probability of image files, one line each; the top five follow the first.

    images: files, and folders of them. given: as in `evaluate_run`.
    """
    if not images:
        raise UserError("which images? Give --images=a.png,b.jpg or --images=FOLDER")
    paths = image_files.find(images)
    if config.predict.contact_sheet:
        result_files.check_writable(config.predict.contact_sheet)
    found = ensemble.find(config, workdir, data=False, given=given)
    total, skipped = 0.0, np.zeros(len(paths), bool)
    for member in found:  # each has its own idea of an image
        split, inverted = _pictures(member.exp, paths)
        _, one, labels, _ = _probabilities([member], split, "predicting")
        total, skipped = total + one / len(found), skipped | (labels < 0)
    names = found[0].class_names
    other_class = next(filter(None, (member.exp.loss.other_class for member in found)), "")
    lines, captions = [], []
    for path, one, left_out, is_inverted in zip(paths, total, skipped, inverted, strict=True):
        if left_out:  # and said so
            captions.append("not readable")
            continue
        best = np.argsort(-one, kind="stable")[:5]
        ranking = ", ".join(f"{names[i]} {one[i]:.4f}" for i in best)
        if other_class:
            ranking += f"; {other_class} {max(0.0, 1 - one.sum()):.4f}"
        note = " (dark on light: inverted)" if is_inverted else ""
        lines.append(f"{printable(path)}: {ranking}{note}")
        captions.append(f"{names[best[0]]} {one[best[0]]:.0%}")
    if config.predict.contact_sheet and processes.is_first():
        result_files.contact_sheet(config.predict.contact_sheet, paths, captions)
    return "\n".join(lines)
