"""docs/gallery.md: its pictures exist, are small, and are made by commands that can be run."""

import fnmatch
import os
import pathlib
import re
import shlex
import struct

import pytest
from page_commands import check_flags, configured, parsed

from docs import gallery
from studies import engine
from train_lib.commands import inspect
from train_lib.pictures import lecture

ROOT = pathlib.Path(__file__).resolve().parents[1]
TEXT = gallery.PAGE.read_text(encoding="utf-8")
PICTURES = gallery.pictures(TEXT)
# What training writes to WORKDIR/plots.
PLOTS = ("learning_curves.png", "confusion_matrix.png", "misclassified.png")
PLOTS += ("first_layer_filters.png",)

each_picture = pytest.mark.parametrize("picture", PICTURES, ids=lambda p: p.path.stem)


def test_at_least_twenty_pictures_and_no_file_without_commands():
    assert len(PICTURES) >= 20
    assert len(PICTURES) == TEXT.count("![") == TEXT.count("```sh")
    paths = [picture.path for picture in PICTURES]
    assert len(set(paths)) == len({path.stem for path in paths}) == len(paths)
    assert set((ROOT / "docs" / "images" / "gallery").iterdir()) <= set(paths)


@each_picture
def test_pictures_are_small_and_described(picture):
    content = picture.path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n" and len(content) <= 150_000
    width, _ = struct.unpack(">II", content[16:24])
    assert 500 <= width <= 1900, "readable on a phone and on a desktop"
    assert len(picture.alternative) > 20
    paper = re.search(r"[.?]\s\([A-Z][^)]*\s(19|20)\d\d\b[^)]*\)", picture.caption)
    assert paper, "a sentence on what to see, and its paper in brackets"


@each_picture
def test_commands_can_be_run_and_write_the_picture(picture):
    """Each block is complete: it trains the network whose figure it copies."""
    trained, inspected, written = set(), set(), []
    for words in map(shlex.split, picture.commands):
        match words:
            case ["python", "main.py", *rest]:
                given = parsed(rest)
                check_flags(given)
                workdir = pathlib.Path(given["workdir"])
                assert workdir.parent == pathlib.Path(
                    "runs/gallery"
                )  # which `make gallery` removes
                if given.get("mode") == "inspect":
                    assert workdir in trained
                    inspected.add(workdir)
                else:
                    configured(given)
                    trained.add(workdir)
            case ["cp", source, target]:
                source = pathlib.Path(source)
                workdir, folder = source.parents[1], source.parent.name
                figures, ready = {
                    "inspection": (inspect.WRITTEN, inspected),
                    "plots": (PLOTS, trained),
                }[folder]
                assert workdir in ready
                assert any(fnmatch.fnmatch(source.name, figure) for figure in figures)
                written.append(target)
            case ["python", "-m", "train_lib.pictures.lecture", name, out]:
                assert name in lecture.FIGURES
                written.append(f"{out.removeprefix('--out=')}/{name}.png")
            case ["python", "-m", "studies", "report"]:
                assert picture.path.stem in engine.names()
                written.append(f"docs/studies/{picture.path.stem}.png")
            case _:
                pytest.fail(f"an unknown command: {words}")
    assert [ROOT / path for path in written] == [picture.path]


def test_a_run_has_one_command():
    """A run that stands in several blocks is trained once, in one way."""
    commands = {}
    for command in dict.fromkeys(c for picture in PICTURES for c in picture.commands):
        if "main.py" in command and "--mode=" not in command:
            workdir = re.search(r"--workdir=(\S+)", command)[1]
            assert commands.setdefault(workdir, command) == command
    assert 3 <= len(commands) <= 8


def page(folder: pathlib.Path, *blocks: tuple[str, str]) -> None:
    """A page in folder/docs of pictures (name, command) that stand in the same folder."""
    (folder / "docs").mkdir()
    entries = (
        f"![some words]({name}.png)\n\nSee.\n\n```sh\n{command}\n```\n" for name, command in blocks
    )
    (folder / "docs" / "gallery.md").write_text("".join(entries))


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A folder whose page is drawn in place of the repository's."""
    monkeypatch.setattr(gallery, "ROOT", tmp_path)
    monkeypatch.setattr(gallery, "PAGE", tmp_path / "docs" / "gallery.md")
    return tmp_path


def test_pictures_are_drawn_and_a_repeated_command_runs_once(made, capfd):
    once = "python -c \"open('runs.txt', 'a').write('x'); open('a.png', 'w').write('a')\""
    page(made, ("a", f"{once}\ncp a.png docs/a.png"), ("b", f"{once}\ncp a.png \\\n    docs/b.png"))
    assert gallery.main([]) == 0
    assert (made / "runs.txt").read_text() == "x"
    assert (made / "docs" / "a.png").exists() and (made / "docs" / "b.png").exists()
    out, err = capfd.readouterr()
    assert out.splitlines()[-1] == "pictures drawn: 2 of 2" and not err


def test_each_problem_is_one_line_and_the_other_pictures_are_drawn(made, capfd):
    message = "import sys; print('main.py: no data set', file=sys.stderr)"
    missing, defect = f'python -c "{message}; sys.exit(2)"', 'python -c "1 / 0"'
    page(
        made,
        ("a", missing),
        ("b", f"{missing}\ncp docs/gallery.md docs/b.png"),
        ("defect", defect),
        ("unwritten", "python -c pass"),
        ("large", "python -c \"open('docs/large.png', 'w').write(' ' * 150_001)\""),
        ("good", "cp docs/gallery.md docs/good.png"),
    )
    (made / "docs" / "unwritten.png").write_text("of an earlier time")
    os.utime(made / "docs" / "unwritten.png", (0, 0))
    assert gallery.main([]) == 2
    out, err = capfd.readouterr()
    assert out.splitlines()[-1] == "pictures drawn: 1 of 6"
    assert err.splitlines() == [
        "gallery: not drawn: a, b: main.py: no data set",
        f"gallery: not drawn: defect: {defect}: ZeroDivisionError: division by zero",
        "gallery: not drawn: unwritten: its commands did not write it",
        "gallery: not drawn: large: it has 150,001 bytes, more than 150,000: change its commands",
    ]
    assert not (made / "docs" / "b.png").exists()
    assert gallery.main(["good"]) == 0
    assert gallery.main(["gopd"]) == 2
    assert capfd.readouterr().err == (
        "gallery: no picture 'gopd': choose from a, b, defect, unwritten, large, good\n"
    )
