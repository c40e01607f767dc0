"""What every command needs before it begins: streams that accept its text, and names from flags."""

import csv
import io
import os
import pathlib
import sys
from typing import TextIO

from errors import reported


def begin() -> None:
    """Prepares the process of a command. Called before the imports that take long.

    Standard streams accept every text, and Ctrl-C prints one line instead of a traceback. In a
    locale without UTF-8, the process starts again with UTF-8: TensorStore and Python would read the
    same path as different ones, and classes would have other names.
    """
    if sys.getfilesystemencoding() != "utf-8":
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        # Characters that the encoding lacks, as in ASCII, become \xe4, \u65e5, ...
        stream.reconfigure(errors="backslashreplace")
    sys.excepthook = _report


def _open_closed_streams() -> None:
    """Discards the output to streams that the shell closed, as with 2>&-.

    The next file that the process opens would otherwise get the number of such a stream, and the
    messages of libraries.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
            setattr(sys, name, open(number, mode))  # noqa: SIM115


def _report(kind, error, traceback) -> None:
    """Reports an exception that ends the process."""
    if issubclass(kind, KeyboardInterrupt):
        print(f"{program()}: interrupted", file=sys.stderr, flush=True)
        os._exit(130)  # other threads may still run
    sys.__excepthook__(kind, error, traceback)


def program() -> str:
    """The name of the running program, which its messages begin with: main.py, or studies."""
    path = pathlib.Path(sys.argv[0])
    return path.parent.name if path.name == "__main__.py" else path.name


def expand(path: str | os.PathLike) -> pathlib.Path:
    """A path with the user's home folder in place of ~, which shells leave in --workdir=~/run.

    Raises UserError if the home folder is not known.
    """
    with reported(str(path), "give the path without ~", RuntimeError):
        return pathlib.Path(path).expanduser()


def split_names(text: str) -> list[str]:
    """The names in a text, which separates them by commas or line ends.

    A name that contains one of these stands in double quotes. Raises UserError for a quote without
    its partner.
    """
    lines = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
    with reported(text, 'put names that contain commas in quotes: "a,b"', csv.Error):
        return [name for line in lines for part in line if (name := part.strip())]


def console() -> TextIO:
    """Where the progress of a command is shown: on standard error, but in a notebook on its output.

    Jupyter shows standard error on a red ground, as if something had failed.
    """
    return sys.stdout if _is_cell(sys.stdout) else sys.stderr


def _is_cell(stream: TextIO) -> bool:
    """Whether a stream belongs to a notebook's cell."""
    return type(stream).__module__.partition(".")[0] == "ipykernel"


def bar_options(quiet: bool = False) -> dict:
    """Options of tqdm for a bar on `console()`: in a terminal or a notebook's cell, else none.

    The width of a cell is unknown, and so is that of a terminal whose width is 0. A line that wraps
    could not be drawn again.
    """
    stream = console()
    in_cell = _is_cell(stream)
    if quiet or not (in_cell or stream.isatty()):
        return {"disable": True}
    size = {"dynamic_ncols": True} if not in_cell and _columns() else {"ncols": 80, "nrows": 20}
    return {"file": stream, **size}


def _columns() -> int:
    """The width of the terminal; 0 if it is unknown."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError):
        return 0
