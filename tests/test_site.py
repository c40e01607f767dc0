"""The documentation site: its contents, and the text that it generates. `make docs` builds it."""

import importlib
import inspect
import json
import pathlib
import re
from collections import Counter

import jax
import pytest

from configs.load import load
from docs.site import build, constants, networks
from docs.site.docstrings import as_rst, process, shorten
from models import registry
from train_lib import losses
from train_lib.experiment import resolve
from train_lib.pictures import network_drawing

ROOT = pathlib.Path(__file__).resolve().parents[1]


def files(pattern: str) -> set[str]:
    """The files of the repository, by their paths without endings."""
    return {str(path.relative_to(ROOT).with_suffix("")) for path in ROOT.glob(pattern)}


def test_everything_is_in_the_table_of_contents_once():
    names = Counter(name for group in build.table_of_contents().values() for name in group)
    studies = (path for path in (ROOT / "studies").glob("*.py") if "\nSTUDY = " in path.read_text())
    wanted = files("docs/*.md") | files("docs/studies/*.md") | files("notebooks/*.ipynb")
    wanted |= {f"docs/studies/{path.stem}" for path in studies}
    wanted |= {f"docs/networks/{name}" for name in (*registry.MODELS, *registry.FITTED)}
    assert wanted <= names.keys()
    assert set(names.values()) == {1}


def test_each_network_has_an_introduction_and_a_config():
    assert files("docs/networks/*.md") == {f"docs/networks/{name}" for name in networks.NAMES}
    assert {f"configs/{name}" for name in networks.NAMES} <= files("configs/*.py")


@pytest.mark.parametrize(
    ("origin", "target", "expected"),
    [
        ("README.md", "docs/data.md#your-own-images", "../data.md#your-own-images"),
        ("docs/networks.md", "../configs/vgg.py", "vgg.md"),
        ("docs/networks.md", "#papers", "../networks.md#papers"),
        ("docs/networks.md", "studies/README.md", "../studies/README.md"),
        ("README.md", "models/vgg.py", "../../api/models.vgg.rst"),
        ("README.md", "models/layers", "../../api/models.layers.rst"),
        ("docs/data.md", "../CITATION.cff", "https://host/owner/name/blob/HEAD/CITATION.cff"),
        ("docs/data.md", "https://example.org/x.md", "https://example.org/x.md"),
    ],
)
def test_links_lead_to_pages_of_the_site(monkeypatch, origin, target, expected):
    monkeypatch.setenv("GITHUB_SERVER_URL", "https://host")
    monkeypatch.setenv("GITHUB_REPOSITORY", "owner/name")
    monkeypatch.setenv("GITHUB_SHA", "HEAD")
    page = "docs/networks/mlp.md"
    text = build.relinked(f"see [the `x[0]`]({target}).", origin, page, build.pages())
    assert text == f"see [the `x[0]`]({expected})."


def test_without_a_repository_only_the_text_of_a_link_stays(monkeypatch):
    monkeypatch.delenv("GITHUB_REPOSITORY", raising=False)
    text = build.relinked("see [the tests](tests).", "README.md", "index.md", build.pages())
    assert text == "see the tests."


def test_pages_of_earlier_builds_are_removed(monkeypatch, tmp_path):
    monkeypatch.setattr(build, "SOURCE", tmp_path / "source")
    monkeypatch.setattr(build, "OUTPUT", tmp_path / "site")
    sources = ("index.md", "docs/data.md", "api/models.vgg.rst", "notebooks/depth.ipynb")
    kept = {"index", "docs/data", "api/models.vgg", "notebooks/depth", "search"}
    kept |= {"_modules/index", "_modules/models/vgg", "_modules/models/layers"}
    old = {"genindex", "docs/development", "notebooks/older", "_modules/models/older"}
    for path in [*(f"source/{name}" for name in sources), *(f"site/{n}.html" for n in kept | old)]:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    build.remove_old_pages()
    left = (path.relative_to(build.OUTPUT) for path in build.OUTPUT.rglob("*.html"))
    assert {path.with_suffix("").as_posix() for path in left} == kept


def test_outputs_of_a_notebook_that_has_changed_are_not_shown(monkeypatch, tmp_path):
    path = build.notebooks()[0]
    content = json.loads(path.read_text(encoding="utf-8"))
    content["cells"][1]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "made"}]
    monkeypatch.setattr(build, "EXECUTED", tmp_path)
    executed = tmp_path / path.name
    executed.write_text(json.dumps(content), encoding="utf-8")
    assert '"made"' in build.notebook(path, "notebooks/x.ipynb", {})
    content["cells"][1]["source"] = ["changed"]
    executed.write_text(json.dumps(content), encoding="utf-8")
    assert '"made"' not in build.notebook(path, "notebooks/x.ipynb", {})


def test_figures_of_notebooks_have_the_heading_as_alternative_text(tmp_path):
    texts = ["# Depth\n\nTwo layers.", "plot()", "Look at #1.", "plot()", "## 2. Width", "plot()"]
    kinds = ["markdown", "code"] * 3
    cells = [
        {"cell_type": k, "source": [t], "metadata": {}} for k, t in zip(kinds, texts, strict=True)
    ]
    (tmp_path / "x.ipynb").write_text(json.dumps({"cells": cells}), encoding="utf-8")
    shown = json.loads(build.notebook(tmp_path / "x.ipynb", "notebooks/x.ipynb", {}))["cells"]
    alt = [cell["metadata"]["mystnb"]["image"]["alt"] for cell in shown[1::2]]
    assert alt == ["figure: Depth", "figure: Depth", "figure: 2. Width"]


@pytest.mark.parametrize("name", networks.NAMES)
def test_each_paragraph_of_a_docstring_is_on_the_page_once(name):
    docstring = inspect.cleandoc(importlib.import_module(f"configs.{name}").__doc__)
    topics = networks.paragraphs(docstring)
    texts = [text.strip("\n") for topic in topics.values() for text in topic]
    assert sorted(t.replace("`", "") for t in texts) == sorted(
        t.replace("`", "") for t in docstring.split("\n\n")[1:]
    )


def test_topics_of_paragraphs():
    topics = networks.paragraphs(importlib.import_module("configs.vgg").__doc__)
    assert topics["recipe"][0].startswith("As published (sec. 3.1): shorter side S = 256")
    assert "    python main.py --config=configs/vgg.py:D" in topics["recipe"][1]
    assert topics["changes"][0].startswith("Chosen here, because the paper is not clear:")
    assert [text[:9] for text in topics["results"]] == ["Published", "Measured:"]


def test_flags_become_code():
    text = 'Train with --config.view.scale="(72, 72)" or --mode=x, not `--a=b`. Use --config.c=1.'
    expected = 'Train with `--config.view.scale="(72, 72)"` or `--mode=x`, not `--a=b`. Use'
    assert networks.with_code(text) == f"{expected} `--config.c=1`."


def test_comments_of_a_config_explain_its_constants():
    notes = constants.notes("lenet5", "digits")
    assert notes["loss.j"].startswith("eq. 9's constant of the rubbish class")
    assert notes["preprocess.low"] == "Sec. II.B"  # the comment above its block
    assert notes["model.c3"] == "Sec. II.B; table I; table, full"  # and the one beside it
    assert notes["dataset.name"] == ""  # after the block
    assert notes["epochs"] == "Chosen here"
    assert constants.notes("lenet5", "mnist_1998")["epochs"] == "Sec. III.B, app. C"
    assert "schedule.warmup_rate" not in constants.notes("resnet_cifar10", "20")
    assert constants.notes("resnet_cifar10", "110")["schedule.warmup_rate"] == "Sec. 4.2"
    (table, rest) = networks._constants("alexnet:two_tower")
    assert "| `optimizer.momentum` | `0.9` | Sec. 5 | momentum m of" in table  # neutral, but set
    assert '| `epochs` | `90.0` | Sec. 5; "roughly 90 cycles" | passes over the' in table
    assert "| `model.lrn_over` | `all_maps` | Sec. 3.3, " in table
    assert "`optimizer.max_norm`: `0.0`" in rest and "`epochs`" not in rest


# What no source can say: they follow from the task, or the comment gives the reason.
NEED_NO_SOURCE = {
    "mlp": {"model.input_drop_rate"},
    "connectivity": {"preprocess.pad"},
    "filter_bank": {"optimizer.frozen"},
    "cuda_convnet": {"model.initializer"},  # the files that it names are the source
    "maxout": {"preprocess.high", "preprocess.mean"},
    "rbm": {"optimizer.frozen"},
    "traditional": {"view.size"},
}


@pytest.mark.parametrize("name", networks.NAMES)
def test_each_constant_of_a_recipe_has_its_source(name):
    of_training = re.compile(
        r"(epochs|batch_size|(optimizer|schedule|augment|preprocess|view|loss)\..*"
        r"|model\.(initializer|drop|input_drop|regulariser|bias_start).*)$"
    )
    source = re.compile(
        r"sec|eq\.|table|app\.|fig\.|paper|author|original|caffe|torch|[12]\d{3}|chosen|memory",
        re.IGNORECASE,
    )
    shown = networks.argument_shown(name).partition(":")[2]
    for argument in getattr(importlib.import_module(f"configs.{name}"), "ARGUMENTS", [shown]):
        rows = networks.rows(f"{name}:{argument}")
        notes = {field: note for field, _, note in rows if of_training.match(field)}
        lacking = {field for field, note in notes.items() if not source.search(note)}
        assert lacking <= NEED_NO_SOURCE.get(name, set()), argument
        assert all(notes.values()), argument


def module_and_shape(name: str, **options):
    config = load(name)
    config.model.update(options)
    exp = resolve(config, read_only=True)
    return exp.module, exp.input_shape


def test_branches_of_an_inception_module_stand_side_by_side():
    network = module_and_shape("googlenet", auxiliary_heads=False)
    found = {block.name: block for block in network_drawing.blocks(*network)}
    # Szegedy 2014, table 1
    assert found["inception_3a"].parts == (64, 128, 32, 32)
    assert found["inception_5b"].parts == (384, 384, 128, 128)
    assert found["inception_4e"].shape == (14, 14, 832)
    assert "norm1" not in found


@pytest.mark.parametrize(("config", "shortcuts"), [("20", 9), ("plain-20", 0)])
def test_residual_blocks_have_shortcuts(config, shortcuts):
    found = network_drawing.blocks(*module_and_shape(f"resnet_cifar10:{config}"))
    assert sum(block.has_shortcut for block in found) == shortcuts
    assert [block.kind for block in found if block.name.startswith("conv")][1:] == (
        ["2 convolutions"] * 9
    )


def test_the_drawing_has_a_box_for_each_group_of_a_convolution():
    network = module_and_shape("alexnet")
    svg = network_drawing.svg(*network)
    # image, 5 convolutions of which 3 have two groups, 3 poolings, 3 fully connected layers
    assert svg.count('id="patch_') - 1 == 1 + 5 + 3 + 3 + 3
    assert "11x11 convolution, stride 4" in svg
    assert svg == network_drawing.svg(*network)


def test_docstrings():
    text = """The sum of a_ and *b*, `c*d`.

a, b: numbers. scale: a factor,
    at least 1. note: not a parameter.
- one
- two

    python main.py --x=1"""
    assert as_rst(text, {"a", "b", "scale"}).split("\n\n") == [
        r"The sum of a\_ and \*b\*, ``c*d``.",
        "* **a, b**: numbers.",
        "* **scale**: a factor, at least 1. note: not a parameter.",
        "* one",
        "* two",
        "::",
        "    python main.py --x=1",
    ]


def test_signatures_leave_out_what_flax_adds():
    of_flax = "parent: Module | Scope | None = <flax object>, name: str | None = None)"
    for signature, expected in (
        (f"(maps: int = 2, {of_flax}", "(maps: int = 2)"),
        (f"({of_flax}", "()"),
        ("(name: str)", "(name: str)"),
        (None, None),
    ):
        assert shorten(None, "class", "Net", None, None, signature, None) == (expected, None)


def test_docstrings_of_other_packages_are_not_shown():
    for obj, shown in ((losses.mse, True), (jax.nn.softmax, False)):
        lines = obj.__doc__.splitlines()
        process(None, "method", "train_lib.losses.Loss.probabilities", obj, None, lines)
        assert bool(lines) is shown
