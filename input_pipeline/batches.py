"""Which examples form batch n: a pure function of (seed, n), for any number of devices.

Passes over the set follow each other without a gap. Each pass has its own random order. Batch n
takes batch_size positions of this endless sequence, from position n * batch_size on. So each
pass contains every example exactly once, even if the batch size does not divide the set, and a
run can resume at any step without history.
"""

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np

from input_pipeline.split import ArraySplit


# A batch needs one pass, or two at their border; of a small set more, as batches are read ahead.
@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, num_examples: int) -> np.ndarray:
    # Philox is counter-based: (seed, epoch) is its key, so passes are independent streams.
    key = np.array([seed, epoch], np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).permutation(num_examples)


def batch_indices(seed: int, step: int, batch_size: int, num_examples: int) -> np.ndarray:
    """Which examples form the batch of `step` (counted from 0): int64 [batch_size]."""
    position, end = step * batch_size, (step + 1) * batch_size
    parts = []
    while position < end:
        epoch, offset = divmod(position, num_examples)
        take = min(end - position, num_examples - offset)
        parts.append(_permutation(seed, epoch, num_examples)[offset : offset + take])
        position += take
    return np.concatenate(parts)


def example_index(seed: int, position: int, num_examples: int) -> int:
    """The example at a position of the endless sequence; batch n starts at n * batch_size."""
    epoch, offset = divmod(position, num_examples)
    return int(_permutation(seed, epoch, num_examples)[offset])


@dataclasses.dataclass(frozen=True)
class Order:
    """Which examples form the training batches, and how a batch is divided.

    batch_size: of all processes together. devices: of this process. process: its number among
    `processes`. Process p, device d reads the slice p * devices + d of every batch.
    """

    seed: int
    batch_size: int
    devices: int
    process: int = 0
    processes: int = 1


def train_batches(split: ArraySplit, order: Order, step: int, count: int) -> dict:
    """The batches of the `count` steps from `step` on, of a split in memory.

    Returns image uint8 [devices, count, share, height, width, channels] and label int32
    [devices, count, share], where share = batch_size / devices / processes.
    """
    indices = np.stack(
        [
            batch_indices(order.seed, s, order.batch_size, len(split))
            for s in range(step, step + count)
        ]
    )
    indices = indices.reshape(count, order.processes, order.devices, -1)
    indices = indices[:, order.process].swapaxes(0, 1)
    return {"image": split.images[indices], "label": split.labels[indices]}


def eval_batches(split: ArraySplit, batch_size: int, devices: int) -> Iterator[dict]:
    """Every example once, in order, of a split in memory.

    Yields image uint8 [devices, share, height, width, channels], label int32 and mask float32
    [devices, share], where share = batch_size / devices. The last batch is padded with the first
    example; `mask` is 0 there and 1 elsewhere.
    """
    for start in range(0, len(split), batch_size):
        indices = np.arange(start, start + batch_size)
        mask = (indices < len(split)).astype(np.float32)
        indices = np.where(mask > 0, indices, 0).reshape(devices, -1)
        yield {
            "image": split.images[indices],
            "label": split.labels[indices],
            "mask": mask.reshape(devices, -1),
        }
