"""Evaluation of a state on a split: every example exactly once."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np

from input_pipeline.batches import eval_batches
from input_pipeline.sources import Split


@dataclasses.dataclass(frozen=True)
class Result:
    """Errors are fractions in 0..1; loss is the mean.

    classes, probabilities: the top five (or fewer) of each example [n, 5], best first.
    """

    loss: float
    top1_error: float
    top5_error: float
    examples: int
    classes: np.ndarray
    probabilities: np.ndarray

    def metrics(self) -> dict:
        return {
            "test/loss": self.loss,
            "test/top1_error": self.top1_error,
            "test/top5_error": self.top5_error,
            "test/examples": self.examples,
        }


def evaluate(
    eval_step: Callable,
    state,
    split: Split,
    batch_size: int,
    num_devices: int,
    stop: Callable[[], bool] = lambda: False,
) -> Result | None:
    """Runs `eval_step` (already parallel) over a split; None if `stop()` became true on the way.

    batch_size is that of all devices; a split smaller than it is one padded batch.
    """
    smallest = -(-len(split) // num_devices) * num_devices
    batch_size = min(batch_size, smallest)
    outputs = []
    for batch in eval_batches(split, batch_size, num_devices):
        if stop():
            return None
        outputs.append(eval_step(state, batch))
        if len(outputs) > 2:  # two batches in flight keep the device busy
            outputs[-3] = jax.device_get(outputs[-3])
    outputs = jax.device_get(outputs)
    # Sums over a batch are exact or float32; over batches they are Python's float64.
    sums = {name: sum(float(out[0][name]) for out in outputs) for name in outputs[0][0]}
    examples = round(sums["examples"])

    def per_example(name: str) -> np.ndarray:
        rows = [out[1][name].reshape(-1, out[1][name].shape[-1]) for out in outputs]
        return np.concatenate(rows)[: len(split)]

    return Result(
        loss=sums["loss"] / examples,
        top1_error=sums["top1_errors"] / examples,
        top5_error=sums["top5_errors"] / examples,
        examples=examples,
        classes=per_example("classes"),
        probabilities=per_example("probabilities"),
    )
