"""Data sets by name: an embedded set, a folder of images, or a set that TFDS prepared.

`dataset` is the section of that name of a config, in every function below.
"""

import dataclasses
import pathlib
from collections.abc import Sequence

from command_line import expand
from errors import UserError
from input_pipeline import digits, folder, imagenet
from input_pipeline.split import ArraySplit, Info, Split, check_classes
from input_pipeline.tfds_sets import PreparedSet

FOLDER = folder.NAME
# Sets without files: modules with IMAGE_SHAPE, CLASS_NAMES, and a function load(split) that returns
# the images and labels of `split.ArraySplit`.
EMBEDDED = {"digits": digits}

# Image shape (zeros: images differ in size) and class names of sets that --mode=summary can
# describe before they are prepared.
_CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck"
KNOWN = {
    "mnist": ((28, 28, 1), tuple("0123456789")),
    "cifar10": ((32, 32, 3), tuple(_CIFAR10.split())),
    "imagenet2012": ((0, 0, 3), tuple(imagenet.class_names())),
}


def _prepared(dataset) -> PreparedSet:
    return PreparedSet.find(dataset.name, dataset.data_dir)


def _folder(dataset) -> folder.ImageFolder:
    names = [field.name for field in dataclasses.fields(folder.ImageFolder)]
    return folder.ImageFolder(**{name: dataset[name] for name in names})


def directory(dataset) -> pathlib.Path | None:
    """The folder that holds the set's files; None for an embedded set.

    Raises UserError, within milliseconds, if the configured data set does not exist.
    """
    if dataset.name in EMBEDDED:
        return None
    if dataset.name == FOLDER:
        _folder(dataset).dataset_info()
        return expand(dataset.data_dir)
    return _prepared(dataset).directory


def check(dataset) -> None:
    """Raises UserError, within milliseconds, if the configured data set does not exist."""
    directory(dataset)


def check_outside(dataset, workdir: pathlib.Path) -> None:
    """Raises UserError if pictures in a workdir would be images of the data set."""
    if dataset.name == FOLDER:
        _folder(dataset).check_outside(workdir)


def dataset_info(dataset) -> Info:
    """The data set's image shape and class names, without reading an example.

    Raises UserError if the set does not exist (unless it is KNOWN) or cannot be read.
    """
    if embedded := EMBEDDED.get(dataset.name):
        return Info(dataset.name, embedded.IMAGE_SHAPE, embedded.CLASS_NAMES)
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
    if split != "test" or dataset.name in (*EMBEDDED, FOLDER):
        return split
    names = _prepared(dataset).labelled_splits()
    return "validation" if "test" not in names and "validation" in names else split


def load(dataset, split: str) -> Split:
    """One split. split: a name (see `split_name`); for TFDS sets also "train[:45000]" etc.

    Raises UserError for a missing set, an unknown or empty split, and labels out of range.
    """
    if dataset.name == FOLDER:
        return _folder(dataset).load(split)
    if embedded := EMBEDDED.get(dataset.name):
        return ArraySplit(dataset_info(dataset), *embedded.load(split))
    return _prepared(dataset).load(split_name(dataset, split), dataset.cache_dir)


def with_classes(split: Split, trained: str, names: Sequence[str]) -> Split:
    """The split with the classes of a network, in the network's order.

    trained: the name of the network's run or file. names: its classes. Raises UserError if the
    split has other classes, or has them in an order that cannot be changed.
    """
    if isinstance(split, folder.FolderSplit):  # in the order of its folders' names
        split = split.in_order_of(names)
    check_classes(trained, names, split.info)
    return split
