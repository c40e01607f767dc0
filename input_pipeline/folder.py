"""A folder of images as a data set: the name of an image's folder is its class.

DIR/train/CLASS/* and DIR/test/CLASS/* (or val, validation), or DIR/CLASS/* without splits, which
are made then: see `ImageFolder`. Class folders may have folders inside.
"""

import collections
import dataclasses
import functools
import hashlib
import math
import os
import pathlib
import sys
from collections.abc import Iterator, Sequence

import numpy as np

from errors import UserError, printable, reported
from input_pipeline import cache, decode
from input_pipeline.split import Info, Split

NAME = "folder"  # config.dataset.name of a folder of images
TEST_FOLDERS = ("test", "val", "validation")  # possible folders of the split "test"

_LAYOUT = (
    "DIR/train/CLASS/* and DIR/val/CLASS/*, or DIR/CLASS/* with --config.dataset.test_fraction=0.1"
)


@dataclasses.dataclass(frozen=True, eq=False)
class FolderSplit(Split):
    """A split that is read one file at a time.

    labels: int32 [n]. root: the folder of the class folders. paths: those of all files, relative
    to root, joined; path i ends before `ends[i]`. (A million Python strings would take more memory,
    and each worker would copy them.)
    """

    info: Info
    labels: np.ndarray
    root: str
    paths: bytes
    ends: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, i: int) -> str:
        """The path of file i, in the order of folders, then names. Raises IndexError."""
        if not 0 <= i < len(self):
            raise IndexError(f"no image {i} of {len(self)}")
        start = self.ends[i - 1] if i else 0
        return os.path.join(self.root, os.fsdecode(self.paths[start : self.ends[i]]))

    def id(self, i: int) -> str:
        return os.path.relpath(self.path(i), self.root)

    def files(self) -> Iterator[tuple[str, int, int]]:
        """(path, bytes, modification time in ns) of each file. Raises UserError."""
        with reported(f"cannot read {self.root}", "check its files", OSError):
            for i in range(len(self)):
                status = os.stat(self.path(i))
                yield self.id(i), status.st_size, status.st_mtime_ns

    def in_order_of(self, names: Sequence[str]) -> "FolderSplit":
        """The split with labels in the order of `names`, if these are its classes."""
        if sorted(names) != sorted(self.info.class_names):
            return self
        numbers = {name: number for number, name in enumerate(names)}
        new = np.array([numbers[name] for name in self.info.class_names], np.int32)
        info = dataclasses.replace(self.info, class_names=tuple(names))
        return dataclasses.replace(self, info=info, labels=new[self.labels])

    def read(self, i: int) -> tuple[bytes, int, str]:
        """See `Split.read`. Raises OSError, which names the file, if it cannot be read."""
        path, label = self.path(i), int(self.labels[i])
        with open(path, "rb") as file:
            content = file.read()
        return content, label, printable(f"{path} (class {self.info.class_names[label]})")


@dataclasses.dataclass(frozen=True)
class ImageFolder:
    """The folder `data_dir`.

    A folder without splits is divided. Either the test split gets the share `test_fraction` of each
    class, or the training split gets `train_per_class` images of each class, and the test split at
    most `test_per_class` of the others (0: all). division: number of the random division.

    Methods raise UserError, one line that says what to do, if there is no such data set.
    """

    data_dir: str
    train_split: str = "train"
    test_fraction: float = 0.0
    train_per_class: int = 0
    test_per_class: int = 0
    division: int = 0

    @property
    def is_divided(self) -> bool:
        """Whether the splits are made of one folder."""
        return self.test_fraction > 0 or self.train_per_class > 0

    def dataset_info(self) -> Info:
        """The class names: the class folders of the training split, made `printable`.

        Does not look into the class folders.
        """
        root = self._train_root()
        names = _class_folders(root)
        if not names:
            raise UserError(f"{root} has no class folders: the layout is {_LAYOUT}")
        if len(names) == 1:
            raise UserError(
                f"{root} has only one class folder, {names[0]!r}: a classifier needs two or more"
            )
        class_names = tuple(map(printable, names))
        if len(set(class_names)) < len(class_names):
            duplicate = next(name for name in class_names if class_names.count(name) > 1)
            raise UserError(
                f"{root} has two class folders that are printed as {duplicate}: rename one of them"
            )
        return Info(NAME, (0, 0, 3), class_names)

    def load(self, split: str) -> FolderSplit:
        """Finds the files of a split; reads folders only. A million files take seconds.

        split: "train", "test" or, in a folder with splits, the name of another folder. Hidden
        files and images outside of class folders are ignored. Other files are ignored, and their
        number is printed once. Raises UserError
        for a missing or empty split, a class folder without images, and classes that the training
        split does not have.
        """
        info = self.dataset_info()
        root = self._train_root() if self.is_divided else self._split_root(split)
        if self.is_divided and split not in ("train", "test"):
            raise UserError(
                f"{root} has no split {split!r}: with config.dataset.{self._divider} the splits are"
                " train and test"
            )
        folders = _class_folders(root)
        classes = list(map(printable, folders))
        unknown = sorted(set(classes) - set(info.class_names))
        if unknown:
            more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
            raise UserError(
                f"{root} has classes that {self._train_root()} does not have"
                f" ({', '.join(unknown[:3])}{more}): move or rename their folders"
            )
        paths, labels, others = [], [], collections.Counter()
        for class_name, name in zip(classes, folders, strict=True):
            files = _class_files(root, name, others)
            if self.is_divided:
                files = sorted(self._divided(files, class_name)[split])
            paths += map(os.fsencode, files)
            labels += [info.class_names.index(class_name)] * len(files)
        if not paths:
            advice = "raise config.dataset.test_fraction"
            advice = advice if self.is_divided else f"layout: {_LAYOUT}"
            raise UserError(f"split {split!r} of {root} is empty: {advice}")
        if others:
            kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))
            _report(f"files of other kinds in {root} are left out: {kinds}")
        ends = np.cumsum(np.fromiter(map(len, paths), np.int64, len(paths)))
        return FolderSplit(info, np.array(labels, np.int32), root, b"".join(paths), ends)

    def check_outside(self, workdir: str | os.PathLike) -> None:
        """Raises UserError if pictures in a workdir would be found as images of a class."""
        roots = [self._train_root()]
        if not self.is_divided:
            roots += [os.path.join(self._root(), name) for name in TEST_FOLDERS]
        for root in map(os.path.realpath, roots):
            if pathlib.Path(os.path.realpath(workdir)).is_relative_to(root):
                raise UserError(
                    f"{workdir} is among the images of {root}, which would include the run's"
                    " plots: choose another --workdir"
                )

    def _root(self) -> str:
        root = os.path.expanduser(self.data_dir)
        if not os.path.isdir(root):
            problem = f"no folder {root}" if root else "no folder of images is given"
            raise UserError(f"{problem}: set --config.dataset.data_dir=DIR with {_LAYOUT}")
        return root

    def _train_root(self) -> str:
        """The folder of the training split's class folders."""
        root, fraction = self._root(), self.test_fraction
        if not 0 <= fraction < 1:  # also refuses nan
            raise UserError(
                f"config.dataset.test_fraction={fraction}: must be at least 0 and below 1"
            )
        train = os.path.join(root, self.train_split)
        has_splits = os.path.isdir(train) and _class_folders(train)  # a class may be called train
        if has_splits and self.is_divided:
            raise UserError(
                f"{root} already has a folder {self.train_split}: set"
                f" config.dataset.{self._divider}=0, or give that folder as data_dir"
            )
        if self.is_divided:
            return root
        if not os.path.isdir(train):
            raise UserError(f"{root} has no folder {self.train_split}: the layout is {_LAYOUT}")
        return train

    @property
    def _divider(self) -> str:
        """The field that divides the folder."""
        return "train_per_class" if self.train_per_class else "test_fraction"

    def _divided(self, files: list[str], class_name: str) -> dict[str, list[str]]:
        """The files of one class in each split, in the order of the hashes of their paths.

        So one more file moves at most one other to the other split. With `test_fraction`, each
        split gets at least one of two or more files; a single file belongs to the training split.
        """
        salt = self.division.to_bytes(8, "little")

        def key(name: str) -> bytes:
            return hashlib.blake2b(os.fsencode(name), digest_size=8, salt=salt).digest()

        files, count = sorted(files, key=key), self.train_per_class
        if not count:
            share = max(1, math.floor(self.test_fraction * len(files) + 0.5))
            count = min(share, len(files) - 1)
            return {"test": files[:count], "train": files[count:]}
        if len(files) < 2:
            raise UserError(
                f"the class {class_name} has only one image, so that none is left for the test:"
                " add images, or remove the class"
            )
        if len(files) <= count:
            raise UserError(
                f"the class {class_name} has {len(files)} images, so that none is left for the"
                f" test: lower config.dataset.train_per_class (now {count})"
            )
        return {"train": files[:count], "test": files[count:][: self.test_per_class or None]}

    def _split_root(self, split: str) -> str:
        """The folder of a split's class folders, in a folder with splits."""
        root = self._root()
        names = TEST_FOLDERS if split == "test" else (split,)
        folders = [path for name in names if os.path.isdir(path := os.path.join(root, name))]
        if not folders:
            raise UserError(f"{root} has no folder {' or '.join(names)}: the layout is {_LAYOUT}")
        # A test folder without class folders does not hide a validation folder that has them.
        return next((path for path in folders if _class_folders(path)), folders[0])


def _walk(path: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """As `cache.walk`, without hidden entries. Raises UserError if a folder cannot be read."""

    def refuse(error: OSError) -> None:
        raise UserError(
            f"cannot read the folder {error.filename} ({error.strerror}): change its permissions"
            " or move it"
        ) from error

    for parent, folders, files in cache.walk(path, refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield parent, folders, [name for name in files if not name.startswith(".")]


def _class_folders(root: str) -> list[str]:
    """The names of the folders in a folder, sorted."""
    return next(_walk(root))[1]


@functools.cache
def _report(line: str) -> None:
    """Prints a line on standard error, once."""
    print(printable(line), file=sys.stderr, flush=True)


def _class_files(root: str, name: str, others: collections.Counter) -> list[str]:
    """The image files of a class at any depth, sorted, as paths below `root`.

    Links to folders are followed. Other files are counted by suffix in `others`. Raises UserError
    if there is no image.
    """
    images = []
    for parent, _, files in _walk(os.path.join(root, name)):
        prefix = os.path.relpath(parent, root)
        for file in files:
            if file.lower().endswith(decode.EXTENSIONS):
                images.append(f"{prefix}/{file}")
            else:
                others[os.path.splitext(file)[1].lower() or "without suffix"] += 1
    if not images:
        raise UserError(
            f"no images in {os.path.join(root, name)}: remove the folder or add images"
            f" ({', '.join(decode.EXTENSIONS)})"
        )
    return sorted(images)
