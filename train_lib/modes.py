"""The modes that need a trained run: evaluate and predict. Each returns what is printed."""

import contextlib
import json
import pathlib
from collections.abc import Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from errors import UserError
from input_pipeline import images as image_files
from input_pipeline import sources
from train_lib import config as config_lib
from train_lib import console, experiment, optimizers, parallel, protocols, rates, reports
from train_lib import state as state_lib
from train_lib import workdir as folder
from train_lib.checkpoints import Checkpoints
from train_lib.evaluate import evaluate, from_probabilities


def load_state(exp: experiment.Experiment, workdir: pathlib.Path):
    """(step, state) of a run's newest checkpoint, or of the best by config.evaluate.checkpoint.

    Raises UserError if there is none, or the run is of another model.
    """
    stored = folder.stored_config(workdir)
    if stored is None or not (workdir / "checkpoints").is_dir():
        raise UserError(f"no run in {workdir}: train one with --mode=train, or give its --workdir")
    different = [
        line
        for section in ("model.", "preprocess.", "loss.")
        for line in config_lib.differences(stored, exp.config, section)
    ]
    folder.refuse(workdir, different, "give the config that it was trained with")
    config = exp.config
    # For the structure of its state alone, which durations do not change.
    optimizer = optimizers.make_optimizer(
        config.optimizer, rates.make_rate(config.schedule, 1.0, 1)
    )
    averaged = config.optimizer.averaging > 0
    like = jax.eval_shape(
        lambda: state_lib.create(exp.module, optimizer, config.seed, exp.input_shape, averaged)
    )
    checkpoints = Checkpoints(workdir, read_only=True)
    step = None
    if exp.config.evaluate.checkpoint == "best":
        step = checkpoints.best_step()
        if step is None:
            raise UserError(f"no evaluated checkpoint in {workdir}: use evaluate.checkpoint=latest")
    restored = checkpoints.restore(like, step)
    if restored is None:
        raise UserError(f"no checkpoint in {workdir}: train first, with --mode=train")
    return restored[0], parallel.replicate(restored[1], exp.devices)


def _members(config: ConfigDict, workdir: pathlib.Path) -> list[tuple[ConfigDict, pathlib.Path]]:
    """The runs that are tested, each with its config: that of workdir, or an ensemble's.

    A member of an ensemble keeps its own model, preprocessing and views; what is tested, and how,
    is in `config`. Raises UserError for a member that is no run.
    """
    names = [name.strip() for name in config.evaluate.ensemble.split(",") if name.strip()]
    if not names:
        return [(config, workdir)]
    if len(names) == 1:
        raise UserError(
            f"config.evaluate.ensemble={names[0]}: name two runs or more, with commas between"
        )
    members = []
    for name in names:
        path = pathlib.Path(name).expanduser()
        folder.check_run(path, "config.evaluate.ensemble")
        member = folder.read_config(path)
        for section in ("dataset", "evaluate", "predict"):
            member[section] = config[section].copy_and_resolve_references()
        member.evaluate.ensemble, member.num_devices = "", config.num_devices
        members.append((member, path))
    return members


def _opened(config: ConfigDict, workdir: pathlib.Path) -> list[experiment.Experiment]:
    """The experiments of the members, all of the same classes; no state is loaded yet."""
    found = [experiment.build(member, path) for member, path in _members(config, workdir)]
    for exp in found:
        protocols.check(exp)
        if folder.stored_config(exp.workdir) is None:
            continue  # `load_state` says so
        names = folder.class_names(exp.workdir)
        if config.evaluate.ensemble and names != folder.class_names(found[0].workdir):
            raise UserError(
                f"{exp.workdir} and {found[0].workdir} know other classes: an ensemble's runs must"
                " be of the same ones, in the same order"
            )
    return found


def _probabilities(experiments, split, what: str):
    """(steps, mean probabilities float32 [n, classes], labels, images a second) of the members.

    labels: -1 for what was skipped. One member's state is held at a time.
    """
    steps, total, labels = [], 0.0, None
    all_passes = [protocols.passes(exp) for exp in experiments]
    meter = console.Meter(len(split) * sum(map(len, all_passes)), what)
    with contextlib.closing(meter):
        for exp, passes in zip(experiments, all_passes, strict=True):
            step, state = load_state(exp, exp.workdir)
            found, labels = protocols.predict(passes, state, split, meter)
            total, steps = total + found, [*steps, step]
    looks = meter.total / len(split)
    return steps, total / len(experiments), labels, meter.rate() / looks


def evaluate_run(config: ConfigDict, workdir: pathlib.Path) -> str:
    """Tests a run, or an ensemble of runs; writes `reports.write`'s files. One line of JSON."""
    experiments = _opened(config, workdir)
    exp, section = experiments[0], config.evaluate
    names = {"test": config.dataset.test_split, "train": config.dataset.train_split}
    split_name = sources.split_name(config.dataset, names[section.split])
    split = sources.load(config.dataset, split_name)
    for one in experiments:
        if folder.stored_config(one.workdir) is not None:
            _check_classes(one.workdir, split.info)
    what = f"{config.dataset.name} {split_name}"
    if len(experiments) == 1 and protocols.is_single(config):
        step, state = load_state(exp, workdir)
        with contextlib.closing(console.Meter(len(split), what)) as meter:
            batches = exp.eval_batches(split)
            result = evaluate(exp.eval_step(), state, batches, len(split), meter=meter)
        steps, rate = [step], meter.rate()
    else:
        steps, found, labels, rate = _probabilities(experiments, split, what)
        result = from_probabilities(found, labels)
    line = {
        "dataset": config.dataset.name,
        "split": split_name,
        "protocol": protocols.name(config),
        "examples": result.examples,
        "loss": result.loss,
        "top1_error": result.top1_error,
        "top5_error": result.top5_error,
        "step": steps[0] if len(steps) == 1 else steps,
        "images_per_second": round(rate, 1),
    }
    if not protocols.is_single(config):
        line["scales"] = protocols.scales(exp.config)
    if section.ensemble:
        line["ensemble"] = [str(one.workdir) for one in experiments]
    reports.write(workdir, line, result, split, lambda i: exp.picture(split, i))
    return json.dumps(line)


def _check_classes(workdir: pathlib.Path, info: sources.Info) -> None:
    names = folder.class_names(workdir)
    if tuple(names) != tuple(info.class_names):
        raise UserError(
            f"{workdir} was trained on other classes ({len(names)}: {', '.join(names[:3])}, ...)"
            f" than those of {info.name} ({info.num_classes}:"
            f" {', '.join(info.class_names[:3])}, ...): give the data set that it was trained on"
        )


def _pictures(exp: experiment.Experiment, paths: Sequence[str]):
    """Picture files as a split that the run's net can look at, and which of them were inverted."""
    if exp.reading.view.size and exp.info.image_shape[2] == 3:
        return image_files.Pictures(exp.info, tuple(paths)), [False] * len(paths)
    shape = exp.info.image_shape
    found = [image_files.read(path, shape, exp.config.predict.invert) for path in paths]
    images, inverted = zip(*found, strict=True)
    labels = np.zeros(len(paths), np.int32)
    return sources.Split(exp.info, np.stack(images), labels), inverted


def predict_images(config: ConfigDict, workdir: pathlib.Path, images: Sequence[str]) -> str:
    """Class and probability of image files, one line each; the top five follow the first.

    images: files, and folders of them.
    """
    if not images:
        raise UserError("which images? Give --images=a.png,b.jpg or --images=FOLDER")
    paths = image_files.find(images)
    experiments = _opened(config, workdir)
    exp = experiments[0]
    total, inverted, labels = 0.0, None, None
    for one in experiments:  # each has its own idea of an image
        split, inverted = _pictures(one, paths)
        _, found, labels, _ = _probabilities([one], split, "predicting")
        total = total + found / len(experiments)
    names = folder.class_names(exp.workdir)
    lines, captions = [], []
    for path, found, label, is_inverted in zip(paths, total, labels, inverted, strict=True):
        if label < 0:  # skipped, and said so
            captions.append("not readable")
            continue
        best = np.argsort(-found, kind="stable")[:5]
        ranking = ", ".join(f"{names[i]} {found[i]:.4f}" for i in best)
        if config.loss.name == "map":  # what is missing to 1 is eq. 9's class of all else
            ranking += f"; no character {max(0.0, 1 - found.sum()):.4f}"
        note = " (dark on light: inverted)" if is_inverted else ""
        lines.append(f"{path}: {ranking}{note}")
        captions.append(f"{names[best[0]]} {found[best[0]]:.0%}")
    if config.predict.contact_sheet:
        reports.contact_sheet(config.predict.contact_sheet, paths, captions)
    return "\n".join(lines)
