"""Options of a network: the fields that a config sets, each with the values that it may have."""

import dataclasses
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Rule:
    """A test of an option's value, and what an error message says where the test fails."""

    holds: Callable[[Any], bool]
    message: str


def _number(kind, holds, message) -> Rule:
    return Rule(lambda v: isinstance(v, kind) and not isinstance(v, bool) and holds(v), message)


RATE = _number((int, float), lambda v: 0 <= v < 1, "must be at least 0 and less than 1")
POSITIVE = _number((int, float), lambda v: 0 < v < 1e6, "must be a number more than 0")
NUMBER = _number((int, float), lambda v: abs(v) < 1e6, "must be a number")
COUNT = _number(int, lambda v: 1 <= v < 1e6, "must be a whole number of at least 1")
PIECES = _number(int, lambda v: 2 <= v < 1e3, "must be a whole number of at least 2")
PIECES_OR_PUBLISHED = _number(
    int, lambda v: v == 0 or 2 <= v < 1e3, "must be 0 (as published) or at least 2"
)
MULTIPLE_OF_32 = _number(int, lambda v: 0 < v <= 2**16 and v % 32 == 0, "must be a multiple of 32")
SIZES = Rule(
    lambda v: isinstance(v, tuple | list) and all(isinstance(n, int) and 0 < n < 1e9 for n in v),
    "must be a tuple of whole numbers, such as (300, 100), or () for none",
)


def option(default: Any, allowed: tuple | Rule = (False, True)) -> Any:
    """A dataclass field that a config sets. allowed: its values, or a rule for them.

    A subclass that only changes the default need not repeat what is allowed.
    """
    return dataclasses.field(default=default, metadata={"allowed": allowed})
