"""Which examples make batch n: a pure function of (seed, n), whatever the number of devices.

The passes over the set follow each other without a gap, each in its own random order: batch n
takes the positions n * batch_size ... of that endless sequence. So every example comes exactly
once a pass also where the batch size does not divide the set, and going on at any step needs
no history.
"""

import functools

import numpy as np


# A batch touches one pass, or two at their border; small sets more, where batches are read ahead.
@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, num_examples: int) -> np.ndarray:
    # Philox is counter-based: (seed, epoch) is its key, so passes are independent streams.
    key = np.array([seed, epoch], np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).permutation(num_examples)


def batch_indices(seed: int, step: int, batch_size: int, num_examples: int) -> np.ndarray:
    """Indices into the set, int64 [batch_size], of the batch of `step` (counted from 0)."""
    position, end = step * batch_size, (step + 1) * batch_size
    parts = []
    while position < end:
        epoch, offset = divmod(position, num_examples)
        take = min(end - position, num_examples - offset)
        parts.append(_permutation(seed, epoch, num_examples)[offset : offset + take])
        position += take
    return np.concatenate(parts)


def example_index(seed: int, position: int, num_examples: int) -> int:
    """The example at a position of the endless sequence: batch n begins at n * batch_size."""
    epoch, offset = divmod(position, num_examples)
    return int(_permutation(seed, epoch, num_examples)[offset])


def train_batches(
    split,
    seed: int,
    step: int,
    count: int,
    batch_size: int,
    devices: int,
    host: tuple[int, int] = (0, 1),
) -> dict:
    """The batches of `count` steps from `step` on, laid out for `devices` devices.

    host: this process's number, and how many there are, each with so many devices and its own
    part of every batch. Returns image uint8 [devices, count, share, height, width, channels] and
    label int32 [devices, count, share], where share = batch_size / devices / hosts; device d
    holds the d-th slice of the part.
    """
    indices = np.stack(
        [batch_indices(seed, s, batch_size, len(split)) for s in range(step, step + count)]
    )
    indices = indices.reshape(count, host[1], devices, -1)[:, host[0]].transpose(1, 0, 2)
    return {"image": split.images[indices], "label": split.labels[indices]}


def eval_batches(split, batch_size: int, devices: int):
    """Every example once, in order: image, label and mask [devices, batch_size / devices, ...].

    The last batch is filled up with the first example; `mask` (float32) is 0 on what was added.
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
