"""docs/lecture.md: its commands can be run, sections of notebooks exist, no erratum is missing."""

import json
import pathlib
import re
import shlex

import pytest
from page_commands import check_flags, configured, parsed

from configs import compare, schema
from studies import engine
from train_lib.pictures import lecture

ROOT = pathlib.Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "lecture.md").read_text(encoding="utf-8")
PICTURES = ROOT / "docs" / "images" / "lecture"


def commands() -> list[list[str]]:
    """The words of every command of the page, from blocks of code and from cells."""
    found = re.findall(r"(?:`|^ *)(python [^`\n]*)", TEXT.replace("\\\n", " "), re.MULTILINE)
    return [shlex.split(command) for command in dict.fromkeys(found)]


def of_module(*module: str) -> list[list[str]]:
    """The arguments of the commands of a module or program."""
    return [words[len(module) :] for words in commands() if words[: len(module)] == [*module]]


OF_MAIN = [parsed(words) for words in of_module("python", "main.py")]
WORKDIRS = {
    given["workdir"]: given for given in OF_MAIN if "config" in given and "workdir" in given
}


def test_the_page_has_commands():
    kinds = {words[1] if words[1] != "-m" else words[2] for words in commands()}
    assert kinds == {"main.py", "studies", "train_lib.pictures.lecture"}
    assert len(OF_MAIN) > 20


@pytest.mark.parametrize("given", OF_MAIN, ids=" ".join)
def test_flags_configs_and_values_exist(given):
    check_flags(given)
    configured(WORKDIRS[given["workdir"]] | given if "config" not in given else given)
    for source in filter(None, (given.get("compare"), given.get("config.init_from"))):
        assert source in WORKDIRS, "no command of the page trains this run"


def test_commands_without_data_use_sets_that_need_none():
    for given in WORKDIRS.values():
        config = configured(given)
        assert config.dataset.data_dir or config.dataset.name == "digits", given


def test_studies_exist():
    fields = compare.flatten(schema.base())
    for words in filter(None, of_module("python", "-m", "studies")):
        assert words[0] == "run" and words[1] in [*engine.names(), "NAME"]
        if (ROOT / "docs" / "studies" / f"{words[1]}.md").exists():
            assert f"](studies/{words[1]}.md)" in TEXT, "its result"
        for word in words[2:]:
            assert word.partition("=")[0] == "--set"
            assert word.removeprefix("--set=").partition("=")[0] in fields
    named = set(re.findall(r"`python -m studies run (\w+)", TEXT)) - {"NAME"}
    assert len(named) > 10


def test_pictures_are_drawn_shown_and_small():
    drawn = {words[0] for words in of_module("python", "-m", "train_lib.pictures.lecture")}
    assert drawn - {"NAME"} == lecture.FIGURES.keys()
    shown = set(re.findall(r"!\[[^\]]{10,}\]\(images/lecture/(\w+)\.png\)", TEXT))
    assert shown == {path.stem for path in PICTURES.glob("*")} == lecture.FIGURES.keys()
    assert max(path.stat().st_size for path in PICTURES.glob("*")) <= 150_000


def test_each_erratum_stands_once():
    numbers = [int(number) for number in re.findall(r"\*\*D(\d+)\.\*\*", TEXT)]
    assert sorted(numbers) == list(range(1, 23))


def test_sections_of_notebooks_exist():
    link = r"\(\.\./notebooks/(\w+)\.ipynb\), sections? (?:\"([^\"]+)\"|(\d)(?: (?:and|to) (\d))?)"
    found = re.findall(link, TEXT)
    assert len(found) == TEXT.count(".ipynb)") > 20
    for name, title, first, last in found:
        cells = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text("utf-8"))["cells"]
        lines = [line.strip() for cell in cells for line in cell["source"]]
        headings = [line.lstrip("# ") for line in lines if line.startswith("##")]
        if title:
            assert title in headings, (name, title)
        for number in filter(None, (first, last)):
            assert any(heading.startswith(f"{number}. ") for heading in headings), (name, number)


def test_the_table_of_connections_is_the_network_s():
    rows = re.findall(r"^\| (full|local|shared) \| ([\d,]+) \| ([\d,]+) \|", TEXT, re.MULTILINE)
    printed = [tuple(int(cell.replace(",", "")) for cell in row[1:]) for row in rows]
    assert printed == list(lecture.connectivity_weights().values())
