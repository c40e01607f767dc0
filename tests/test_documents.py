"""What the documents say of files, modules, names and versions."""

import ast
import importlib
import importlib.util
import pathlib
import re
import textwrap

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "benchmarks" / "README.md", *(ROOT / "docs").glob("*.md")]
DOCUMENTS += (ROOT / "docs" / "networks").glob("*.md")
PACKAGES = ("benchmarks", "configs", "input_pipeline", "models", "notebooks", "tests", "train_lib")

each_document = pytest.mark.parametrize(
    "path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT))
)


def anchors(text: str) -> set[str]:
    """The headings as GitHub links to them."""
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^a-z0-9 _-]", "", h.lower()).replace(" ", "-") for h in headings}


@each_document
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if re.match(r"https?:", target):
            continue
        file, _, anchor = target.partition("#")
        linked = path.parent / file if file else path
        assert linked.exists(), target
        if anchor:
            assert anchor in anchors(linked.read_text(encoding="utf-8")), target


@each_document
def test_files_and_modules_that_are_named_exist(path):
    text = path.read_text(encoding="utf-8")
    places = rf"\b(?:{'|'.join(PACKAGES)}|docs)/[\w./-]*\w\.(?:py|c|md|ipynb|png)\b"
    for file in set(re.findall(places, text)):
        if pathlib.Path(file).stem not in ("FILE", "NAME", "mine"):  # the reader's
            assert (ROOT / file).exists(), file
    for test in set(re.findall(r"`(test_\w+\.py)`", text)):
        assert list((ROOT / "tests").rglob(test)), test
    for module in set(re.findall(rf"python -m ((?:{'|'.join(PACKAGES)})[\w.]*\w)", text)):
        assert importlib.util.find_spec(module), module


@each_document
def test_names_that_are_imported_exist(path):
    text = path.read_text(encoding="utf-8")
    names = re.findall(rf"^ *from ((?:{'|'.join(PACKAGES)})[\w.]*) import (.+)$", text, re.M)
    for module, imported in names:
        (statement,) = ast.parse(f"from {module} import {imported}").body
        for alias in statement.names:
            loaded = importlib.import_module(module)
            if not hasattr(loaded, alias.name):
                importlib.import_module(f"{module}.{alias.name}")


@each_document
def test_python_examples_parse(path):
    blocks = re.findall(r"^( *)```python\n(.*?)^ *```", path.read_text("utf-8"), re.S | re.M)
    for _, block in blocks:
        ast.parse(textwrap.dedent(block))


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 180


def test_jax_for_accelerators_is_the_version_of_the_requirements():
    (version,) = re.findall(r"^jax==(.*)$", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    pins = [
        pin
        for path in DOCUMENTS
        for pin in re.findall(r"jax\[\w+\](\S{0,10})", path.read_text(encoding="utf-8"))
    ]
    assert len(pins) >= 4
    assert all(pin.startswith(f"=={version}") for pin in pins)
