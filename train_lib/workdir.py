"""The folder of a run: its config, and what it says about its data set."""

import dataclasses
import json
import pathlib
import tempfile

from ml_collections import ConfigDict

from configs import compare
from errors import UserError, printable, reported
from input_pipeline import cache
from input_pipeline import statistics as statistics_lib
from input_pipeline.split import Info, check_classes
from models import registry

CONFIG = "config.json"
DATASET = "dataset.json"
STATISTICS = "statistics.npz"
_OTHER_WORKDIR = "choose another --workdir"


def write_bytes(path: pathlib.Path, content: bytes) -> None:
    """Writes a file whole or not at all. Raises OSError."""
    cache.write_whole(path, lambda file: file.write(content))


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a file whole or not at all. Raises UserError."""
    with reported(f"cannot write {path}", _OTHER_WORKDIR, OSError):
        write_bytes(path, text.encode())


def read_config(workdir: pathlib.Path) -> ConfigDict:
    """The config that a run was made with. Raises UserError if it cannot be read."""
    return _upgraded(compare.read(workdir / CONFIG))


def config_from_json(text: str) -> ConfigDict:
    """A stored config, perhaps of an older version. Raises ValueError for a text without one."""
    return _upgraded(compare.from_json(text))


def _upgraded(config: ConfigDict) -> ConfigDict:
    registry.upgrade(config.model)
    return config


def check_same_config(
    workdir: pathlib.Path, config: ConfigDict, allow_change: bool = False
) -> None:
    """Raises UserError, naming the differences, if the folder's run has another config.

    allow_change: True to resume with another config. A model that is fitted already is never
    changed: its one step is over.
    """
    if not (workdir / CONFIG).exists():
        return
    if config.model.name in registry.FITTED and has_checkpoints(workdir):
        _check_fields(workdir, config, "", f"it is fitted already: {_OTHER_WORKDIR}")
    elif not allow_change:
        advice = f"{_OTHER_WORKDIR}, or resume with the new config: --allow_config_change"
        _check_fields(workdir, config, "", advice)


def check_complete(workdir: pathlib.Path) -> None:
    """Raises UserError for a run whose config, or facts about its data set, are gone."""
    missing = [name for name in (CONFIG, DATASET) if not (workdir / name).exists()]
    if missing and has_checkpoints(workdir):
        raise UserError(
            f"{workdir} has checkpoints but no {' and no '.join(missing)}: restore the file, or"
            " choose another --workdir"
        )


def check_same_data(workdir: pathlib.Path, info: Info, train_examples: int = 0) -> None:
    """Raises UserError if the folder's run was trained on other data: classes, number of images.

    train_examples: the size of the training split; 0: it may differ.
    """
    if not (workdir / DATASET).exists():
        return
    stored = read_info(workdir)
    check_classes(str(workdir), stored.class_names, info)
    if train_examples and stored.train_examples not in (0, train_examples):
        raise UserError(
            f"{workdir} was trained on {stored.train_examples:,} images and the data set has"
            f" {train_examples:,} now: choose another --workdir, or resume with the new images:"
            " --allow_config_change"
        )


def check_readable(workdir: pathlib.Path, config: ConfigDict, prefixes: tuple[str, ...]) -> None:
    """Raises UserError unless the folder holds a run with a checkpoint, of the same network.

    prefixes: the fields whose names begin with one of these must be equal to the run's.
    """
    if not (workdir / CONFIG).exists() or not (workdir / "checkpoints").is_dir():
        raise UserError(
            f"no run in {workdir}: train one with --mode=train, or give the --workdir of a run"
        )
    _check_fields(workdir, config, prefixes, "give the config that it was trained with")
    if not has_checkpoints(workdir):
        raise UserError(f"no checkpoint in {workdir}: train first, with --mode=train")


def different_fields(
    workdir: pathlib.Path, config: ConfigDict, prefixes: str | tuple[str, ...] = ""
) -> list[str]:
    """ "name: stored -> now" for every field in which a run's stored config and a config differ.

    prefixes: only fields whose names begin with one of these are compared. Raises UserError for a
    folder without a run.
    """
    return compare.differences(compare.flatten(read_config(workdir)), config, prefixes)


def _check_fields(workdir: pathlib.Path, config: ConfigDict, prefixes, advice: str) -> None:
    if differences := different_fields(workdir, config, prefixes):
        raise UserError(
            f"{workdir} was made with another config ({'; '.join(differences)}): {advice}"
        )


def check_run(workdir: pathlib.Path, field: str) -> None:
    """Raises UserError unless the folder holds a run with a checkpoint. field: what names it."""
    if not (workdir / CONFIG).is_file() or not has_checkpoints(workdir):
        raise UserError(
            f"{field}={workdir}: there is no run with a checkpoint: train one there first"
        )


def has_checkpoints(workdir: pathlib.Path) -> bool:
    """Whether the folder holds a checkpoint, good or damaged."""
    folders = (workdir / "checkpoints", workdir / "checkpoints" / "replaced")
    return any(entry.name.isdecimal() for folder in folders for entry in folder.glob("*"))


def make_writable(workdir: pathlib.Path) -> None:
    """Makes the folder if it does not exist. Raises UserError if it cannot be written."""
    with reported(f"cannot write to {workdir}", _OTHER_WORKDIR, OSError):
        workdir.mkdir(parents=True, exist_ok=True)
        tempfile.NamedTemporaryFile(dir=workdir).close()


def write_description(
    workdir: pathlib.Path,
    config: ConfigDict,
    info: Info,
    statistics: statistics_lib.Statistics | None = None,
    train_examples: int = 0,
) -> None:
    """Stores the config, facts about the data set and, if there are any, its statistics.

    Statistics of a run that has a checkpoint stay.
    """
    write_text(workdir / CONFIG, compare.to_json(config))
    description = {
        "name": info.name,
        "class_names": info.class_names,
        "image_shape": info.image_shape,
        "train_examples": train_examples,
    }
    if info.copy:
        description["copy"] = dataclasses.asdict(info.copy)
    write_text(workdir / DATASET, json.dumps(description, indent=2) + "\n")
    path = workdir / STATISTICS
    if statistics is not None and not (path.exists() and has_checkpoints(workdir)):
        with reported(f"cannot write {path}", _OTHER_WORKDIR, OSError):
            statistics.save(path)


def read_statistics(workdir: pathlib.Path) -> statistics_lib.Statistics | None:
    """The statistics that the run stored; None if it has none. Raises UserError if damaged."""
    path = workdir / STATISTICS
    return statistics_lib.load(path) if path.exists() else None


def read_info(workdir: pathlib.Path) -> Info:
    """Facts about a run's data set, without the set; its image_shape is None if not stored.

    Raises UserError for a file that is missing or damaged.
    """
    path = workdir / DATASET
    kinds = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)
    with reported(f"cannot read {path}", f"check that {workdir} is the folder of a run", *kinds):
        stored = json.loads(path.read_text())
        if not isinstance(stored, dict):
            raise ValueError("it has no fields")
        return checked_info(
            str(stored["name"]),
            stored.get("image_shape"),
            stored["class_names"],
            stored.get("train_examples", 0),
        )


def checked_info(name: str, image_shape, class_names, train_examples) -> Info:
    """Facts about a data set that were read from JSON. image_shape may be None, unknown.

    Raises ValueError for anything that is not a shape, a list of names, or a number of examples.
    """
    if not isinstance(class_names, list) or not class_names:
        raise ValueError("it has no list of class names")
    for class_name in class_names:
        if not isinstance(class_name, str) or class_name != printable(class_name):
            raise ValueError(f"{class_name!r} is not the name of a class")
    if type(train_examples) is not int or train_examples < 0:
        raise ValueError(f"{train_examples!r} is not a number of examples")
    if image_shape is not None:
        sides = image_shape if isinstance(image_shape, list) else ()
        is_whole = all(type(side) is int and 0 <= side < 2**16 for side in sides)
        if not is_whole or len(sides) != 3 or sides[2] not in (1, 3):
            raise ValueError(f"{image_shape!r} is not an image shape")
        image_shape = tuple(sides)
    return Info(name, image_shape, tuple(class_names), train_examples=train_examples)
