"""Where examples come from, by name: the digits, a folder of images, a set that TFDS prepared.

Sets of one small image size are arrays in memory; the others are read as examples are asked for.
`check` costs milliseconds and imports nothing heavy, so that a missing data set is reported at
once; `load` opens a split, or decodes it (or reads the cache of that).
"""

import math
import os
import pathlib

from errors import UserError
from input_pipeline import digits, folder
from input_pipeline.split import ArraySplit, Info, Split

DIGITS, FOLDER = "digits", folder.NAME
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
        folder.dataset_info(dataset)
        return pathlib.Path(dataset.data_dir).expanduser()
    return None if dataset.name == DIGITS else tfds_directory(dataset)


def check(dataset) -> None:
    """Raises UserError, within milliseconds, if the configured data set is not there."""
    directory(dataset)


def dataset_info(dataset) -> Info:
    """The data set's image shape and class names, without reading an example."""
    if dataset.name == DIGITS:
        return Info(DIGITS, digits.IMAGE_SHAPE, digits.CLASS_NAMES)
    if dataset.name == FOLDER:
        return folder.dataset_info(dataset)
    try:
        directory = tfds_directory(dataset)
    except UserError:
        if dataset.name not in KNOWN:
            raise
        return Info(dataset.name, *KNOWN[dataset.name])
    from input_pipeline import tfds_arrays

    return tfds_arrays.dataset_info(dataset.name, directory)


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


def load(dataset, split: str) -> Split:
    """One split ("train[:45000]" and the like for TFDS sets), in memory if it is small enough.

    split: see also `split_name`. Raises UserError for a missing set, an unknown split, or an
    empty one.
    """
    info = dataset_info(dataset)
    if dataset.name == FOLDER:
        return folder.load(dataset, split)
    if dataset.name == DIGITS:
        images, labels = digits.load(split)
    else:
        from input_pipeline import records, tfds_arrays

        split = split_name(dataset, split)
        directory = tfds_directory(dataset)
        count = tfds_arrays.count(dataset.name, directory, split)
        if count == 0:
            raise UserError(f"split {split!r} of {dataset.name} is empty: choose another split")
        if 0 in info.image_shape or count * math.prod(info.image_shape) > _MOST_BYTES:
            return records.RecordSplit(info, directory, split, count)
        images, labels = tfds_arrays.load(dataset.name, directory, split, dataset.cache_dir)
    if labels.min() < 0 or labels.max() >= info.num_classes:
        raise UserError(
            f"{dataset.name}: labels run from {labels.min()} to {labels.max()}, but it names"
            f" {info.num_classes} classes: prepare the data set again"
        )
    return ArraySplit(info, images, labels)
