"""What a config field is made of: a default, a rule for its values, and its meaning."""

import dataclasses
import difflib
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

LARGEST_INT = 2**31 - 1  # steps are counted in int32
MOST_PIXELS = 2**16  # of a side; a square of such sides is 64 times the largest that Pillow reads


@dataclasses.dataclass(frozen=True)
class Rule:
    """Which values a field may have.

    text: completes "must be ...". choices: where the values are a few words, their meanings.
    by_layer: the field is a mapping {layer: value}, and the rule is for each value.
    """

    allows: Callable[[Any], bool]
    text: str
    choices: Mapping[str, str] | None = None
    by_layer: bool = False

    def problem(self, name: str, value: Any) -> str | None:
        """A line that names the field, its value and what it may be; None for a good value."""
        if self.by_layer:
            return self._problem_of_a_layer(name, value)
        if self.allows(value):
            return None
        near = difflib.get_close_matches(str(value), self.choices or (), n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        return f"{name}={value}: {hint}{self.advice}"

    def _problem_of_a_layer(self, name: str, values: ConfigDict) -> str | None:
        for layer, value in values.items():
            if not isinstance(layer, str):
                return f"{name}: {layer!r} is not the name of a layer"
            if not self.allows(value):
                return f"{name}.{layer}={value}: {self.advice}"
        return None

    @property
    def advice(self) -> str:
        return f"choose one of {self.text}" if self.choices else f"must be {self.text}"


@dataclasses.dataclass(frozen=True)
class Field:
    """A field of a config. Without a rule, every value of the default's type is allowed."""

    default: Any
    rule: Rule | None
    meaning: str


def more_than(low: float) -> Rule:
    """Numbers above a limit."""
    return Rule(lambda value: is_number(value) and value > low, f"more than {low}")


def at_least(low: float) -> Rule:
    """Numbers from a limit on."""
    return Rule(lambda value: is_number(value) and value >= low, f"{low} or more")


def up_to(high: int) -> Rule:
    """Numbers from 0 to a limit."""
    return Rule(lambda value: 0 <= value <= high, f"in 0 .. {high:,}")


def fraction(ends: str) -> Rule:
    """Between 0 and 1. ends: which of the two are allowed, in interval notation: "[)" is 0 only."""
    texts = {
        "[]": "in 0 .. 1",
        "[)": "0 or more and less than 1",
        "(]": "more than 0 and at most 1",
        "()": "more than 0 and less than 1",
    }

    def allows(value) -> bool:
        inside = 0 < value < 1
        return inside or (value == 0 and ends[0] == "[") or (value == 1 and ends[1] == "]")

    return Rule(lambda value: is_number(value) and allows(value), texts[ends])


def one_of(**choices: str) -> Rule:
    """One of a few words. choices: their meanings; empty for a word that explains itself."""
    return Rule(lambda value: value in choices, ", ".join(choices), choices)


def each(allows: Callable[[Any], bool], text: str) -> Rule:
    """A tuple of any length whose elements are all allowed."""
    return Rule(lambda values: all(map(allows, values)), text)


def each_of(rule: Rule, example: str) -> Rule:
    """A tuple of any length whose elements all satisfy a rule for numbers."""
    return each(rule.allows, f"numbers, each {rule.text}, such as {example}")


def by_layer(rule: Rule) -> Rule:
    """{layer: value}, with a rule for the values."""
    return dataclasses.replace(rule, by_layer=True)


def is_number(value: Any) -> bool:
    """Whether a value is a finite number, and no bool."""
    is_real = isinstance(value, int | float) and not isinstance(value, bool)
    return is_real and abs(value) <= sys.float_info.max


def is_pixels(value: Any) -> bool:
    """Whether a value can be the side of an image in pixels."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MOST_PIXELS


def type_problem(name: str, value: Any, default: Any) -> str | None:
    """A line on a value that is not of its default's type; None for one that is.

    A float may be given as an int and a tuple as a list, as in JSON.
    """
    expected = type(default)
    allowed = {float: (int, float), tuple: (tuple, list), dict: ConfigDict}.get(expected, expected)
    problem = None
    if not isinstance(value, allowed) or (isinstance(value, bool) and expected is not bool):
        problem = f"must be of type {expected.__name__}, as {default!r}"
    elif expected is int and abs(value) > LARGEST_INT:
        problem = "must be less than 2^31"
    elif expected is float and not is_number(value):
        problem = "must be a finite number"
    elif expected is str and not _is_possible_name(value):
        problem = "no file or data set can have this name"
    return problem and f"{name}={value}: {problem}"


def _is_possible_name(text: str) -> bool:
    """Whether the operating system accepts a text as a file's name or a part of one."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False
