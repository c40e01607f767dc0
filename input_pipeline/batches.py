"""Which examples form batch n: a pure function of (seed, n), for any number of devices.

Passes over the set follow each other without a gap, each in its own random order, or all in one
random order (LeCun 1998, sec. III). Batch n takes batch_size positions of this endless sequence,
from n * batch_size on. So each pass contains every example exactly once, even if the batch size
does not divide the set, and a run can resume anywhere.
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
    fixed: whether all passes have the same order.
    """

    seed: int
    batch_size: int
    devices: int
    process: int = 0
    processes: int = 1
    fixed: bool = False

    def examples(self, start: int, count: int, num_examples: int) -> np.ndarray:
        """The examples at `count` positions of the sequence of passes: int64 [count].

        start: the first position; that of batch n is n * batch_size. num_examples: of the set.
        """
        parts, end = [], start + count
        while start < end:
            epoch, offset = divmod(start, num_examples)
            take = min(end - start, num_examples - offset)
            permutation = _permutation(self.seed, 0 if self.fixed else epoch, num_examples)
            parts.append(permutation[offset : offset + take])
            start += take
        return np.concatenate(parts)


# A batch needs one pass, or two at their border. A small set needs more, for batches read ahead.
@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, num_examples: int) -> np.ndarray:
    # Philox is counter-based: (seed, epoch) is its key, so passes are independent streams.
    key = np.array([seed, epoch], np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).permutation(num_examples)


def train_batches(split: ArraySplit, order: Order, step: int, count: int) -> dict:
    """The batches of `count` steps from `step` on, of a split in memory.

    Returns image uint8 [devices, count, share, height, width, channels] and label int32
    [devices, count, share], where share = batch_size / devices / processes.
    """
    indices = train_indices(split, order, step, count)["index"]
    return {"image": split.images[indices], "label": split.labels[indices]}


def train_indices(split: ArraySplit, order: Order, step: int, count: int) -> dict:
    """The numbers of the examples of `train_batches`: index int32 [devices, count, share]."""
    size = order.batch_size
    indices = order.examples(step * size, count * size, len(split))
    indices = indices.reshape(count, order.processes, order.devices, -1)
    return {"index": indices[:, order.process].swapaxes(0, 1).astype(np.int32)}


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
