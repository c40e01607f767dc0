"""Options of a network: the fields that a config sets, each with a rule for its values."""

import dataclasses
from typing import Any

from configs.rules import Rule, between, choice, whole
from configs.schema import SECTIONS, choices

INITIALIZERS = choices("model.initializer")
COUNT = whole(1, 10**6)
PIECES_OR_PUBLISHED = Rule(
    lambda value: whole(0, 1000).allows(value) and value != 1, "0 (as published) or at least 2"
)
WIDTH = between(0, 4, "(]")
MULTIPLE_OF_32 = Rule(
    lambda value: whole(1, 2**16).allows(value) and value % 32 == 0, "a multiple of 32"
)
SIZES = Rule(
    lambda sizes: isinstance(sizes, tuple | list) and all(map(whole(1, 10**9).allows, sizes)),
    "a tuple of whole numbers, such as (300, 100), or () for none",
)


def option(default: Any, allowed: tuple | Rule = (False, True)) -> Any:
    """A dataclass field that a config sets. allowed: its values, or a rule for them.

    A subclass that only changes the default need not repeat what is allowed.
    """
    rule = allowed if isinstance(allowed, Rule) else choice(*allowed)
    return dataclasses.field(default=default, metadata={"rule": rule})


def shared_option(name: str) -> Any:
    """An option of every network, with default and rule from `configs.schema`."""
    field = SECTIONS["model"][name]
    return option(field.default, field.rule)
