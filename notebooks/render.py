"""Runs the notebooks from start to end, two at a time, and writes them with their outputs.

    make notebooks                      # all of them, to build/notebooks/NAME.html and NAME.ipynb
    make notebooks NOTEBOOK=lenet5
    python notebooks/render.py lenet5 depth      # needs nbclient, nbconvert and ipykernel

Each has a fresh kernel. If a cell raises an error, the command prints the notebook's name, the cell
and the error, and exits with status 1. The notebooks themselves do not change and stay without
outputs. Files that they write are in a temporary folder, which is removed.
"""

import argparse
import concurrent.futures
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
MOST_SECONDS = 600  # for one cell
AT_A_TIME = 2  # a notebook hardly ever keeps more than one core busy


class Failed(Exception):
    """A notebook raised an error or took too long."""


def run(path: pathlib.Path) -> nbformat.NotebookNode:
    """The notebook with its outputs. Raises Failed, naming the cell, if one raises or hangs."""
    notebook = nbformat.read(path, as_version=4)
    at = {"cell": 0}
    client = NotebookClient(
        notebook,
        timeout=MOST_SECONDS,
        kernel_name="python3",
        extra_arguments=["--log-level=ERROR"],  # messages of the kernel, not of cells
        coalesce_streams=True,  # keeps only the last state of a progress bar
        resources={"metadata": {"path": str(path.parent)}},  # Jupyter starts it there, too
        on_cell_start=lambda cell, cell_index: at.update(cell=cell_index),
    )
    try:
        with tempfile.TemporaryDirectory(prefix="canon-notebook-") as scratch:
            # With the user's IPYTHONDIR the kernel would run the start-up files in it.
            scratch_folders = {"TMPDIR": scratch, "IPYTHONDIR": scratch}
            return client.execute(env=os.environ | scratch_folders)
    # RuntimeError: the kernel ends, or does not start.
    except (CellExecutionError, CellTimeoutError, RuntimeError) as error:
        raise Failed(f"{path.name}, cell {at['cell'] + 1}:\n{error}") from error


def write(notebook: nbformat.NotebookNode, name: str, folder: pathlib.Path) -> pathlib.Path:
    """Writes NAME.html, including its figures, to the folder; returns its path.

    It also writes NAME.ipynb, from which `make docs` takes the outputs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, folder / f"{name}.ipynb")
    page, _ = HTMLExporter().from_notebook_node(notebook, {"metadata": {"name": name}})
    target = folder / f"{name}.html"
    target.write_text(page, encoding="utf-8")
    return target


def main() -> int:
    """Returns the exit status: 0 if all notebooks ran."""
    known = sorted(path.stem for path in HERE.glob("*.ipynb"))
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="by default all of them")
    parser.add_argument("--output", type=pathlib.Path, default=OUTPUT, help="the pages' folder")
    options = parser.parse_args()
    for name in options.names:
        if name not in known:
            parser.error(f"there is no notebook {name}: choose of {', '.join(known)}")
    with concurrent.futures.ThreadPoolExecutor(AT_A_TIME) as pool:

        def timed_run(name):
            start = time.monotonic()
            return run(HERE / f"{name}.ipynb"), time.monotonic() - start

        names = options.names or known
        running = {name: pool.submit(timed_run, name) for name in names}
        for name, future in running.items():
            try:
                notebook, seconds = future.result()
            except Failed as error:
                pool.shutdown(cancel_futures=True)
                print(error, file=sys.stderr)
                return 1
            print(f"{name}: {seconds:.0f} s, {write(notebook, name, options.output)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
