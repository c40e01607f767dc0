"""The modes that need a trained run: evaluate and predict. Each returns what is printed."""

import json
import pathlib
from collections.abc import Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from errors import UserError
from input_pipeline import images as image_files
from input_pipeline import sources, views
from train_lib import config as config_lib
from train_lib import experiment, losses, optimizers, parallel, plots, rates
from train_lib import metrics as metrics_lib
from train_lib import state as state_lib
from train_lib import workdir as folder
from train_lib.checkpoints import Checkpoints
from train_lib.evaluate import evaluate


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


def evaluate_run(config: ConfigDict, workdir: pathlib.Path) -> str:
    """Evaluates a run; writes its confusion matrix and misclassified images. One line of JSON."""
    exp = experiment.build(config, workdir)
    step, state = load_state(exp, workdir)
    names = {"test": config.dataset.test_split, "train": config.dataset.train_split}
    split_name = sources.split_name(config.dataset, names[config.evaluate.split])
    split = sources.load(config.dataset, split_name)
    result = evaluate(exp.eval_step(), state, exp.eval_batches(split), len(split))
    plots.write_all(
        workdir,
        metrics_lib.read(workdir),
        state.variables()["params"],
        result,
        exp.info.class_names,
        lambda i: exp.picture(split, i),
    )
    return json.dumps(
        {
            "dataset": config.dataset.name,
            "split": split_name,
            "protocol": config.evaluate.protocol,
            "examples": result.examples,
            "loss": result.loss,
            "top1_error": result.top1_error,
            "top5_error": result.top5_error,
            "step": step,
        }
    )


def _picture(exp: experiment.Experiment, path: str) -> tuple[np.ndarray, bool]:
    """A picture file as the net's data set would have it, and whether it was inverted."""
    view, shape = exp.reading.view, exp.info.image_shape
    if view.size and shape[2] == 3:
        return image_files.cut(path, view), False
    image, inverted = image_files.read(path, shape, exp.config.predict.invert)
    return views.cut(image, view)[0], inverted


def predict_images(config: ConfigDict, workdir: pathlib.Path, paths: Sequence[str]) -> str:
    """Class and probability of image files, one line each; the top five follow the first."""
    if not paths:
        raise UserError("which images? Give --images=a.png,b.jpg")
    exp = experiment.build(config, workdir)
    _, state = load_state(exp, workdir)
    names = folder.class_names(workdir)
    pictures = [_picture(exp, path) for path in paths]

    @jax.jit
    def probabilities(images):
        scale = exp.drop_scale(state.step)
        inputs = exp.transform(images)
        logits = exp.module.apply(state.variables(), inputs, train=False, drop_scale=scale)
        return losses.probabilities(config.loss, logits)

    lines = []
    for path, (image, inverted) in zip(paths, pictures, strict=True):
        found = np.asarray(probabilities(image[None]))[0]
        best = np.argsort(-found, kind="stable")[:5]
        ranking = ", ".join(f"{names[i]} {found[i]:.4f}" for i in best)
        if config.loss.name == "map":  # what is missing to 1 is eq. 9's class of all else
            ranking += f"; no character {max(0.0, 1 - found.sum()):.4f}"
        note = " (dark on light: inverted)" if inverted else ""
        lines.append(f"{path}: {ranking}{note}")
    return "\n".join(lines)
