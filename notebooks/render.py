"""Runs the notebooks from start to end, each in a fresh kernel, and writes them as web pages.

    make notebooks                      # all of them, to build/notebooks/NAME.html
    make notebooks NOTEBOOK=lenet5
    python notebooks/render.py lenet5 depth      # where nbclient, nbconvert and ipykernel are

A cell that raises ends the command with status 1, the notebook's name, the cell and the error. The
notebooks themselves stay as they are, without outputs. What they leave behind goes with the
temporary folder that they run with.
"""

import argparse
import os
import pathlib
import sys
import tempfile
import time

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError
from nbconvert import HTMLExporter

HERE = pathlib.Path(__file__).resolve().parent
OUTPUT = HERE.parent / "build" / "notebooks"
MOST_SECONDS = 600  # of one cell


class Failed(Exception):
    """A notebook did not run to its end."""


def run(path: pathlib.Path) -> nbformat.NotebookNode:
    """The notebook with its outputs. Raises Failed, naming the cell, if one raises or hangs."""
    notebook = nbformat.read(path, as_version=4)
    at = {"cell": 0}
    client = NotebookClient(
        notebook,
        timeout=MOST_SECONDS,
        kernel_name="python3",
        extra_arguments=["--log-level=ERROR"],  # the kernel's own words, not the cells'
        coalesce_streams=True,  # of a bar that was drawn again and again, the last
        resources={"metadata": {"path": str(path.parent)}},  # where Jupyter starts it, too
        on_cell_start=lambda cell, cell_index: at.update(cell=cell_index),
    )
    try:
        return client.execute()
    # The last: a kernel that ends, or does not start.
    except (CellExecutionError, CellTimeoutError, RuntimeError) as error:
        raise Failed(f"{path.name}, cell {at['cell'] + 1}:\n{error}") from error


def write(notebook: nbformat.NotebookNode, name: str, folder: pathlib.Path) -> pathlib.Path:
    """Writes NAME.html, pictures within it, to the folder; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    page, _ = HTMLExporter().from_notebook_node(notebook, {"metadata": {"name": name}})
    target = folder / f"{name}.html"
    target.write_text(page, encoding="utf-8")
    return target


def main() -> int:
    """The exit status: 0 if all ran."""
    known = sorted(path.stem for path in HERE.glob("*.ipynb"))
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="by default all of them")
    parser.add_argument("--output", type=pathlib.Path, default=OUTPUT, help="the pages' folder")
    options = parser.parse_args()
    for name in options.names:
        if name not in known:
            parser.error(f"there is no notebook {name}: choose of {', '.join(known)}")
    for name in options.names or known:
        start = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="canon-notebook-") as scratch:
            # Kernels inherit these. A user's own start-up files of IPython would run otherwise.
            os.environ |= {"TMPDIR": scratch, "IPYTHONDIR": scratch}
            try:
                notebook = run(HERE / f"{name}.ipynb")
            except Failed as error:
                print(error, file=sys.stderr)
                return 1
        print(f"{name}: {time.monotonic() - start:.0f} s, {write(notebook, name, options.output)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
