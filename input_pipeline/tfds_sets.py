"""Data sets that TFDS prepared, in the `array_record` format. Reading them needs no TensorFlow."""

import dataclasses
import functools
import os
import pathlib
import sys

import numpy as np

from errors import UserError, one_line, printable
from input_pipeline import cache, copy_info
from input_pipeline.split import Info

UNLABELLED_TEST = ("imagenet2012", "places365_small")  # every label of their test split is -1


def root(data_dir: str) -> pathlib.Path:
    """The folder of all TFDS sets: `data_dir`, or TFDS's default if that is empty."""
    folder = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return pathlib.Path(folder).expanduser()


@dataclasses.dataclass(frozen=True)
class PreparedSet:
    """One version of a prepared set, in its folder `directory`.

    Every use but `find` raises UserError if the set cannot be read.
    """

    name: str
    directory: pathlib.Path

    @classmethod
    def find(cls, name: str, data_dir: str) -> "PreparedSet":
        """The newest prepared version. Takes milliseconds.

        name: may include a TFDS config ("imagenette/160px"); otherwise the set may have only one.
        Raises UserError if there is no such set.
        """
        folder = root(data_dir)
        set_name, _, config = name.partition("/")

        def version(path: pathlib.Path) -> tuple[int, ...]:
            return tuple(int(part) for part in path.parent.name.split(".") if part.isdigit())

        files = sorted((folder / set_name / config).glob("*/dataset_info.json"), key=version)
        if not files and not config:
            files = sorted((folder / set_name).glob("*/*/dataset_info.json"), key=version)
            configs = sorted({path.parents[1].name for path in files})
            if len(configs) > 1:
                raise UserError(
                    f"{folder / set_name} has several configs: choose one with"
                    " --config.dataset.name=" + " or ".join(f"{set_name}/{c}" for c in configs)
                )
        if not files:
            raise UserError(
                f"no data set {name!r} in {folder}: run `python -m input_pipeline.prepare"
                f" {name} --data_dir={folder}` on a machine with a network connection, or give"
                " its folder with --config.dataset.data_dir=DIR"
            )
        return cls(name, files[-1].parent)

    @functools.cached_property
    def builder(self):
        """TFDS's builder."""
        copy_info.read(self.directory)  # raises for a copy by another version of Canon
        import tensorflow_datasets as tfds

        try:
            builder = tfds.builder_from_directory(self.directory)
        except Exception as error:  # TFDS raises many types for bad files
            raise UserError(
                f"cannot read the data set in {self.directory} ({one_line(error)}): prepare it"
                " again"
            ) from error
        features, file_format = builder.info.features, builder.info.file_format.value
        if not {"image", "label"} <= set(features):
            raise UserError(
                f"{self.name} is not an image classification set: its features are"
                f" {', '.join(sorted(features))}"
            )
        if file_format != "array_record":
            raise UserError(
                f"{self.directory} is in the {file_format} format, which cannot be read without"
                f" TensorFlow: run `python -m input_pipeline.prepare {self.name} --data_dir=DIR`"
                " with another DIR"
            )
        return builder

    def dataset_info(self) -> Info:
        """Image shape, class names, and facts about the copy if the set is one."""
        features = self.builder.info.features
        shape = tuple(size or 0 for size in features["image"].shape)
        names = tuple(map(printable, features["label"].names))
        return Info(self.name, shape, names, copy_info.read(self.directory))

    def labelled_splits(self) -> list[str]:
        """The names of the splits that have labels."""
        unlabelled = ("test",) if self.name in UNLABELLED_TEST else ()
        return [name for name in self.builder.info.splits if name not in unlabelled]

    def count(self, split: str) -> int:
        """The number of examples of a split expression. Raises UserError for an unknown split."""
        splits = self.builder.info.splits
        try:
            return splits[split].num_examples
        except (ValueError, KeyError, AssertionError) as error:
            raise UserError(
                f"{self.name} has no split {split!r} ({one_line(error)}): it has"
                f" {', '.join(splits)}"
            ) from error

    def arrays(self, split: str, cache_dir: str) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8 [n, height, width, channels] and labels int32 [n] of a split.

        They are decoded once, then read from a cache on disk. A damaged cache file is made again.
        An error in writing it only costs time, so it is a warning.
        """
        path = self.cache_file(split, cache_dir)
        try:
            stored = cache.read_npz(path)
            return stored["images"], stored["labels"]
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError) as error:
            print(f"the cache {path} is damaged ({one_line(error)}): made again", file=sys.stderr)
        images, labels = self._decode(split)
        try:
            cache.write_npz(path, images=images, labels=labels)
        except OSError as error:
            print(f"cannot write the cache {path} ({error}): continuing without", file=sys.stderr)
        return images, labels

    def cache_file(self, split: str, cache_dir: str) -> pathlib.Path:
        """The cache file of a split. Its name changes with any change of the set's files."""
        words = (self.name, self.directory.name, split)
        key = (str(self.directory.resolve()), split)
        return cache.root(cache_dir) / "arrays" / cache.file_name(self.directory, words, key)

    def _decode(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        from tqdm import tqdm

        shape = self.builder.info.features["image"].shape
        try:
            source = self.builder.as_data_source(split=split)
            images = np.empty((len(source), *shape), np.uint8)
            labels = np.empty(len(source), np.int32)
            title = f"decoding {self.name} {split}, once"
            quiet = not sys.stderr.isatty()
            for i in tqdm(range(len(source)), desc=title, disable=quiet, leave=False):
                example = source[i]
                images[i], labels[i] = example["image"], example["label"]
        except Exception as error:  # damaged or missing record files
            raise UserError(
                f"cannot read {self.name} {split} in {self.directory} ({one_line(error)}): prepare"
                " it again"
            ) from error
        return images, labels
