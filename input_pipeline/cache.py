"""Where derived data is kept, how it is named after its sources, and how it is written whole."""

import hashlib
import json
import os
import pathlib
import uuid
import zipfile
from collections.abc import Callable, Iterator

import numpy as np

from errors import one_line

STATISTICS = "statistics-"  # files named so are derived, also where they lie among the sources


def root(cache_dir: str) -> pathlib.Path:
    """`dataset.cache_dir`, or $XDG_CACHE_HOME/canon or ~/.cache/canon where it is empty."""
    default = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "canon"
    return (pathlib.Path(cache_dir) if cache_dir else default).expanduser()


def file_name(directory: pathlib.Path, words: tuple[str, ...], key: tuple) -> str:
    """The name "WORDS-DIGEST.npz" for what is derived from the files in `directory`.

    words: what it is, for people. key: what else it follows from, as JSON takes it. A source
    that comes, goes or changes (name, size, time of change) changes the digest.
    """
    identity = json.dumps([*key, sorted(_sources(directory))])
    digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
    stem = "".join(c if c.isalnum() else "-" for c in "-".join(words))
    return f"{stem}-{digest}.npz"


def _sources(directory: pathlib.Path) -> Iterator[tuple[str, int, int]]:
    """(path, bytes, time of change in ns) of each file at any depth, links followed."""
    seen = set()
    for parent, folders, names in os.walk(directory, followlinks=True):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in seen:  # links may lead in circles
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        for name in names:
            path = os.path.join(parent, name)
            if not name.startswith(STATISTICS) and os.path.exists(path):  # no link to nothing
                status = os.stat(path)
                yield os.path.relpath(path, directory), status.st_size, status.st_mtime_ns


def read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    """What `write_npz` wrote. Raises OSError, and ValueError for a damaged or other file.

    All checksums first: an array whose header has lost some rows would not be read up to its own.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
                raise ValueError("its arrays are compressed")  # to any size
            if spoilt := archive.testzip():
                raise ValueError(f"{spoilt} is damaged")
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError):
        raise
    except Exception as error:  # zipfile's and NumPy's many kinds
        raise ValueError(one_line(error)) from error


def write_whole(path: pathlib.Path, write: Callable, prefix: str = ".") -> None:
    """Writes a file so that it is there whole or not at all: by `write(file)`. Raises OSError.

    prefix: of the name that it has meanwhile, beside the one that it gets.
    """
    temporary = path.with_name(f"{prefix}{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("xb") as file:  # never through a link that lies there
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_npz(path: pathlib.Path, **arrays: np.ndarray) -> None:
    """Writes arrays so that the file is there whole or not at all. Raises OSError.

    A .npz has a checksum for each array: damage is noticed on reading.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda file: np.savez(file, **arrays), STATISTICS)
