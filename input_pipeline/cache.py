"""Derived data: where they are stored, how their files are named, and how they are written."""

import hashlib
import json
import os
import pathlib
import sys
import uuid
import zipfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from command_line import expand
from errors import one_line

STATISTICS = "statistics-"  # files with this prefix are derived, even among the source files


def root(cache_dir: str) -> pathlib.Path:
    """`cache_dir`, or $XDG_CACHE_HOME/canon or ~/.cache/canon if it is empty."""
    default = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "canon"
    return expand(cache_dir or default)


def file_name(directory: pathlib.Path, words: tuple[str, ...], key: tuple) -> str:
    """The name "WORDS-DIGEST.npz" of data derived from the files in `directory`.

    words: a description for people. key: whatever else determines the data, as JSON. The digest
    changes if a source file is added, removed or changed (in name, size or modification time).
    """
    stem = "".join(c if c.isalnum() else "-" for c in "-".join(words))
    return f"{stem}-{digest(key, sources(directory))}.npz"


def digest(key: tuple, files: Iterable[tuple[str, int, int]]) -> str:
    """A digest of a key and of files, which are given as `sources` gives them."""
    identity = json.dumps([*key, sorted(files)])
    return hashlib.sha256(identity.encode()).hexdigest()[:16]


def sources(directory: pathlib.Path) -> Iterator[tuple[str, int, int]]:
    """(path, bytes, modification time in ns) of each file at any depth; links are followed."""
    for parent, _, names in walk(directory):
        for name in names:
            path = os.path.join(parent, name)
            if not name.startswith(STATISTICS) and os.path.exists(path):  # not a broken link
                status = os.stat(path)
                yield os.path.relpath(path, directory), status.st_size, status.st_mtime_ns


def walk(
    directory: str | os.PathLike, on_error: Callable[[OSError], None] | None = None
) -> Iterator[tuple[str, list[str], list[str]]]:
    """As `os.walk`, in sorted order. Links to folders are followed, but each folder comes once.

    on_error: is called if a folder cannot be read.
    """
    visited = set()
    for parent, folders, files in os.walk(directory, onerror=on_error, followlinks=True):
        folders.sort()
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in visited:  # links may form a circle
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        yield parent, folders, sorted(files)


def read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays that `write_npz` wrote. Raises OSError, or ValueError for a damaged file.

    All checksums are verified first: NumPy would not read an array with a damaged header up to its
    checksum.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
                raise ValueError("its arrays are compressed")  # possibly of any size
            if name := archive.testzip():
                raise ValueError(f"{name} is damaged")
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError):
        raise
    except Exception as error:  # zipfile and NumPy raise many types
        raise ValueError(one_line(error)) from error


def write_whole(path: pathlib.Path, write: Callable, prefix: str = ".") -> None:
    """Writes a file atomically, with `write(file)`. Raises OSError.

    prefix: of the temporary file's name, in the same folder.
    """
    temporary = path.with_name(f"{prefix}{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("xb") as file:  # never through an existing link
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def load_or_make(paths: list[pathlib.Path], parse: Callable[[dict], Any], make: Callable[[], dict]):
    """parse(arrays) of the first file that exists, or of make(), whose arrays are then stored.

    They are stored in the first file that can be written. Damaged files are made again. An error
    in writing costs only time, so it is a message.
    """
    for path in filter(os.path.exists, paths):
        try:
            return parse(read_npz(path))
        except (OSError, ValueError, KeyError) as error:
            print(f"{path} is damaged ({one_line(error)}): made again", file=sys.stderr)
    arrays = make()
    for path in paths:
        try:
            write_npz(path, **arrays)
            break
        except OSError as error:
            if path == paths[-1]:
                print(f"cannot write {path} ({error}): continuing without", file=sys.stderr)
    return parse(arrays)


def write_npz(path: pathlib.Path, **arrays: np.ndarray) -> None:
    """Writes arrays atomically, each with a checksum. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda file: np.savez(file, **arrays), STATISTICS)
