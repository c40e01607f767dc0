"""Small TFDS sets as arrays: decoded once, then read from a cache on disk.

Reads the `array_record` format through `tfds.data_source`: no TensorFlow.
"""

import pathlib
import sys

import numpy as np

from errors import UserError, one_line, printable
from input_pipeline import cache, copies
from input_pipeline.split import Info


def builder(name: str, directory: pathlib.Path):
    """TFDS's builder of a prepared set. Raises UserError if it cannot be used."""
    copies.read(directory)  # raises for a copy that another version wrote
    import tensorflow_datasets as tfds

    try:
        found = tfds.builder_from_directory(directory)
    except Exception as error:  # whatever TFDS finds wrong with the folder's files
        raise UserError(
            f"cannot read the data set in {directory} ({one_line(error)}): prepare it again"
        ) from error
    features = found.info.features
    if not {"image", "label"} <= set(features):
        raise UserError(f"{name} is not an image classification set: it has {sorted(features)}")
    if found.info.file_format.value != "array_record":
        raise UserError(
            f"{directory} is in the {found.info.file_format.value} format, which cannot be read"
            f" without TensorFlow: run `python -m input_pipeline.prepare {name}"
            f" --data_dir=DIR` with another DIR"
        )
    return found


def dataset_info(name: str, directory: pathlib.Path) -> Info:
    """Image shape (zeros: they differ) and class names of a prepared set.

    Raises UserError if it cannot be used.
    """
    features = builder(name, directory).info.features
    shape = tuple(size or 0 for size in features["image"].shape)
    names = tuple(map(printable, features["label"].names))
    return Info(name, shape, names, copies.read(directory))


def count(name: str, directory: pathlib.Path, split: str) -> int:
    """The number of examples of a split expression. Raises UserError for an unknown split."""
    found = builder(name, directory)
    try:
        return found.info.splits[split].num_examples
    except (ValueError, KeyError, AssertionError) as error:
        raise UserError(
            f"{name} has no split {split!r} ({one_line(error)}): it has"
            f" {', '.join(found.info.splits)}"
        ) from error


def _decode(name: str, directory: pathlib.Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    from tqdm import tqdm

    found = builder(name, directory)
    shape = found.info.features["image"].shape
    try:
        source = found.as_data_source(split=split)
        images = np.empty((len(source), *shape), np.uint8)
        labels = np.empty(len(source), np.int32)
        bar = tqdm(
            range(len(source)),
            desc=f"decoding {name} {split}, once",
            disable=not sys.stderr.isatty(),
            leave=False,
        )
        for i in bar:
            example = source[i]
            images[i], labels[i] = example["image"], example["label"]
    except Exception as error:  # damaged or missing record files
        raise UserError(
            f"cannot read {name} {split} in {directory} ({one_line(error)}): prepare it again"
        ) from error
    return images, labels


def _cache_file(name: str, directory: pathlib.Path, split: str, cache_dir: str) -> pathlib.Path:
    """The cache file of just these source files: any change of theirs changes its name."""
    words, key = (name, directory.name, split), (str(directory.resolve()), split)
    return cache.root(cache_dir) / "arrays" / cache.file_name(directory, words, key)


def load(
    name: str, directory: pathlib.Path, split: str, cache_dir: str
) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [n, height, width, channels] and labels int32 [n] of a split.

    The cache is a plain (uncompressed) .npz, whose members carry checksums: a damaged file is
    noticed and made again. Failing to write it costs only time, so it is a warning.
    """
    path = _cache_file(name, directory, split, cache_dir)
    try:
        arrays = cache.read_npz(path)
        return arrays["images"], arrays["labels"]
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError) as error:
        print(f"the cache {path} is damaged ({one_line(error)}): made again", file=sys.stderr)
    images, labels = _decode(name, directory, split)
    try:
        cache.write_npz(path, images=images, labels=labels)
    except OSError as error:
        print(f"could not write the cache {path} ({error}): going on without", file=sys.stderr)
    return images, labels
