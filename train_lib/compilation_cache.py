"""Compiled programs kept on disk, so that the next process does not compile them again.

JAX has such a cache, and decides what is compiled alike: the program, its options, and the versions
of JAX and XLA make up the key. The store below it is Canon's, because JAX's own

- has no checksum that finds all damage (with zstd, from Python 3.14 on, there is none at all), and
  would run what a damaged entry decompresses to;
- writes in place, so that another process can read half an entry;
- takes entries that were compiled for another CPU, which may lack the instructions;
- grows without a bound unless another package (filelock) is installed.

An entry that is missing, damaged, or not what its name says is compiled anew and replaced.
"""

import contextlib
import hashlib
import os
import pathlib
import platform
import stat
import sys
import uuid
import warnings

import jax
from jax._src import compilation_cache  # there is no public way to give JAX another store

from errors import one_line
from input_pipeline import cache

MOST_BYTES = 2**30  # of all entries; the least recently used ones are removed first
# Shorter compilations are not kept: reading an entry and checking it takes a few milliseconds.
SHORTEST_SECONDS = 0.2
_SUFFIX = ".xla"


def directory() -> pathlib.Path:
    """$XDG_CACHE_HOME/canon/compiled, or ~/.cache/canon/compiled."""
    return cache.root("") / "compiled"


def machine() -> str:
    """A word for what a compiled program may depend on besides its key.

    These are the kind of CPU with its instructions, and the number of threads, by which XLA divides
    the work of a program.
    """
    known = [platform.machine(), platform.processor(), platform.system()]
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        fields = ("vendor_id", "cpu family", "model", "stepping", "flags", "Features", "CPU ")
        known += sorted({line for line in lines if line.startswith(fields)})
    except OSError:  # not Linux
        pass
    try:
        threads = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        threads = os.cpu_count()
    known += [str(threads), os.environ.get("NPROC", "")]
    return hashlib.sha256("\n".join(known).encode()).hexdigest()[:16]


class Store:
    """Entries in a folder, by key. JAX calls `get` and `put`. Neither raises.

    An entry is the SHA-256 of its name and its content, and the content.
    """

    def __init__(self, folder: pathlib.Path, most_bytes: int = MOST_BYTES):
        self._path = folder  # JAX asks for it by this name
        self._most_bytes = most_bytes
        self._machine = machine()

    def _file(self, key: str) -> pathlib.Path:
        name = hashlib.sha256(f"{key} {self._machine}".encode()).hexdigest()
        return self._path / f"{name}{_SUFFIX}"

    def get(self, key: str) -> bytes | None:
        """The content that was put under the key; None if there is none, or it is damaged."""
        file = self._file(key)
        try:
            entry = file.read_bytes()
            digest, content = entry[:32], entry[32:]
            if digest != _digest(file, content):
                return None
            os.utime(file)  # the time of its last use
            return content
        except OSError:
            return None

    def put(self, key: str, content: bytes) -> None:
        """Stores the content, whole or not at all, and makes room for it."""
        file = self._file(key)
        if len(content) > self._most_bytes:
            return
        temporary = file.with_name(f".{uuid.uuid4().hex}{_SUFFIX}")
        try:
            temporary.write_bytes(_digest(file, content) + content)
            os.replace(temporary, file)
        except OSError:  # a full disk, for example: the next process compiles again
            _remove(temporary)
        self._evict()

    def _evict(self) -> None:
        entries = []
        for file in self._path.glob(f"*{_SUFFIX}"):  # half-written ones of killed processes, too
            try:
                status = file.stat()
            except OSError:  # another process has removed it
                continue
            entries.append((status.st_mtime_ns, status.st_size, file))
        held = sum(size for _, size, _ in entries)
        for _, size, file in sorted(entries):
            if held <= self._most_bytes:
                return
            _remove(file)
            held -= size


def _digest(file: pathlib.Path, content: bytes) -> bytes:
    return hashlib.sha256(file.name.encode() + content).digest()


def _remove(file: pathlib.Path) -> None:
    with contextlib.suppress(OSError):
        file.unlink(missing_ok=True)


def configure(wanted: bool) -> None:
    """Turns the cache on or off for what this process compiles from now on.

    It is turned on for CPUs only, and not where the user has chosen a cache of JAX's own
    (JAX_COMPILATION_CACHE_DIR). Where the folder cannot be used, says so in one line.
    """
    folder, chosen = directory(), jax.config.jax_compilation_cache_dir
    if chosen == str(folder):
        if not wanted:
            jax.config.update("jax_compilation_cache_dir", None)
            compilation_cache.reset_cache()
    elif wanted and not chosen and jax.default_backend() == "cpu":
        _turn_on(folder)


def _turn_on(folder: pathlib.Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_private(folder)
        probe = folder / f".{uuid.uuid4().hex}{_SUFFIX}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        print(
            f"compiled programs are not kept in {folder} ({one_line(error)}):"
            " --config.compilation_cache=False turns this off",
            file=sys.stderr,
        )
        return
    compilation_cache.get_file_cache = lambda path: (Store(pathlib.Path(path)), path)
    compilation_cache.reset_cache()
    # JAX warns of entries that it can neither read nor write, and compiles.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", SHORTEST_SECONDS)
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
    jax.config.update("jax_compilation_cache_dir", str(folder))


def _check_private(folder: pathlib.Path) -> None:
    """Raises OSError where others may write: an entry is a program that this process runs."""
    if not hasattr(os, "getuid"):
        return
    status = folder.stat()
    if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError("another user may write there")
