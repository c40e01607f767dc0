"""A plain folder of images as a data set: the folder an image lies in is its class.

DIR/train/CLASS/* and DIR/test/CLASS/* (or val, validation), or DIR/CLASS/* without splits, of
which `dataset.test_fraction` goes into the test. Below the class folder, any depth.
"""

import dataclasses
import hashlib
import math
import os

import numpy as np

from errors import UserError, printable
from input_pipeline.split import Info, Split

NAME = "folder"  # config.dataset.name of such a set

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")  # in any case
TEST_FOLDERS = ("test", "val", "validation")  # that the split "test" may be in

_LAYOUT = (
    "DIR/train/CLASS/* and DIR/val/CLASS/*, or DIR/CLASS/* with --config.dataset.test_fraction=0.1"
)


@dataclasses.dataclass(frozen=True, eq=False)
class FolderSplit(Split):
    """A split that is read one file at a time, by any number of threads or processes.

    labels: int32 [n]. The paths lie in one piece of memory (`paths`, whose i-th ends before
    `ends[i]`), not in a million Python objects that each worker would copy.
    """

    info: Info
    labels: np.ndarray
    root: str  # the folder of the class folders
    paths: bytes  # relative to root
    ends: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, i: int) -> str:
        """The i-th file, in the order of classes and then of names."""
        if not 0 <= i < len(self):
            raise IndexError(f"no image {i} of {len(self)}")
        start = self.ends[i - 1] if i else 0
        return os.path.join(self.root, os.fsdecode(self.paths[start : self.ends[i]]))

    def id(self, i: int) -> str:
        """The i-th file's path below the split's folder."""
        return os.path.relpath(self.path(i), self.root)

    def read(self, i: int) -> tuple[bytes, int, str]:
        """The i-th file's content, its label, and a name of it for messages.

        Raises OSError, which names the file, where it cannot be read.
        """
        path, label = self.path(i), int(self.labels[i])
        with open(path, "rb") as file:
            content = file.read()
        return content, label, printable(f"{path} (class {self.info.class_names[label]})")


def dataset_info(dataset) -> Info:
    """The class names, from the folders of the training part, without looking into them.

    They are `printable`, whatever the folders are called.
    Raises UserError, one line that says what to do, where there is no such data set.
    """
    root = _train_root(dataset)
    names = _class_folders(root)
    if not names:
        raise UserError(f"{root} has no class folders: it takes {_LAYOUT}")
    if len(names) == 1:
        raise UserError(
            f"{root} has only one class folder, {names[0]!r}: a classifier needs two or more"
        )
    shown = tuple(map(printable, names))
    if len(set(shown)) < len(shown):
        twice = next(name for name in shown if shown.count(name) > 1)
        raise UserError(f"{root} has two class folders that read {twice}: rename one of them")
    return Info(NAME, (0, 0, 3), shown)


def load(dataset, split: str) -> FolderSplit:
    """Finds the files of a split. Reads folders only: a million files are a matter of seconds.

    split: "train" or "test"; with split folders, also the name of any other one. Hidden files,
    other extensions, and images outside class folders are not looked at.
    Raises UserError for a split that is missing or empty, a class folder without images, and
    classes that the training part has not.
    """
    info = dataset_info(dataset)
    whole = dataset.test_fraction > 0
    root = _train_root(dataset) if whole else _split_root(dataset, split)
    if whole and split not in ("train", "test"):
        raise UserError(
            f"{root} has no split {split!r}: with config.dataset.test_fraction there are train"
            " and test"
        )
    names = _class_folders(root)
    unknown = sorted(set(map(printable, names)) - set(info.class_names))
    if unknown:
        more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        raise UserError(
            f"{root} has classes that {_train_root(dataset)} has not"
            f" ({', '.join(unknown[:3])}{more}): move or rename their folders"
        )
    paths, counts = [], []
    for name in names:
        found = _images(os.path.join(root, name), name)
        if not found:
            raise UserError(
                f"no images in {os.path.join(root, name)} ({', '.join(EXTENSIONS)}): remove the"
                " folder or fill it"
            )
        if whole:
            in_test = _in_test(found, dataset.test_fraction)
            found = [p for p, test in zip(found, in_test, strict=True) if test == (split == "test")]
        paths += map(os.fsencode, found)
        counts.append(len(found))
    if not paths:
        raise UserError(
            f"split {split!r} of {root} is empty: "
            + ("raise config.dataset.test_fraction" if whole else f"it takes {_LAYOUT}")
        )
    labels = [info.class_names.index(printable(name)) for name in names]
    labels = np.repeat(np.array(labels, np.int32), counts)
    ends = np.cumsum(np.fromiter(map(len, paths), np.int64, len(paths)))
    return FolderSplit(info, labels, root, b"".join(paths), ends)


def _data_dir(dataset) -> str:
    root = os.path.expanduser(dataset.data_dir)
    if not root:
        raise UserError(f"say where the images are: --config.dataset.data_dir=DIR with {_LAYOUT}")
    if not os.path.isdir(root):
        raise UserError(f"no folder {root}: give --config.dataset.data_dir=DIR with {_LAYOUT}")
    return root


def _train_root(dataset) -> str:
    """The folder that holds the class folders of the training part."""
    root, fraction = _data_dir(dataset), dataset.test_fraction
    if not 0 <= fraction < 1:  # nan too
        raise UserError(f"config.dataset.test_fraction={fraction}: must be in 0 .. 1")
    train = os.path.join(root, dataset.train_split)
    has_splits = os.path.isdir(train) and _class_folders(train)  # a class may be called train
    if has_splits and fraction:
        raise UserError(
            f"{root} has a folder {dataset.train_split} of its own: set"
            " config.dataset.test_fraction=0, or give that folder as data_dir"
        )
    if fraction:
        return root
    if not os.path.isdir(train):
        raise UserError(f"{root} has no folder {dataset.train_split}: it takes {_LAYOUT}")
    return train


def _split_root(dataset, split: str) -> str:
    """The folder that holds the class folders of a split that has a folder of its own."""
    root = _data_dir(dataset)
    names = TEST_FOLDERS if split == "test" else (split,)
    found = [path for name in names if os.path.isdir(path := os.path.join(root, name))]
    if not found:
        raise UserError(f"{root} has no folder {' or '.join(names)}: it takes {_LAYOUT}")
    # A test folder that came without classes does not hide a validation folder that has them.
    return next((path for path in found if _class_folders(path)), found[0])


def _entries(path: str) -> tuple[list[str], list[str]]:
    """The names of the folders (links to them, too) and of all else in a folder, but hidden ones.

    Sorted.
    """
    folders, files = [], []
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    (folders if _is_folder(entry) else files).append(entry.name)
    except OSError as error:
        raise UserError(
            f"cannot read the folder {path} ({error.strerror}): change its permissions or move it"
        ) from error
    return sorted(folders), sorted(files)


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _class_folders(root: str) -> tuple[str, ...]:
    return tuple(_entries(root)[0])


def _images(folder: str, prefix: str) -> list[str]:
    """The image files below a folder, sorted, as prefix/name. Links to folders are followed."""
    found, seen, todo = [], set(), [(folder, prefix)]
    while todo:
        path, prefix = todo.pop()
        folders, files = _entries(path)
        status = os.stat(path)
        if (status.st_dev, status.st_ino) in seen:  # links may lead in circles
            continue
        seen.add((status.st_dev, status.st_ino))
        found += [f"{prefix}/{name}" for name in files if name.lower().endswith(EXTENSIONS)]
        todo += [(os.path.join(path, name), f"{prefix}/{name}") for name in reversed(folders)]
    return sorted(found)


def _in_test(names: list[str], fraction: float) -> list[bool]:
    """Which files of one class are in the test: a share `fraction` by a hash of each name.

    So a new file moves no other one. But where a class has two files or more, each part gets at
    least one; and a single file is for training.
    """
    digests = [hashlib.blake2b(os.fsencode(name), digest_size=8).digest() for name in names]
    places = [int.from_bytes(digest) / 2**64 for digest in digests]
    least = min(places) if len(names) > 1 else -math.inf
    most = max(places)
    return [(place < fraction or place == least) and place != most for place in places]
