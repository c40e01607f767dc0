"""Which examples form batch n: a pure function of (seed, n), for any number of devices.

Passes over the set follow each other without a gap, each in its own random order. Batch n takes
batch_size positions of this endless sequence, from n * batch_size on. So each pass contains every
example exactly once, even if the batch size does not divide the set, and a run can resume anywhere.
"""

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np

from input_pipeline.split import ArraySplit


@dataclasses.dataclass(frozen=True)
class Order:
    """Which examples form the training batches, and how a batch is divided.

    batch_size: of all processes together. devices: of this process. process: its number among
    `processes`. Device d of process p reads the slice p * devices + d of every batch.
    """

    seed: int
    batch_size: int
    devices: int
    process: int = 0
    processes: int = 1


# A batch needs one pass, or two at their border. A small set needs more, for batches read ahead.
@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, num_examples: int) -> np.ndarray:
    # Philox is counter-based: (seed, epoch) is its key, so passes are independent streams.
    key = np.array([seed, epoch], np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).permutation(num_examples)


def batch_indices(seed: int, step: int, batch_size: int, num_examples: int) -> np.ndarray:
    """The examples of the batch of `step` (counted from 0): int64 [batch_size]."""
    position, end = step * batch_size, (step + 1) * batch_size
    parts = []
    while position < end:
        epoch, offset = divmod(position, num_examples)
        take = min(end - position, num_examples - offset)
        parts.append(_permutation(seed, epoch, num_examples)[offset : offset + take])
        position += take
    return np.concatenate(parts)


def train_batches(split: ArraySplit, order: Order, step: int, count: int) -> dict:
    """The batches of `count` steps from `step` on, of a split in memory.

    Returns image uint8 [devices, count, share, height, width, channels] and label int32
    [devices, count, share], where share = batch_size / devices / processes.
    """
    size, steps = order.batch_size, range(step, step + count)
    indices = np.stack([batch_indices(order.seed, s, size, len(split)) for s in steps])
    indices = indices.reshape(count, order.processes, order.devices, -1)
    indices = indices[:, order.process].swapaxes(0, 1)
    return {"image": split.images[indices], "label": split.labels[indices]}


def eval_batches(split: ArraySplit, batch_size: int, devices: int) -> Iterator[dict]:
    """Every example of a split in memory once, in order.

    Yields image uint8 [devices, share, height, width, channels], label int32 and mask float32
    [devices, share], where share = batch_size / devices. The last batch is padded with the first
    example; `mask` is 0 there and 1 elsewhere.
    """
    for start in range(0, len(split), batch_size):
        indices = np.arange(start, start + batch_size).reshape(devices, -1)
        mask = indices < len(split)
        indices = np.where(mask, indices, 0)
        yield {
            "image": split.images[indices],
            "label": split.labels[indices],
            "mask": mask.astype(np.float32),
        }
