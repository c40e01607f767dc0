"""The notebooks as they are committed. `make notebooks` runs them."""

import ast
import json
import pathlib
import re

import pytest

from docs.site import build

ROOT = pathlib.Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

CLEAR = "clear it: python -m jupyter nbconvert --clear-output --inplace notebooks/*.ipynb"


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return json.loads(request.param.read_text(encoding="utf-8"))


def of(notebook, kind):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


def source(cell) -> str:
    return "".join(cell["source"])


# In the order of the lecture.
NAMES = (
    "filters",
    "traditional",
    "perceptron",
    "lenet5",
    "alexnet_first_layer",
    "depth",
    "pretraining",
    "regularisers",
)


def test_notebooks_are_listed_in_the_order_of_the_lecture():
    assert {path.stem for path in NOTEBOOKS} == set(NAMES)
    assert tuple(path.stem for path in build.notebooks()) == NAMES
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    assert tuple(re.findall(r"^\| \[(\w+)\]\(\.\./notebooks/\1\.ipynb", page, re.M)) == NAMES


def test_format(notebook):
    assert notebook["nbformat"] == 4
    assert {cell["cell_type"] for cell in notebook["cells"]} == {"markdown", "code"}
    names = [cell["id"] for cell in notebook["cells"]]
    assert len(set(names)) == len(names)


def test_notebooks_are_committed_without_outputs(notebook):
    for cell in of(notebook, "code"):
        assert cell["outputs"] == [], CLEAR
        assert cell["execution_count"] is None, CLEAR
    assert all(cell["metadata"] == {} and "attachments" not in cell for cell in notebook["cells"])
    # Of the kernel, its general name: Jupyter also writes the version that somebody had.
    assert notebook["metadata"] == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }


def test_no_path_of_a_machine_is_committed(notebook):
    text = json.dumps(notebook)
    assert not re.findall(r"[\"' (=]/(?:home|root|tmp|Users|usr|opt|work|mnt)\b", text)


def test_code_compiles(notebook):
    for cell in of(notebook, "code"):
        lines = source(cell).splitlines()
        ast.parse("\n".join(line for line in lines if not line.startswith("%")))


def test_each_notebook_explains_its_code(notebook):
    first, *_, last = notebook["cells"]
    assert first["cell_type"] == last["cell_type"] == "markdown"
    assert source(first).startswith("# ")
    assert "```" not in source(first) and len(source(first).split()) > 80  # the idea, before code
    assert re.search(r"\b(?:19|20)\d\d\b", source(first))  # the paper
    assert source(last).startswith("## Try it yourself")
