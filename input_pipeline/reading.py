"""How examples of a split are read: decoded, cut, and skipped if they are unreadable."""

import dataclasses
import functools
import sys
from collections.abc import Callable

import numpy as np

from errors import UserError, one_line, reported
from input_pipeline import batches
from input_pipeline.crops import Crops, Whole
from input_pipeline.decode import BadImage
from input_pipeline.split import ArraySplit, Split
from input_pipeline.views import View

_MOST_IN_A_ROW = 100  # unreadable images, before a set counts as unreadable


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

    def in_memory(self, split: Split) -> bool:
        """Whether batches are gathered from arrays: no image is decoded or cut."""
        return isinstance(split, ArraySplit) and not self.view.size


@dataclasses.dataclass
class Parts:
    """A Grain source. Each element is a part of a batch: up to `size` consecutive examples.

    Grain's cost per element does not depend on the element's size. In training, `order` is given,
    and every batch has `share` places for this process: place p belongs to batch
    first + p // share. In evaluation, place p is example p.
    """

    split: Split
    reading: Reading
    cutter: View | Crops | Whole
    count: int  # of examples
    share: int  # of a batch, for this process
    size: int
    first: int = 0
    order: batches.Order | None = None

    @property
    def parts_per_batch(self) -> int:
        return -(-self.share // self.size)

    def __len__(self) -> int:
        whole, rest = divmod(self.count, self.share)
        return whole * self.parts_per_batch + -(-rest // self.size)

    def __getitem__(self, part: int) -> dict:
        batch, number = divmod(part, self.parts_per_batch)
        start = batch * self.share + number * self.size
        end = min(start + self.size, (batch + 1) * self.share, self.count)
        examples = [self._example_at(place) for place in range(start, end)]
        return {name: np.stack([example[name] for example in examples]) for name in examples[0]}

    def _example_at(self, place: int) -> dict:
        order = self.order
        if order is None:
            return self._example(place, None)
        step, within = divmod(place, self.share)
        share = (self.first + step) * order.processes + order.process
        position = share * self.share + within
        # The counter makes the draws independent of those of `batches.Order`, with the same key.
        key, counter = np.array([order.seed, position], np.uint64), [0, 0, 0, 1]
        rng = np.random.Generator(np.random.Philox(key=key, counter=counter))
        (index,) = order.examples(position, 1, len(self.split))
        return self._example(int(index), rng)

    def _example(self, index: int, rng: np.random.Generator | None) -> dict:
        """One example.

        An unreadable example that may be skipped is replaced: in training by the next example, in
        evaluation by a black image with mask 0.
        """
        info, mask = self.split.info, 1
        for skipped in range(_MOST_IN_A_ROW):
            image, label, name = self._read((index + skipped) % len(self.split))
            try:
                pixels, offset = self.cutter.cut(image, rng)
            except BadImage as error:
                if self.reading.on_bad_image == "error":
                    raise UserError(
                        f"cannot read {name} ({one_line(error)}): replace or delete it, or leave"
                        " out unreadable images with --config.dataset.on_bad_image=skip"
                    ) from error
                _print_once(f"skipped {name} ({one_line(error)})")
                if rng is not None:
                    continue
                height, width, channels = info.image_shape
                black = np.zeros((height or 1, width or 1, channels), np.uint8)
                (pixels, offset), mask = self.cutter.cut(black), 0
            return {
                "image": pixels,
                "label": np.int32(label),
                "offset": np.asarray(offset, np.int32),
                "mask": np.float32(mask),
                "skipped": np.int32(skipped),
            }
        raise UserError(
            f"{_MOST_IN_A_ROW} images in a row of {info.name} cannot be read: check the data set"
        )

    def _read(self, index: int) -> tuple[bytes | np.ndarray, int, str]:
        info = self.split.info
        advice = "check the folder, then run the same command again"
        # Never skipped: the whole disk may be missing.
        with reported(f"cannot read an example of {info.name}", advice, OSError):
            image, label, name = self.split.read(index)
        if not 0 <= label < info.num_classes:
            raise UserError(
                f"{name}: its label is {label}, but {info.name} has {info.num_classes} class"
                " names: prepare the data set again"
            )
        return image, label, name


@functools.lru_cache(maxsize=10_000)
def _print_once(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
