"""The layout of DESIGN.md: which room may import which, no circle, and the size of two places."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]

# The rooms from the top to the bottom. A file imports its own room and the levels below it, never
# its own level's other rooms. The longest name that a module begins with is the module's room.
LEVELS = (
    {"main", "studies"},
    {"train_lib.commands", "train_lib.train"},
    {"train_lib"},  # experiment, evaluation/, pictures/ and the other files
    {"train_lib.distributed"},
    {"models", "input_pipeline"},
    {"configs"},
    {"errors"},
)
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}

# What is not true yet. The test fails when an exception is no longer needed: take it off then.
KNOWN_BACKWARD: set[tuple[str, str]] = set()
KNOWN_IN_CIRCLES: set[str] = set()
KNOWN_FILES_OF_TRAIN_LIB = 12  # beside __init__.py; 12 is the aim
KNOWN_LINES_OF_MAIN = 100  # 100 is the aim


def product_files() -> dict[str, pathlib.Path]:
    """Every Python file of the product by its module's name."""
    folders = {room.partition(".")[0] for room in LEVEL}
    paths = [
        path
        for folder in folders
        for path in [ROOT / f"{folder}.py", *(ROOT / folder).rglob("*.py")]
        if path.exists()
    ]
    names = (".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths)
    return {name.removesuffix(".__init__"): path for name, path in zip(names, paths, strict=True)}


FILES = product_files()


def imported_by(name: str) -> set[str]:
    """The product's modules that a file imports anywhere, also within functions."""
    found = set()
    for node in ast.walk(ast.parse(FILES[name].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import"
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {member if member in FILES else node.module for member in members}
    return found & FILES.keys() - {name}


IMPORTS = {name: imported_by(name) for name in FILES}


def room_of(name: str) -> str:
    rooms = [room for room in LEVEL if name == room or name.startswith(f"{room}.")]
    return max(rooms, key=len)


def test_the_walk_sees_imports():
    assert {"train_lib.steps", "errors"} <= IMPORTS["train_lib.train"]
    assert "train_lib.train" in IMPORTS["main"]  # within a function
    assert room_of("train_lib.commands.evaluate") == "train_lib.commands"
    assert room_of("train_lib.experiment") == "train_lib"


def test_imports_point_downwards():
    backward = {
        (name, other)
        for name, imports in IMPORTS.items()
        for other in imports
        if room_of(name) != room_of(other) and LEVEL[room_of(name)] >= LEVEL[room_of(other)]
    }
    assert backward == KNOWN_BACKWARD


def test_no_file_imports_itself_through_others():
    def reached_from(name: str) -> set[str]:
        reached, pending = set(), [name]
        while pending:
            new = IMPORTS[pending.pop()] - reached
            reached |= new
            pending += new
        return reached

    assert {name for name in FILES if name in reached_from(name)} == KNOWN_IN_CIRCLES


@pytest.mark.parametrize(
    ("size", "aim", "known"),
    [
        (len(list((ROOT / "train_lib").glob("*.py"))) - 1, 12, KNOWN_FILES_OF_TRAIN_LIB),
        (len((ROOT / "main.py").read_text().splitlines()), 100, KNOWN_LINES_OF_MAIN),
    ],
    ids=["files of train_lib", "lines of main.py"],
)
def test_two_places_stay_small(size, aim, known):
    assert size <= known
    assert known == aim or size > aim, "the aim is reached: write it above"
