"""Where examples come from, by name: the digits, a folder of images, a set that TFDS prepared.

Sets of one small image size are arrays in memory; the others are read as examples are asked for.
`check` costs milliseconds and imports nothing heavy, so that a missing data set is reported at
once; `load` opens a split, or decodes it (or reads the cache of that).
"""

import dataclasses
import math
import os
import pathlib

import numpy as np

from errors import UserError

DIGITS, FOLDER = "digits", "folder"
UNLABELLED_TEST = ("imagenet2012", "places365_small")  # TFDS gives all of these the label -1
_MOST_BYTES = 2**32  # of a split's images in memory

# Image shape (zeros: images differ in size) and class names of sets that --mode=summary knows
# without having them.
_CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck"
KNOWN = {
    "mnist": ((28, 28, 1), tuple("0123456789")),
    "cifar10": ((32, 32, 3), tuple(_CIFAR10.split())),
    "imagenet2012": ((0, 0, 3), tuple(map(str, range(1000)))),
}


@dataclasses.dataclass(frozen=True)
class Info:
    """What a data set looks like.

    image_shape: (height, width, channels) of its uint8 images, zeros where they differ.
    copy: the `copies.Plan` of a copy with smaller images. train_examples: of the training split of
    a run, where that is known without the set; else 0.
    """

    name: str
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    copy: object = None
    train_examples: int = 0

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


@dataclasses.dataclass(frozen=True)
class Split:
    """One split in memory. images: uint8 [n, height, width, channels]; labels: int32 [n].

    `folder.Files` and `records.Records`, which are not in memory, have `info`, a length, `id` and
    `read`.
    """

    info: Info
    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def id(self, i: int) -> str:
        """What example i is called in files about predictions."""
        return str(i)

    def read(self, i: int) -> tuple[np.ndarray, int, str]:
        """The image uint8 [h, w, c] (for others perhaps encoded), its label, and its name."""
        return self.images[i], int(self.labels[i]), f"example {i} of {self.info.name}"


@dataclasses.dataclass(frozen=True)
class Part:
    """The examples start ... stop - 1 of a split that is not in memory."""

    whole: object
    start: int
    stop: int

    @property
    def info(self) -> Info:
        return self.whole.info

    def __len__(self) -> int:
        return self.stop - self.start

    def id(self, i: int) -> str:
        return self.whole.id(self.start + i)

    def read(self, i: int):
        return self.whole.read(self.start + i)


def part(split, number: int, parts: int):
    """The `number`-th of `parts` parts of a split, in order; the last ones may be empty."""
    if parts == 1:
        return split
    size = -(-len(split) // parts)
    start, stop = (min(i * size, len(split)) for i in (number, number + 1))
    if isinstance(split, Split):
        return Split(split.info, split.images[start:stop], split.labels[start:stop])
    return Part(split, start, stop)


def tfds_root(dataset) -> pathlib.Path:
    """`dataset.data_dir`, or TFDS's own rule where it is empty."""
    root = dataset.data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return pathlib.Path(root).expanduser()


def tfds_directory(dataset) -> pathlib.Path:
    """The newest prepared version of a TFDS set. Raises UserError where there is none.

    dataset.name may name a config ("imagenette/160px"); else the one that is there is taken.
    """
    root = tfds_root(dataset)
    name, _, config = dataset.name.partition("/")

    def version(path: pathlib.Path) -> tuple[int, ...]:
        return tuple(int(part) for part in path.parent.name.split(".") if part.isdigit())

    found = sorted((root / name).joinpath(config).glob("*/dataset_info.json"), key=version)
    if not found and not config:
        found = sorted((root / name).glob("*/*/dataset_info.json"), key=version)
        configs = sorted({path.parents[1].name for path in found})
        if len(configs) > 1:
            raise UserError(
                f"{root / name} has several configs: choose one by --config.dataset.name="
                + " or ".join(f"{name}/{config}" for config in configs)
            )
    if not found:
        raise UserError(
            f"no data set {dataset.name!r} in {root}: run `python -m input_pipeline.prepare"
            f" {dataset.name} --data_dir={root}` on a connected machine, or say where it is with"
            " --config.dataset.data_dir=DIR"
        )
    return found[-1].parent


def directory(dataset) -> pathlib.Path | None:
    """The folder that holds the set's files; None for the embedded one, which has none.

    Raises UserError, within milliseconds, if the configured data set is not there.
    """
    if dataset.name == FOLDER:
        from input_pipeline import folder

        folder.describe(dataset)
        return pathlib.Path(dataset.data_dir).expanduser()
    return None if dataset.name == DIGITS else tfds_directory(dataset)


def check(dataset) -> None:
    """Raises UserError, within milliseconds, if the configured data set is not there."""
    directory(dataset)


def describe(dataset) -> Info:
    """The data set's image shape and class names, without reading an example."""
    if dataset.name == DIGITS:
        from input_pipeline import digits

        return Info(DIGITS, digits.IMAGE_SHAPE, digits.CLASS_NAMES)
    if dataset.name == FOLDER:
        from input_pipeline import folder

        return folder.describe(dataset)
    try:
        directory = tfds_directory(dataset)
    except UserError:
        if dataset.name not in KNOWN:
            raise
        return Info(dataset.name, *KNOWN[dataset.name])
    from input_pipeline import tfds_arrays

    return tfds_arrays.describe(dataset.name, directory)


def split_name(dataset, split: str) -> str:
    """The set's own name of a split: what "test" is called where there is none with labels.

    "validation" for sets that have that alone, and for ImageNet, whose test has no labels.
    """
    if split != "test" or dataset.name in (DIGITS, FOLDER):
        return split
    from input_pipeline import tfds_arrays

    splits = tfds_arrays.builder(dataset.name, tfds_directory(dataset)).info.splits
    has_test = "test" in splits and dataset.name not in UNLABELLED_TEST
    return split if has_test or "validation" not in splits else "validation"


def load(dataset, split: str):
    """One split ("train[:45000]" and the like for TFDS sets): a Split, Records or Files.

    split: see also `split_name`. Raises UserError for a missing set, an unknown split, or an
    empty one.
    """
    info = describe(dataset)
    if dataset.name == FOLDER:
        from input_pipeline import folder

        return folder.load(dataset, split)
    if dataset.name == DIGITS:
        from input_pipeline import digits

        images, labels = digits.load(split)
    else:
        from input_pipeline import records, tfds_arrays

        split = split_name(dataset, split)
        directory = tfds_directory(dataset)
        count = tfds_arrays.count(dataset.name, directory, split)
        if count == 0:
            raise UserError(f"split {split!r} of {dataset.name} is empty: choose another split")
        if 0 in info.image_shape or count * math.prod(info.image_shape) > _MOST_BYTES:
            return records.Records(info, directory, split, count)
        images, labels = tfds_arrays.load(dataset.name, directory, split, dataset.cache_dir)
    if labels.min() < 0 or labels.max() >= info.num_classes:
        raise UserError(
            f"{dataset.name}: labels run from {labels.min()} to {labels.max()}, but it names"
            f" {info.num_classes} classes: prepare the data set again"
        )
    return Split(info, images, labels)
