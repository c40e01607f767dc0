"""Batches of images as a pure function of (seed, step). Grain decodes the images when needed.

Seed, step and position in the batch determine an example (`batches.Order`) and its random
view, whose generator is keyed by the number of examples before it in the run. Therefore a run can
resume at any step, and the number of threads, processes, devices and hosts does not change the
result.
"""

import contextlib
import itertools
import math
import os
from collections.abc import Callable, Iterator

import numpy as np

from errors import TryAgain
from input_pipeline import batches
from input_pipeline.crops import Crops, Whole, bucket
from input_pipeline.reading import Parts, Reading
from input_pipeline.split import Split

_LARGEST_PART = 8  # most examples that a thread reads in one call


def cores() -> int:
    """The number of processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def _batch_reader(split: Split, reading: Reading, count: int, share: int, cutter=None, **options):
    """Yields next_batches(n), which reads n batches of `share` examples: arrays [examples, ...].

    The last batch may have fewer examples. After the last one, next_batches returns None. About two
    batches are decoded ahead, or two per worker process. cutter, options: see `reading.Parts`.
    """
    import grain

    # A worker process decodes whole batches, a thread decodes parts of batches.
    threads = 1 if reading.workers else min(16, cores())
    size = share if reading.workers else max(1, min(_LARGEST_PART, share // threads))
    parts = Parts(split, reading, cutter or reading.view, count, share, size, **options)
    ahead = 1 if reading.workers else threads + 2 * parts.parts_per_batch
    dataset = grain.MapDataset.source(parts).to_iter_dataset(grain.ReadOptions(threads, ahead))
    if reading.workers:
        dataset = reading.workers(dataset)
    iterator = iter(dataset)

    def next_batches(n: int) -> dict | None:
        try:
            elements = list(itertools.islice(iterator, n * parts.parts_per_batch))
        except RuntimeError as error:
            if "terminated unexpectedly" not in str(error):  # Grain's message
                raise
            raise TryAgain(
                "a process that decodes images ended (out of memory?): run the same command again,"
                " perhaps with fewer config.dataset.workers"
            ) from error
        # This copies the elements, because those of a worker process are in shared memory.
        return _concatenate(elements) if elements else None

    try:
        yield next_batches
    finally:
        iterator.close()


def _concatenate(elements: list[dict]) -> dict:
    return {name: np.concatenate([e[name] for e in elements]) for name in elements[0]}


def _divide_among_devices(batch: dict, size: int, devices: int) -> dict:
    """An evaluation batch, padded with zeros to `size` examples and divided among devices."""
    missing = size - len(batch["label"])
    if missing:
        batch = {
            name: np.pad(values, [(0, missing)] + [(0, 0)] * (values.ndim - 1))
            for name, values in batch.items()
        }
    return {name: v.reshape(devices, -1, *v.shape[1:]) for name, v in batch.items()}


class TrainBatches(Iterator[dict]):
    """The batches for a range of steps, dispatch(step) steps at a time.

    A batch has image uint8 [devices, count, share, height, width, channels], label int32
    [devices, count, share] and, if images are cut, offset int32 [devices, count, share, 2] (see
    `View.place`). count: number of steps in the dispatch; share = batch_size / devices / processes.
    indices_only: for a split in memory, a batch is index int32 [devices, count, share], the numbers
    of its examples.

    skipped: number of unreadable images that were replaced by the next example so far.
    Call `close` to end the workers. Iteration raises UserError for a label out of range, and for an
    unreadable image unless config.dataset.on_bad_image is "skip".
    """

    def __init__(
        self,
        split: Split,
        reading: Reading,
        order: batches.Order,
        steps: range,
        dispatch: Callable[[int], int],
        indices_only: bool = False,
    ):
        self.skipped = 0
        self._steps, self._dispatch = steps, dispatch
        if reading.in_memory(split):
            make = batches.train_indices if indices_only else batches.train_batches
            self._batches = (make(split, order, *dispatch) for dispatch in self._dispatches())
        else:
            self._batches = self._decoded(split, reading, order)

    def __next__(self) -> dict:
        return next(self._batches)

    def close(self) -> None:
        self._batches.close()

    def _dispatches(self) -> Iterator[tuple[int, int]]:
        """The first step and the number of steps of each dispatch."""
        step = self._steps.start
        while step < self._steps.stop:
            count = self._dispatch(step)
            yield step, count
            step += count

    def _decoded(self, split: Split, reading: Reading, order: batches.Order) -> Iterator[dict]:
        share = order.batch_size // order.processes
        count = len(self._steps) * share
        options = {"first": self._steps.start, "order": order}
        with _batch_reader(split, reading, count, share, **options) as next_batches:
            for _, steps in self._dispatches():
                batch = next_batches(steps)
                self.skipped += int(batch.pop("skipped").sum())
                del batch["mask"]
                yield {
                    name: v.reshape(steps, order.devices, -1, *v.shape[1:]).swapaxes(0, 1)
                    for name, v in batch.items()
                }


def eval_batches(
    split: Split, reading: Reading, batch_size: int, devices: int, crops: Crops | None = None
) -> Iterator[dict]:
    """Every example once, in order: image, label and mask [devices, batch_size / devices, ...].

    The last batch is padded. `mask` (float32) is 0 for padding and for unreadable images that are
    skipped. crops: replace the test view; the batch then includes their offset int32
    [..., crops, 2]. Raises as `TrainBatches`.
    """
    if crops is None and reading.in_memory(split):
        yield from batches.eval_batches(split, batch_size, devices)
        return
    with _batch_reader(split, reading, len(split), batch_size, crops) as next_batches:
        while batch := next_batches(1):
            del batch["skipped"]
            if crops is None:
                del batch["offset"]  # not needed: the test view is the centre
            yield _divide_among_devices(batch, batch_size, devices)


def whole_batches(
    split: Split, reading: Reading, whole: Whole, pixels: int, devices: int
) -> Iterator[dict]:
    """Every example once, as a whole image. Images of similar size share a batch.

    pixels: largest number of pixels in a batch, unless one image per device has more. The last
    batch of a shape is padded to the next power of two per device. There are few shapes (see
    `crops.bucket`).

    Yields image uint8 [devices, n, height, width, channels], each image at the top left, padded
    with zeros; size int32 [devices, n, 2], height and width without the padding; label and mask as
    in `eval_batches`; index int32 [devices, n], the number of the example, -1 for padding.
    Raises as `TrainBatches`.
    """
    waiting: dict[tuple[int, int], list[dict]] = {}  # examples by shape

    def make_batch(shape: tuple[int, int], examples: list[dict], count: int) -> dict:
        batch = _divide_among_devices(_concatenate(examples), count, devices)
        padding = np.arange(count).reshape(devices, -1) >= len(examples)
        batch["size"][padding], batch["index"][padding] = shape, -1
        return batch

    def capacity(shape: tuple[int, int]) -> int:
        return max(1, pixels // (math.prod(shape) * devices)) * devices

    with _batch_reader(split, reading, len(split), 1, whole) as next_batches:
        for index in range(len(split)):
            example = next_batches(1)
            height, width = example["image"].shape[1:3]
            rows, columns = shape = bucket(height), bucket(width)
            margins = (0, 0), (0, rows - height), (0, columns - width), (0, 0)
            examples = waiting.setdefault(shape, [])
            examples.append(
                {
                    "image": np.pad(example["image"], margins),
                    "size": np.array([[height, width]], np.int32),
                    "index": np.array([index], np.int32),
                    "label": example["label"],
                    "mask": example["mask"],
                }
            )
            if len(examples) == capacity(shape):
                yield make_batch(shape, waiting.pop(shape), len(examples))
    for shape, examples in waiting.items():
        share = -(-len(examples) // devices)
        count = min(capacity(shape), 2 ** (share - 1).bit_length() * devices)
        yield make_batch(shape, examples, count)
