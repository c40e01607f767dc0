"""Batches of images that are decoded as they are needed: Grain, as a function of (seed, step).

What stands at a place of a batch follows from (seed, step, place) alone: which example
(`batches.batch_indices`), and what its view cuts out (a generator keyed by the position in the
endless sequence of examples). So a run goes on at any step at no cost, and threads, processes,
devices and hosts change nothing.
"""

import contextlib
import dataclasses
import functools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
from absl import flags

from errors import UserError, one_line
from input_pipeline.batches import example_index
from input_pipeline.decode import BadImage
from input_pipeline.views import View, cut

_MOST_IN_A_ROW = 100  # unreadable images, before a set counts as broken


@dataclasses.dataclass(frozen=True)
class Reading:
    """How examples are read. view: what is cut from each. workers: processes; 0: threads here."""

    view: View
    on_bad_image: str = "error"  # or skip
    workers: int = 0

    @classmethod
    def from_config(cls, config) -> "Reading":
        """From the sections `dataset` and `view`. Raises UserError for what makes no view."""
        view = View.from_config(config.view)
        return cls(view, config.dataset.on_bad_image, config.dataset.workers)


@dataclasses.dataclass
class _Places:
    """A Grain source: the example at each place, one after the other.

    In training (seed given) place p of this host is place p % share of its share of batch
    first + p // share; in evaluation it is example first + p.
    """

    split: object
    reading: Reading
    count: int
    first: int = 0
    seed: int | None = None
    batch_size: int = 0
    host: tuple[int, int] = (0, 1)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, place: int) -> dict:
        if self.seed is None:
            return self._example(self.first + place, None)
        share = self.batch_size // self.host[1]
        step, within = divmod(place, share)
        position = (self.first + step) * self.batch_size + self.host[0] * share + within
        # The counter keeps clear of `batch_indices`, which has the same kind of key.
        key, counter = np.array([self.seed, position], np.uint64), [0, 0, 0, 1]
        rng = np.random.Generator(np.random.Philox(key=key, counter=counter))
        return self._example(example_index(self.seed, position, len(self.split)), rng)

    def _example(self, index: int, rng: np.random.Generator | None) -> dict:
        """The example, or where it is unreadable and `skip` is asked for: in training the one
        behind it, in evaluation a black image that counts for nothing."""
        info, view = self.split.info, self.reading.view
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
                pixels, offset = cut(image, view, rng)
                return _as_example(pixels, label, offset, skipped, mask=1)
            except BadImage as error:
                what = f"{name} ({one_line(error)})"
                if self.reading.on_bad_image == "error":
                    raise UserError(
                        f"cannot read {what}: replace or delete it, or leave out what cannot be"
                        " read by --config.dataset.on_bad_image=skip"
                    ) from error
                _say_once(f"skipped {what}")
                if rng is None:
                    height, width, channels = info.image_shape
                    shape = view.size or height, view.size or width, channels
                    return _as_example(np.zeros(shape, np.uint8), label, (0, 0), 1, mask=0)
        raise UserError(f"{_MOST_IN_A_ROW} images in a row of {info.name} cannot be read")

    def _check_label(self, label: int, name: str) -> None:
        info = self.split.info
        if not 0 <= label < info.num_classes:
            raise UserError(
                f"{name}: its label is {label}, but {info.name} names {info.num_classes} classes:"
                " prepare the data set again"
            )


def _as_example(pixels, label, offset, skipped, mask) -> dict:
    return {
        "image": pixels,
        "label": np.int32(label),
        "offset": np.array(offset, np.int32),
        "skipped": np.int32(skipped),
        "mask": np.float32(mask),
    }


@functools.lru_cache(maxsize=10_000)
def _say_once(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _die_with(parent: int) -> None:
    """In a worker: ends it when its parent is gone, however that ended. Grain's own would stay."""

    def watch():
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def cores() -> int:
    """How many processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def _opened(places: _Places, batch_size: int):
    """An iterator over batches: dicts of arrays [batch_size, ...], the last perhaps shorter.

    At most about two batches a thread group or process are decoded ahead.
    """
    import grain

    source = grain.MapDataset.source(places)
    workers = places.reading.workers
    if workers:
        if not flags.FLAGS.is_parsed():  # in a notebook or test; Grain reads flags of its own
            flags.FLAGS.mark_as_parsed()
        # Each process makes whole batches, every workers-th one.
        read_ahead = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
        batches = source.batch(batch_size).to_iter_dataset(read_ahead)
        parent = os.getpid()
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=1)
        batches = batches.mp_prefetch(options, lambda *_: _die_with(parent))
    else:
        threads = min(16, cores())
        read_ahead = grain.ReadOptions(threads, prefetch_buffer_size=threads + 2 * batch_size)
        batches = source.to_iter_dataset(read_ahead).batch(batch_size)
    iterator = iter(batches)
    try:
        yield iterator
    finally:
        iterator.close()


def train_batches(
    split,
    reading: Reading,
    seed: int,
    first: int,
    last: int,
    dispatch: Callable[[int], int],
    batch_size: int,
    devices: int,
    host: tuple[int, int] = (0, 1),
) -> Iterator[dict]:
    """The batches of the steps first ... last - 1, dispatch(step) steps at a time.

    Yields image uint8 [devices, count, share, size, size, channels], label int32, offset int32
    [..., 2] (of the image in the view's square) and skipped int32 (unreadable images left out),
    where share = batch_size / devices / hosts. host: this process's number, and how many there
    are; each reads its own part of every batch. Close the iterator to stop the workers.

    Raises UserError for an unreadable image (unless it is to be skipped) or label out of range.
    """
    local = batch_size // host[1]
    places = _Places(split, reading, (last - first) * local, first, seed, batch_size, host)
    with _opened(places, local) as batches:
        while first < last:
            together = [_split(next(batches), devices) for _ in range(dispatch(first))]
            first += len(together)
            yield {
                name: np.stack([batch[name] for batch in together], axis=1)
                for name in together[0]
                if name != "mask"
            }


def eval_batches(split, reading: Reading, batch_size: int, devices: int) -> Iterator[dict]:
    """Every example once, in order: image, label, mask and skipped [devices, batch / devices, ...].

    The last batch is filled up; `mask` (float32) is 0 on what was added and on unreadable images
    that are skipped. Raises as `train_batches`.
    """
    with _opened(_Places(split, reading, len(split)), batch_size) as batches:
        for batch in batches:
            missing = batch_size - len(batch["label"])
            if missing:
                batch = {
                    name: np.pad(values, [(0, missing)] + [(0, 0)] * (values.ndim - 1))
                    for name, values in batch.items()
                }
            del batch["offset"]
            yield _split(batch, devices)


def _split(batch: dict, devices: int) -> dict:
    return {name: v.reshape(devices, -1, *v.shape[1:]) for name, v in batch.items()}
