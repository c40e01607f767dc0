"""Data sets by name: the digits, a folder of images, or a set that TFDS prepared.

`dataset` is the section of that name of a config, here and in every function below. A split is held
in memory if its images have one size and are small enough; otherwise images are read when needed.
"""

import math
import pathlib

from errors import UserError
from input_pipeline import digits, folder
from input_pipeline.split import ArraySplit, Info, Split
from input_pipeline.tfds_sets import PreparedSet, RecordSplit

DIGITS, FOLDER = "digits", folder.NAME
_LARGEST_IN_MEMORY = 2**32  # bytes of a split's images

# Image shape (zeros: images differ in size) and class names of sets that --mode=summary can
# describe before they are prepared.
_CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck"
KNOWN = {
    "mnist": ((28, 28, 1), tuple("0123456789")),
    "cifar10": ((32, 32, 3), tuple(_CIFAR10.split())),
    "imagenet2012": ((0, 0, 3), tuple(map(str, range(1000)))),
}


def _prepared(dataset) -> PreparedSet:
    return PreparedSet.find(dataset.name, dataset.data_dir)


def _folder(dataset) -> folder.ImageFolder:
    return folder.ImageFolder(dataset.data_dir, dataset.train_split, dataset.test_fraction)


def directory(dataset) -> pathlib.Path | None:
    """The folder that holds the set's files; None for the digits, which are embedded.

    Raises UserError, within milliseconds, if the configured data set does not exist.
    """
    if dataset.name == DIGITS:
        return None
    if dataset.name == FOLDER:
        _folder(dataset).dataset_info()
        return pathlib.Path(dataset.data_dir).expanduser()
    return _prepared(dataset).directory


def check(dataset) -> None:
    """Raises UserError, within milliseconds, if the configured data set does not exist."""
    directory(dataset)


def dataset_info(dataset) -> Info:
    """The data set's image shape and class names, without reading an example.

    Raises UserError if the set does not exist (unless it is KNOWN) or cannot be read.
    """
    if dataset.name == DIGITS:
        return Info(DIGITS, digits.IMAGE_SHAPE, digits.CLASS_NAMES)
    if dataset.name == FOLDER:
        return _folder(dataset).dataset_info()
    try:
        prepared = _prepared(dataset)
    except UserError:
        if dataset.name not in KNOWN:
            raise
        return Info(dataset.name, *KNOWN[dataset.name])
    return prepared.dataset_info()


def split_name(dataset, split: str) -> str:
    """The set's own name of a split.

    "test" is "validation" if the set has no labelled test split, as ImageNet.
    """
    if split != "test" or dataset.name in (DIGITS, FOLDER):
        return split
    names = _prepared(dataset).labelled_splits()
    return "validation" if "test" not in names and "validation" in names else split


def load(dataset, split: str, info: Info | None = None) -> Split:
    """One split. split: a name (see `split_name`); for TFDS sets also "train[:45000]" etc.

    info: the set's `dataset_info`, if it is known already.
    Raises UserError for a missing set, an unknown or empty split, and labels out of range.
    """
    if dataset.name == FOLDER:
        return _folder(dataset).load(split)
    info = info or dataset_info(dataset)
    if dataset.name == DIGITS:
        images, labels = digits.load(split)
    else:
        split, prepared = split_name(dataset, split), _prepared(dataset)
        count = prepared.count(split)
        if count == 0:
            raise UserError(f"split {split!r} of {dataset.name} is empty: choose another split")
        if 0 in info.image_shape or count * math.prod(info.image_shape) > _LARGEST_IN_MEMORY:
            return RecordSplit(info, prepared.directory, split, count)
        images, labels = prepared.arrays(split, dataset.cache_dir)
    if labels.min() < 0 or labels.max() >= info.num_classes:
        raise UserError(
            f"{dataset.name}: labels run from {labels.min()} to {labels.max()}, but it has"
            f" {info.num_classes} class names: prepare the data set again"
        )
    return ArraySplit(info, images, labels)
