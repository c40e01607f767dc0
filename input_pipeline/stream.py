"""Batches of images that are decoded as they are needed: Grain, as a function of (seed, step).

What stands at a place of a batch follows from (seed, step, place) alone: which example
(`batches.batch_indices`), and what its view cuts out (a generator keyed by the position in the
endless sequence of examples). So a run goes on at any step at no cost, and threads, processes,
devices and hosts change nothing.
"""

import contextlib
import dataclasses
import functools
import itertools
import math
import os
import sys
from collections.abc import Callable, Iterator

import numpy as np

from errors import TryAgain, UserError, one_line
from input_pipeline import batches
from input_pipeline.crops import bucket
from input_pipeline.decode import BadImage
from input_pipeline.split import ArraySplit, Split
from input_pipeline.views import View

_MOST_IN_A_ROW = 100  # unreadable images, before a set counts as broken
_LARGEST_PART = 8  # examples that one call of a thread reads


@dataclasses.dataclass(frozen=True)
class Reading:
    """How images are decoded and cut.

    on_bad_image: "error", or "skip" to leave an unreadable image out. workers: a function that
    lets worker processes make the elements of a Grain `IterDataset`, such as
    `train_lib.distributed.workers` gives; None: threads of this process decode.
    """

    view: View
    on_bad_image: str = "error"
    workers: Callable | None = None

    @classmethod
    def from_sections(cls, dataset, view, workers: Callable | None = None) -> "Reading":
        """From the sections `dataset` and `view` of a config."""
        return cls(View.from_section(view), dataset.on_bad_image, workers)

    def in_memory(self, split: Split) -> bool:
        """Whether batches are gathered from arrays: no image is decoded or cut."""
        return isinstance(split, ArraySplit) and not self.view.size


@dataclasses.dataclass
class _Parts:
    """A Grain source: examples one after the other, `size` of them or fewer at once.

    For what Grain does costs as much for one example as for many. Each batch is several parts.
    In training (order given) place p of this process is place p % share of its share of batch
    first + p // share; in evaluation it is example p.
    """

    split: Split
    reading: Reading
    reader: object  # a View, Crops or Whole: has cut(image, rng) and blank(image_shape)
    count: int  # of examples
    share: int  # of a batch, for this process
    size: int
    first: int = 0
    order: batches.Order | None = None

    @property
    def in_batch(self) -> int:
        return -(-self.share // self.size)

    def __len__(self) -> int:
        batches, rest = divmod(self.count, self.share)
        return batches * self.in_batch + -(-rest // self.size)

    def __getitem__(self, part: int) -> dict:
        batch, number = divmod(part, self.in_batch)
        start = batch * self.share + number * self.size
        end = min(start + self.size, (batch + 1) * self.share, self.count)
        examples = [self._at(place) for place in range(start, end)]
        pixels, labels, offsets, skipped, mask = zip(*examples, strict=True)
        return {
            "image": np.stack(pixels),
            "label": np.array(labels, np.int32),
            "offset": np.array(offsets, np.int32),
            "skipped": np.array(skipped, np.int32),
            "mask": np.array(mask, np.float32),
        }

    def _at(self, place: int) -> tuple:
        order = self.order
        if order is None:
            return self._example(place, None)
        step, within = divmod(place, self.share)
        share = (self.first + step) * order.processes + order.process
        position = share * self.share + within
        # The counter keeps clear of `batch_indices`, which has the same kind of key.
        key, counter = np.array([order.seed, position], np.uint64), [0, 0, 0, 1]
        rng = np.random.Generator(np.random.Philox(key=key, counter=counter))
        return self._example(batches.example_index(order.seed, position, len(self.split)), rng)

    def _example(self, index: int, rng: np.random.Generator | None) -> tuple:
        """Pixels, label, offset, images skipped for it, mask. Where the example is unreadable and
        `skip` is asked for: in training the one behind it, in evaluation a black image that
        counts for nothing."""
        info = self.split.info
        for skipped in range(_MOST_IN_A_ROW):
            try:
                image, label, name = self.split.read((index + skipped) % len(self.split))
            except OSError as error:  # never skipped: perhaps a whole disk is gone
                raise UserError(
                    f"cannot read an example of {info.name} ({error}): check the folder, then run"
                    " the same command again"
                ) from error
            self._check_label(label, name)
            try:
                pixels, offset = self.reader.cut(image, rng)
                return pixels, label, offset, skipped, 1
            except BadImage as error:
                what = f"{name} ({one_line(error)})"
                if self.reading.on_bad_image == "error":
                    raise UserError(
                        f"cannot read {what}: replace or delete it, or leave out what cannot be"
                        " read by --config.dataset.on_bad_image=skip"
                    ) from error
                _say_once(f"skipped {what}")
                if rng is None:
                    blank = self.reader.blank(info.image_shape)
                    return blank, label, np.zeros((*blank.shape[:-3], 2)), 1, 0
        raise UserError(f"{_MOST_IN_A_ROW} images in a row of {info.name} cannot be read")

    def _check_label(self, label: int, name: str) -> None:
        info = self.split.info
        if not 0 <= label < info.num_classes:
            raise UserError(
                f"{name}: its label is {label}, but {info.name} names {info.num_classes} classes:"
                " prepare the data set again"
            )


@functools.lru_cache(maxsize=10_000)
def _say_once(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def cores() -> int:
    """How many processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def _opened(split: Split, reading: Reading, count: int, share: int, reader=None, **options):
    """join(n): the next n batches, of `share` examples each, as arrays [examples, ...].

    Fewer where fewer are left, none: None. reader, options: see `_Parts`. Some two batches are
    decoded ahead, or two for each process.
    """
    import grain

    # Each process makes whole batches, every workers-th one.
    threads = 1 if reading.workers else min(16, cores())
    size = share if reading.workers else max(1, min(_LARGEST_PART, share // threads))
    parts = _Parts(split, reading, reader or reading.view, count, share, size, **options)
    ahead = 1 if reading.workers else threads + 2 * parts.in_batch
    dataset = grain.MapDataset.source(parts).to_iter_dataset(grain.ReadOptions(threads, ahead))
    if reading.workers:
        dataset = reading.workers(dataset)
    iterator = iter(dataset)

    def join(count: int) -> dict | None:
        try:
            found = list(itertools.islice(iterator, count * parts.in_batch))
        except RuntimeError as error:
            if "terminated unexpectedly" not in str(error):  # Grain's words
                raise
            raise TryAgain(
                "a process that decodes images ended (out of memory?): run the same command again,"
                " perhaps with fewer config.dataset.workers"
            ) from error
        if not found:
            return None
        # Always copied, once: what comes from a process is in memory shared with it.
        return {name: np.concatenate([part[name] for part in found]) for name in found[0]}

    try:
        yield join
    finally:
        iterator.close()


class TrainBatches(Iterator[dict]):
    """The batches of a range of steps, dispatch(step) steps at a time.

    A batch has image uint8 [devices, count, share, height, width, channels], label int32
    [devices, count, share] and, unless images come from memory as they are, offset int32
    [devices, count, share, 2] (of the image in the view's square). count: steps of the dispatch;
    share = batch_size / devices / processes.

    skipped: how many unreadable images the batches so far have replaced by the next example.
    Call `close` to end the workers. Iteration raises UserError for an unreadable image (unless it
    is to be skipped) and for a label out of range.
    """

    def __init__(
        self,
        split: Split,
        reading: Reading,
        order: batches.Order,
        steps: range,
        dispatch: Callable[[int], int],
    ):
        self.skipped = 0
        self._steps, self._dispatch = steps, dispatch
        if reading.in_memory(split):
            self._batches = self._gathered(split, order)
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

    def _gathered(self, split: ArraySplit, order: batches.Order) -> Iterator[dict]:
        for step, count in self._dispatches():
            yield batches.train_batches(split, order, step, count)

    def _decoded(self, split: Split, reading: Reading, order: batches.Order) -> Iterator[dict]:
        share = order.batch_size // order.processes
        count = len(self._steps) * share
        with _opened(split, reading, count, share, first=self._steps.start, order=order) as join:
            for _, steps in self._dispatches():
                batch = join(steps)
                self.skipped += int(batch.pop("skipped").sum())
                del batch["mask"]
                yield {
                    name: v.reshape(steps, order.devices, -1, *v.shape[1:]).swapaxes(0, 1)
                    for name, v in batch.items()
                }


def eval_batches(
    split: Split, reading: Reading, batch_size: int, devices: int, reader=None
) -> Iterator[dict]:
    """Every example once, in order: image, label and mask [devices, batch_size / devices, ...].

    The last batch is padded; `mask` (float32) is 0 on padding and on unreadable images that are
    skipped. reader: what cuts an image if not the test view, e.g. `crops.Crops`, whose offsets
    int32 [..., crops, 2] are then in the batch. Raises as `TrainBatches`.
    """
    if reader is None and reading.in_memory(split):
        yield from batches.eval_batches(split, batch_size, devices)
        return
    with _opened(split, reading, len(split), batch_size, reader) as join:
        while batch := join(1):
            missing = batch_size - len(batch["label"])
            if missing:
                batch = {
                    name: np.pad(values, [(0, missing)] + [(0, 0)] * (values.ndim - 1))
                    for name, values in batch.items()
                }
            del batch["skipped"]
            if reader is None:
                del batch["offset"]  # the test view is in the middle
            yield {name: v.reshape(devices, -1, *v.shape[1:]) for name, v in batch.items()}


def whole_batches(
    split: Split, reading: Reading, whole, pixels: int, devices: int
) -> Iterator[dict]:
    """Every example once: whole images, those of about one size together.

    whole: a `crops.Whole`. pixels: how many a batch may have, if that is enough for one image a
    device; the last batch of a shape has no more than it needs, to the next power of two.
    Yields image uint8 [devices, n, height, width, channels], each image at its top left and the
    rest filled up with zeros; size int32 [devices, n, 2], of the image in it; label and mask as
    in `eval_batches`; index int32 [devices, n], of the example, -1 for none. Few
    different shapes come (see `crops.bucket`). Raises as `TrainBatches`.
    """
    waiting: dict = {}  # by shape

    def together(shape: tuple[int, int], examples: list[dict], count: int) -> dict:
        channels = examples[0]["image"].shape[-1]
        batch = {
            "image": np.zeros((count, *shape, channels), np.uint8),
            "size": np.full((count, 2), shape, np.int32),
            "index": np.full(count, -1, np.int32),
            "label": np.zeros(count, np.int32),
            "mask": np.zeros(count, np.float32),
        }
        for i, example in enumerate(examples):
            height, width = example["image"].shape[1:3]
            batch["image"][i, :height, :width] = example["image"][0]
            batch["size"][i] = height, width
            for name in ("index", "label", "mask"):
                batch[name][i] = example[name][0]
        return {name: v.reshape(devices, -1, *v.shape[1:]) for name, v in batch.items()}

    def capacity(shape: tuple[int, int]) -> int:
        return max(1, pixels // (math.prod(shape) * devices)) * devices

    with _opened(split, reading, len(split), 1, whole) as join:
        index = 0
        while example := join(1):
            example["index"] = [index]
            index += 1
            shape = tuple(map(bucket, example["image"].shape[1:3]))
            examples = waiting.setdefault(shape, [])
            examples.append(example)
            if len(examples) == capacity(shape):
                yield together(shape, waiting.pop(shape), len(examples))
    for shape, examples in waiting.items():
        share = -(-len(examples) // devices)
        count = min(capacity(shape), 2 ** (share - 1).bit_length() * devices)
        yield together(shape, examples, count)
