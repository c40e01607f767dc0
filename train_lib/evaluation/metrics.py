"""Evaluation of a state on a split: every example exactly once.

`evaluate` is what training does between steps: one view of each image, sums on the devices.
`from_probabilities` makes the same of what `protocols.predict` gives.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator

import jax
import numpy as np

from errors import UserError
from input_pipeline.split import part_of
from train_lib.distributed import processes


@dataclasses.dataclass(frozen=True)
class Result:
    """Errors are fractions in 0..1; loss is the mean.

    classes, probabilities: the top five (or fewer) of each example [n, 5], best first; labels
    int [n]; -1 for what could not be read and was skipped.
    """

    loss: float
    top1_error: float
    top5_error: float
    examples: int
    classes: np.ndarray
    probabilities: np.ndarray
    labels: np.ndarray

    @property
    def counted(self) -> np.ndarray:
        """bool [n]: what could be read."""
        return self.labels >= 0

    def metrics(self) -> dict:
        return {
            "test/loss": self.loss,
            "test/top1_error": self.top1_error,
            "test/top5_error": self.top5_error,
            "test/examples": self.examples,
        }


# What `make_eval_step` sums; a process without an example has zeros of them.
SUMS = ("loss", "top1_errors", "top5_errors", "examples")


def evaluate(
    eval_step: Callable,
    state,
    batches_of: Callable[[object], Iterator[dict]],
    split,
    stop: Callable[[], bool] = lambda: False,
    meter=None,
) -> Result | None:
    """Runs `eval_step` (already parallel) over a split; of several processes each over its part.

    batches_of: a split -> image, label and mask, [devices, share, ...]. None if `stop()` became
    true on the way, in any of the processes. meter: a `console.Meter`, of the part. Raises
    UserError if no example counts.
    """
    part = part_of(split, processes.index(), processes.count())
    outputs, labels, stopped = [], [], False
    with contextlib.closing(batches_of(part)) if len(part) else contextlib.nullcontext(()) as found:
        for batch in found:
            if stopped := stop():
                break
            # What is masked is a skipped image, or padding, which is cut off below.
            labels.append(np.where(batch["mask"] > 0, batch["label"], -1).reshape(-1))
            with meter.compiling(batch["image"].shape) if meter else contextlib.nullcontext():
                outputs.append(eval_step(state, batch))
            if len(outputs) > 2:  # two batches in flight keep the device busy
                outputs[-3] = jax.device_get(outputs[-3])
                if meter:
                    meter.done(batch["label"].size)
    outputs = jax.device_get(outputs)
    if meter and not stopped:
        meter.reached(len(part))
    # Sums over a batch are exact or float32; over batches they are Python's float64.
    own = {name: np.float64(sum(float(out[0][name]) for out in outputs)) for name in SUMS}

    def per_example(name: str) -> np.ndarray:
        rows = [out[1][name].reshape(-1, out[1][name].shape[-1]) for out in outputs]
        return np.concatenate(rows)[: len(part)]

    if outputs and not stopped:
        own |= {name: per_example(name) for name in ("classes", "probabilities")}
        own["labels"] = np.concatenate(labels)[: len(part)]
    gathered = processes.gather(stopped=np.bool_(stopped), **own)
    if any(one["stopped"] for one in gathered):
        return None
    sums = {name: sum(float(one[name]) for one in gathered) for name in SUMS}
    counted = round(sums["examples"])
    if not counted:
        raise UserError("not one image of the split can be read: check the data set")
    rows = {
        name: np.concatenate([one[name] for one in gathered if name in one])
        for name in ("classes", "probabilities", "labels")
    }
    return Result(
        loss=sums["loss"] / counted,
        top1_error=sums["top1_errors"] / counted,
        top5_error=sums["top5_errors"] / counted,
        examples=counted,
        **rows,
    )


def from_probabilities(probabilities: np.ndarray, labels: np.ndarray) -> Result:
    """The result of class probabilities float [n, classes].

    labels: int [n], -1 for what was skipped. The loss is -log of the right class's probability
    (of at least 1e-30). Raises UserError if no example counts.
    """
    mask = labels >= 0
    count = int(mask.sum())
    if not count:
        raise UserError("not one image of the split can be read: check the data set")
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
