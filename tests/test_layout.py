"""The layout of DESIGN.md: which room may import which, no circle, and the size of two places."""

import ast
import pathlib

ROOT = pathlib.Path(__file__).parents[1]

# The rooms from the top to the bottom. A file imports its own room and the levels below it, never
# its own level's other rooms. The longest name that a module begins with is the module's room.
LEVELS = (
    {"main", "studies"},
    {"train_lib.commands", "train_lib.train"},
    {"train_lib"},  # experiment, evaluation/, pictures/, weights/ and the other files
    {"train_lib.distributed"},
    {"models", "input_pipeline"},
    {"configs"},
    {"command_line"},
    {"errors"},
)
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
# Modules of operating systems, and private ones: only train_lib/distributed/ imports them.
OF_DISTRIBUTED = (
    *("ctypes", "fcntl", "signal", "jaxlib", "jax._src"),
    *("multiprocessing.resource_tracker", "multiprocessing.shared_memory"),
)


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
    """The names that a file imports anywhere, also within functions."""
    found = set()
    for node in ast.walk(ast.parse(FILES[name].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import"
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= members
            if members - FILES.keys():  # names of the module itself
                found.add(node.module)
    return found


ALL_IMPORTS = {name: imported_by(name) for name in FILES}
IMPORTS = {name: found & FILES.keys() - {name} for name, found in ALL_IMPORTS.items()}


def room_of(name: str) -> str:
    rooms = [room for room in LEVEL if name == room or name.startswith(f"{room}.")]
    return max(rooms, key=len)


def test_the_walk_sees_imports():
    assert {"train_lib.steps", "errors"} <= IMPORTS["train_lib.train"]
    assert "train_lib.train" in IMPORTS["main"]  # within a function
    assert {"signal", "jax._src.xla_bridge"} <= set().union(*ALL_IMPORTS.values())
    assert room_of("train_lib.commands.evaluate") == "train_lib.commands"
    assert room_of("train_lib.experiment") == "train_lib"


def test_imports_point_downwards():
    upward = {
        (name, other)
        for name, imports in IMPORTS.items()
        for other in imports
        if room_of(name) != room_of(other) and LEVEL[room_of(name)] >= LEVEL[room_of(other)]
    }
    assert not upward


def test_no_file_imports_itself_through_others():
    def reached_from(name: str) -> set[str]:
        reached, pending = set(), [name]
        while pending:
            new = IMPORTS[pending.pop()] - reached
            reached |= new
            pending += new
        return reached

    assert not {name for name in FILES if name in reached_from(name)}


def test_only_distributed_knows_operating_systems_and_private_modules():
    elsewhere = {
        (name, other)
        for name, imports in ALL_IMPORTS.items()
        for other in imports
        if f"{other}.".startswith(tuple(f"{module}." for module in OF_DISTRIBUTED))
        and room_of(name) != "train_lib.distributed"
    }
    assert not elsewhere


def test_two_places_stay_small():
    assert len(list((ROOT / "train_lib").glob("*.py"))) - 1 <= 12  # beside __init__.py
    assert len((ROOT / "main.py").read_text().splitlines()) <= 100
