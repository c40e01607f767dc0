"""Metrics of a network on a split. Every example counts exactly once.

`evaluate` is what training does between steps: one view of each image, sums on the devices.
`from_probabilities` computes the same result from the class probabilities of a protocol.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Sequence

import jax
import numpy as np

from errors import UserError
from input_pipeline.split import part_of
from train_lib.distributed import processes


@dataclasses.dataclass(frozen=True)
class Result:
    """The result of an evaluation. Errors are fractions in 0..1. loss: the mean over examples.

    classes, probabilities: the five (or fewer) most probable of each example [n, 5], best first.
    labels: int [n], -1 for an image that could not be read and was skipped.
    """

    loss: float
    top1_error: float
    top5_error: float
    examples: int
    classes: np.ndarray
    probabilities: np.ndarray
    labels: np.ndarray

    @property
    def labels_and_predictions(self) -> tuple[np.ndarray, np.ndarray]:
        """The true and the predicted classes of the examples that could be read."""
        is_read = self.labels >= 0
        return self.labels[is_read], self.classes[is_read, 0]

    def mean_class_error(self) -> float:
        """The top-1 error of each class, averaged over the classes that have examples."""
        labels, predicted = self.labels_and_predictions
        return float(np.mean([(predicted[labels == c] != c).mean() for c in np.unique(labels)]))

    def metrics(self) -> dict[str, float | None]:
        """The values to store as JSON, which has no number for a loss that is not finite: None."""
        names = ("loss", "top1_error", "top5_error", "examples")
        values = {name: getattr(self, name) for name in names}
        return values | {"loss": self.loss if math.isfinite(self.loss) else None}


def confusion_counts(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """int [classes, classes]: counts of examples by true (row) and predicted (column) class."""
    matrix = np.zeros((num_classes, num_classes), int)
    np.add.at(matrix, (labels, predicted), 1)
    return matrix


# The sums of `make_eval_step`. A process without examples has zeros.
SUMS = ("loss", "top1_errors", "top5_errors", "examples")


def evaluate(
    exp, state, split, stop: Callable[[], bool] = lambda: False, meter=None
) -> Result | None:
    """Evaluates a state of an `Experiment` on a split; several processes each on a part.

    stop: the evaluation ends, and returns None, if stop() becomes true in any process.
    meter: a `progress.Meter` of this process's part.
    Raises UserError if no example can be read.
    """
    part = part_of(split, processes.index(), processes.count())
    eval_step = exp.eval_step  # also without examples: its statistics may come from another process
    outputs, labels, stopped = [], [], False
    reader = contextlib.closing(exp.eval_batches(part)) if len(part) else contextlib.nullcontext(())
    with reader as batches:
        for batch in batches:
            if stopped := stop():
                break
            # The mask leaves out skipped images, and the padding, which is cut off below.
            labels.append(np.where(batch["mask"] > 0, batch["label"], -1).reshape(-1))
            with meter.compiling(batch["image"].shape) if meter else contextlib.nullcontext():
                outputs.append(eval_step(state, batch))
            if len(outputs) > 2:  # two batches in flight keep the device busy
                outputs[-3] = jax.device_get(outputs[-3])
                if meter:
                    meter.advance(batch["label"].size)
    outputs = jax.device_get(outputs)
    if meter and not stopped:
        meter.advance_to(len(part))
    # Sums over a batch are exact or float32; over batches they are Python's float64.
    arrays = {name: np.float64(sum(float(out[0][name]) for out in outputs)) for name in SUMS}
    if outputs and not stopped:
        for name in ("classes", "probabilities"):
            rows = [out[1][name].reshape(-1, out[1][name].shape[-1]) for out in outputs]
            arrays[name] = np.concatenate(rows)[: len(part)]
        arrays["labels"] = np.concatenate(labels)[: len(part)]
    return _result(processes.gather(stopped=np.bool_(stopped), **arrays))


def _result(gathered: Sequence[dict[str, np.ndarray]]) -> Result | None:
    """The result from the arrays of every process; None if one of them stopped."""
    if any(arrays["stopped"] for arrays in gathered):
        return None
    sums = {name: sum(float(arrays[name]) for arrays in gathered) for name in SUMS}
    examples = round(sums["examples"])
    _check_count(examples)
    rows = {
        name: np.concatenate([arrays[name] for arrays in gathered if name in arrays])
        for name in ("classes", "probabilities", "labels")
    }
    return Result(
        loss=sums["loss"] / examples,
        top1_error=sums["top1_errors"] / examples,
        top5_error=sums["top5_errors"] / examples,
        examples=examples,
        **rows,
    )


def _check_count(examples: int) -> None:
    if not examples:
        raise UserError("no image of the split can be read: check the data set")


def from_probabilities(probabilities: np.ndarray, labels: np.ndarray) -> Result:
    """The result from class probabilities, float [n, classes].

    labels: int [n], -1 for a skipped image. The loss is -log of the right class's probability (of
    at least 1e-30). Raises UserError if no example can be read.
    """
    mask = labels >= 0
    count = int(mask.sum())
    _check_count(count)
    chunks = np.array_split(probabilities, max(1, len(probabilities) // 4096))
    best = [np.argsort(-chunk, axis=1, kind="stable")[:, :5] for chunk in chunks]
    classes = np.concatenate(best)
    hits = (classes == labels[:, None])[mask]
    right = np.take_along_axis(probabilities, np.maximum(labels, 0)[:, None], axis=1)[mask, 0]
    return Result(
        loss=float(-np.log(np.maximum(right.astype(np.float64), 1e-30)).mean()),
        top1_error=int((~hits[:, 0]).sum()) / count,
        top5_error=int((~hits.any(axis=1)).sum()) / count,
        examples=count,
        classes=classes.astype(np.int32),
        probabilities=np.take_along_axis(probabilities, classes, axis=1),
        labels=labels.astype(np.int32),
    )
