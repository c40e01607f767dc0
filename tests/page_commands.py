"""Commands of main.py that a page shows: their flags, and the configs that they describe."""

import ast
import functools
import operator
import pathlib
import re

from absl import flags

import main  # noqa: F401  (defines the flags)
from configs import schema
from configs.load import load
from models import registry

ROOT = pathlib.Path(__file__).resolve().parents[1]


def parsed(words: list[str]) -> dict[str, str]:
    """The flags of a command of main.py."""
    assert all(re.fullmatch(r"--[\w.]+=.+", word) for word in words), words
    return dict(word[2:].split("=", 1) for word in words)


def check_flags(given: dict[str, str]) -> None:
    """Fails for a flag that does not exist, or a value that it does not take."""
    for name, value in given.items():
        if not name.startswith("config"):
            flags.FLAGS[name].parser.parse(value)


def configured(given: dict[str, str]):
    """The config of a command with its overrides. Fails for a field that does not exist."""
    file, _, argument = given["config"].partition(":")
    assert (ROOT / file).exists()
    config = load(":".join(filter(None, (pathlib.Path(file).stem, argument))))
    changed = {name[7:]: value for name, value in given.items() if name.startswith("config.")}
    for field, value in changed.items():
        *sections, last = field.split(".")
        section = functools.reduce(operator.getitem, sections, config)
        assert last in section, field
        section[last] = value if isinstance(section[last], str) else ast.literal_eval(value)
    schema.validate(config, given=changed.keys())
    registry.create(config.model, num_classes=10)
    return config
