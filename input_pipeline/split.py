"""The interface that every data source implements: a split, a sequence of labelled images."""

import dataclasses
import itertools
import re
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from errors import UserError
from input_pipeline.copy_info import CopyInfo


@dataclasses.dataclass(frozen=True)
class Info:
    """Facts about a data set.

    image_shape: (height, width, channels) of its uint8 images; height and width are 0 if images
    differ in size. copy: if the set is a copy with smaller images. train_examples: the size of a
    run's training split if it is known without the set, else 0.
    """

    name: str
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    copy: CopyInfo | None = None
    train_examples: int = 0

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


def by_number(names: Sequence[str]) -> tuple[str, ...]:
    """Names that differ only in their numbers, in the order of the numbers; others as they are.

    Such names are 0, 1, ... or class_0, class_1, ...
    """
    parts = {name: re.split(r"(\d+)", name) for name in names}  # text, number, text, ...
    if len({tuple(texts[::2]) for texts in parts.values()}) != 1:
        return tuple(names)
    return tuple(sorted(names, key=lambda name: [int(number) for number in parts[name][1::2]]))


def check_classes(trained: str, names: Sequence[str], info: Info) -> None:
    """Raises UserError unless a network was trained on the classes of a data set, in their order.

    trained: the name of the network's run or file. names: the classes that it was trained on.
    """
    pairs = itertools.zip_longest(names, info.class_names)
    first = next((i for i, (name, other) in enumerate(pairs) if name != other), None)
    if first is None:
        return

    def shown(names: Sequence[str]) -> str:
        """Up to six of the names, with the first one that differs."""
        start = first if first >= 6 else 0
        before, after = "..., " if start else "", ", ..." if len(names) > start + 6 else ""
        return f"{len(names)}: {before}{', '.join(names[start : start + 6])}{after}"

    raise UserError(
        f"{trained} was trained on other classes ({shown(names)}) than those of {info.name}"
        f" ({shown(info.class_names)}): give the data set that it was trained on"
    )


class Split(Protocol):
    """A sequence of labelled images, which several threads or processes may read at once."""

    info: Info

    def __len__(self) -> int: ...

    def id(self, i: int) -> str:
        """The name of example i in files of predictions: its number, or its path."""
        return str(i)

    def read(self, i: int) -> tuple[bytes | np.ndarray, int, str]:
        """Example i: the image, its label, and a name for error messages.

        The image is encoded (JPEG, PNG, ...), or uint8 [height, width, channels].
        Raises OSError or UserError if it cannot be read.
        """
        ...


@dataclasses.dataclass(frozen=True)
class ArraySplit(Split):
    """A split in memory. images: uint8 [n, height, width, channels]. labels: int32 [n]."""

    info: Info
    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, i: int) -> tuple[np.ndarray, int, str]:
        return self.images[i], int(self.labels[i]), f"example {i} of {self.info.name}"


@dataclasses.dataclass(frozen=True)
class SplitPart(Split):
    """Some examples of a split, by their places in it."""

    whole: Split
    places: Sequence[int]

    @property
    def info(self) -> Info:
        return self.whole.info

    def __len__(self) -> int:
        return len(self.places)

    def id(self, i: int) -> str:
        return self.whole.id(self.places[i])

    def read(self, i: int) -> tuple[bytes | np.ndarray, int, str]:
        return self.whole.read(self.places[i])


def part_of(split: Split, number: int, parts: int) -> Split:
    """The `number`-th of `parts` consecutive parts of a split; the last parts may be empty."""
    if parts == 1:
        return split
    size = -(-len(split) // parts)
    return examples_of(split, number * size, (number + 1) * size)


def examples_of(split: Split, start: int, stop: int) -> Split:
    """The examples start ... stop - 1 of a split, without those beyond its end."""
    start, stop = (min(i, len(split)) for i in (start, stop))
    if isinstance(split, ArraySplit):
        return ArraySplit(split.info, split.images[start:stop], split.labels[start:stop])
    return SplitPart(split, range(start, stop))


def random_examples(split: Split, count: int, seed: int) -> Split:
    """`count` examples of a split (all, if it has no more), in a random order.

    The first examples of a folder are all of one class.
    """
    places = np.random.default_rng(seed).permutation(len(split))[:count]
    if isinstance(split, ArraySplit):
        return ArraySplit(split.info, split.images[places], split.labels[places])
    return SplitPart(split, places.tolist())
