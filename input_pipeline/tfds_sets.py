"""Data sets that TFDS prepared, in the `array_record` format. Reading them needs no TensorFlow."""

import contextlib
import dataclasses
import functools
import math
import operator
import os
import pathlib
import re
import shlex
import threading

import numpy as np

from command_line import bar_options, expand
from errors import UserError, one_line, printable, reported
from input_pipeline import cache, copy_info
from input_pipeline.split import ArraySplit, Info, Split

try:
    import resource
except ImportError:  # Windows, which has no such limit
    resource = None

UNLABELLED_TEST = ("imagenet2012", "places365_small")  # every label of their test split is -1
# Other spellings of names, in small letters and digits only.
_SPELLINGS = {"mnist": "mnist", "fashionmnist": "fashion_mnist"}
_SPELLINGS |= {"cifar10": "cifar10", "cifar100": "cifar100"}
_SPELLINGS |= dict.fromkeys(("imagenet", "imagenet1k", "ilsvrc2012"), "imagenet2012")
_LOCK = threading.Lock()
_OPEN_FILES = 65_536
_LARGEST_IN_MEMORY = 2**32  # bytes of a split's images


def root(data_dir: str) -> pathlib.Path:
    """The folder of all TFDS sets: `data_dir`, or TFDS's default if that is empty."""
    folder = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return expand(folder)


def _check_name(name: str) -> None:
    """Raises UserError for a name of a set that stands for something else."""
    if name.startswith(("/", "~", ".")) or ("/" in name and expand(name).is_dir()):
        raise UserError(
            f"{name!r} is a folder, not the name of a data set: give a folder of images with"
            f" --config.dataset.name=folder --config.dataset.data_dir={name}"
        )
    if version := re.search(r"[:/](\d+\.\d+\.\d+)$", name):
        raise UserError(
            f"{name!r} contains a version: the newest is used, so leave {version[0]} out"
        )
    meant = _SPELLINGS.get(re.sub(r"[^a-z0-9]", "", name.lower()), name)
    if meant != name:
        raise UserError(f"no data set {name!r}: did you mean {meant}?")


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
            _check_name(name)
            raise UserError(
                f"no data set {name!r} in {folder}: run `python -m input_pipeline.prepare"
                f" {name} --data_dir={shlex.quote(str(folder))}` on a machine with a network"
                " connection, or give another folder with --config.dataset.data_dir=DIR"
            )
        return cls(name, files[-1].parent)

    @functools.cached_property
    def builder(self):
        """TFDS's builder."""
        copy_info.read(self.directory)  # raises for a copy by another version of Canon
        import tensorflow_datasets as tfds

        with reported(f"cannot read the data set in {self.directory}", "prepare it again"):
            builder = tfds.builder_from_directory(self.directory)
        features, file_format = builder.info.features, builder.info.file_format.value
        if not {"image", "label"} <= set(features):
            raise UserError(
                f"{self.name} is not an image classification set: its features are"
                f" {', '.join(sorted(features))}"
            )
        image, label = features["image"], features["label"]
        is_picture = np.dtype(image.np_dtype) == np.uint8 and image.shape[-1:] in ((1,), (3,))
        if not is_picture or not getattr(label, "names", None):
            raise UserError(
                f"{self.name} has {np.dtype(image.np_dtype)} images {image.shape} and labels of"
                f" type {type(label).__name__}: Canon needs uint8, grey or RGB, and a ClassLabel"
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
        if 0 in shape:  # such images are decoded when needed, grey ones to RGB
            shape = (*shape[:2], 3)
        names = tuple(map(printable, features["label"].names))
        return Info(self.name, shape, names, copy_info.read(self.directory))

    def labelled_splits(self) -> list[str]:
        """The names of the splits that have labels."""
        names = list(self.builder.info.splits)
        return [n for n in names if n != "test"] if self.name in UNLABELLED_TEST else names

    def load(self, split: str, cache_dir: str = "") -> Split:
        """A split, in memory if its images have one size and need at most 4 GB.

        Arrays are decoded once, then read from a cache on disk. Raises UserError for an unknown or
        empty split and for labels out of range.
        """
        info, splits = self.dataset_info(), self.builder.info.splits
        problem, advice = f"{self.name} has no split {split!r}", f"it has {', '.join(splits)}"
        with reported(problem, advice, ValueError, KeyError, AssertionError):
            count = splits[split].num_examples
        if count == 0:
            raise UserError(f"split {split!r} of {self.name} is empty: choose another split")
        if self.name in UNLABELLED_TEST and re.match(r"test\b", split):
            raise UserError(f"the test split of {self.name} has no labels: use validation")
        in_memory = count * math.prod(info.image_shape) <= _LARGEST_IN_MEMORY
        if not in_memory and info.image_shape[-1] == 1:
            raise UserError(
                f"{self.name} {split} has {count:,} grey images, which need more than 4 GB: choose"
                " a part, such as train[:1000000]"
            )
        if 0 in info.image_shape or not in_memory:
            return RecordSplit(info, self.directory, split, count)
        path, parse = self.cache_file(split, cache_dir), operator.itemgetter("images", "labels")
        images, labels = cache.load_or_make([path], parse, lambda: self._decode(split))
        if labels.min() < 0 or labels.max() >= info.num_classes:
            raise UserError(
                f"{self.name}: labels run from {labels.min()} to {labels.max()}, but it has"
                f" {info.num_classes} class names: prepare the data set again"
            )
        return ArraySplit(info, images, labels)

    def cache_file(self, split: str, cache_dir: str) -> pathlib.Path:
        """The cache file of a split. Its name changes with any change of the set's files."""
        words = (self.name, self.directory.name, split)
        key = (str(self.directory.resolve()), split)
        return cache.root(cache_dir) / "arrays" / cache.file_name(self.directory, words, key)

    def _decode(self, split: str) -> dict[str, np.ndarray]:
        from tqdm import tqdm

        shape = self.builder.info.features["image"].shape
        with reported(f"cannot read {self.name} {split} in {self.directory}", "prepare it again"):
            source = self.builder.as_data_source(split=split)
            images = np.empty((len(source), *shape), np.uint8)
            labels = np.empty(len(source), np.int32)
            title = f"decoding {self.name} {split}, once"
            for i in tqdm(range(len(source)), title, leave=False, **bar_options()):
                example = source[i]
                images[i], labels[i] = example["image"], example["label"]
        return {"images": images, "labels": labels}


@dataclasses.dataclass
class RecordSplit(Split):
    """A split that stays on disk: images of any size, decoded when needed.

    It can be pickled: a worker process opens its own files.
    """

    info: Info
    directory: pathlib.Path
    split: str
    length: int

    def __len__(self) -> int:
        return self.length

    def __getstate__(self) -> dict:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def _features(self, i: int):
        """The stored features of example i, by name. The first call opens the files."""
        with _LOCK:
            if "_source" not in self.__dict__:
                self._source = self._open()
        from tensorflow_datasets.proto import tf_example_pb2

        return tf_example_pb2.Example.FromString(self._source[i]).features.feature

    def _open(self):
        import tensorflow_datasets as tfds

        _allow_open_files()
        builder = PreparedSet(self.info.name, self.directory).builder
        # TFDS's own parsing takes twice the time and does not run in parallel threads.
        method = tfds.decode.DeserializeMethod.RAW_BYTES
        return builder.as_data_source(split=self.split, deserialize_method=method)

    def read(self, i: int) -> tuple[bytes | np.ndarray, int, str]:
        """See `Split.read`. The image of a raw copy is uint8 RGB [height, width, 3], read-only.

        Raises UserError for damaged or missing record files.
        """
        name = f"example {i} of {self.info.name} {self.split}"
        try:
            features = self._features(i)
            if "image" in features:
                image = features["image"].bytes_list.value[0]
            else:  # a raw copy
                shape = features["image/shape"].int64_list.value
                values = features["image/value"].bytes_list.value[0]
                image = np.frombuffer(values, np.uint8).reshape(shape)
            label = features["label"].int64_list.value[0]
        except Exception as error:  # TFDS and array_record raise many types
            advice = "prepare it again"
            if "Too many open files" in str(error):
                advice = "raise the limit (`ulimit -n 4096`), then run the same command again"
            raise UserError(
                f"cannot read {name} in {self.directory} ({one_line(error)}): {advice}"
            ) from error
        class_names = self.info.class_names
        if 0 <= label < len(class_names):
            name = f"{name} (class {class_names[label]})"
        return image, label, name


def _allow_open_files() -> None:
    """Raises this process's limit of open files as far as allowed.

    One file stays open for each shard of a set: ImageNet has 1,024, which is also the usual limit.
    """
    if resource is None:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # macOS allows fewer than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
