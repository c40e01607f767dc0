"""What a config field is made of: a default, a rule for its values, and its meaning."""

import dataclasses
import difflib
import os
import sys
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from errors import UserError

LARGEST_INT = 2**31 - 1  # steps are counted in int32


@dataclasses.dataclass(frozen=True)
class Rule:
    """Which values a field may have. text: completes "must be ...". choices: if they are few."""

    allows: Callable[[Any], bool]
    text: str
    choices: tuple = ()

    def check(self, name: str, value: Any) -> None:
        """Raises UserError, naming the field, its value and what it may be, for a wrong value."""
        if self.allows(value):
            return
        advice = f"must be {self.text}"
        if self.choices:
            near = difflib.get_close_matches(str(value), map(str, self.choices), n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            advice = f"{hint}choose one of {self.text}"
        raise UserError(f"{name}={value}: {advice}")


class RuleByLayer(Rule):
    """A rule for the values of a mapping {layer: value}."""

    def check(self, name: str, value: Any) -> None:
        """Raises UserError for the first wrong value."""
        for layer, number in value.items():
            if not isinstance(layer, str):
                raise UserError(f"{name}: {layer!r} is not the name of a layer")
            super().check(f"{name}.{layer}", number)


@dataclasses.dataclass(frozen=True)
class Field:
    """A field of a config. Without a rule, every value of the default's type is allowed."""

    default: Any
    meaning: str
    rule: Rule | None = None


def whole(low: int, high: int) -> Rule:
    """Whole numbers from low to high."""
    return Rule(
        lambda value: is_number(value) and isinstance(value, int) and low <= value <= high,
        f"a whole number from {low} to {high:,}",
    )


def between(low: float, high: float, ends: str = "[]") -> Rule:
    """Numbers in an interval. ends: "[" or "(", "]" or ")": whether low and high belong to it."""

    def allows(value) -> bool:
        at_an_end = (value == low and ends[0] == "[") or (value == high and ends[1] == "]")
        return is_number(value) and (low < value < high or at_an_end)

    lower, upper = {"[": "at least", "(": "more than"}, {"]": "at most", ")": "less than"}
    text = f"{lower[ends[0]]} {low:,} and {upper[ends[1]]} {high:,}"
    return Rule(allows, f"from {low:,} to {high:,}" if ends == "[]" else text)


def choice(*values: Any) -> Rule:
    """One of a few values."""
    return Rule(lambda value: value in values, ", ".join(map(str, values)), values)


def one_of(words: str) -> Rule:
    """One of a few words, which are given with spaces between them."""
    return choice(*words.split())


def each(rule: Rule, example: str) -> Rule:
    """A tuple of any length, with a rule for its values."""
    text = f"values, each {rule.text}, such as {example}"
    return Rule(lambda values: all(map(rule.allows, values)), text)


def pair(rule: Rule) -> Rule:
    """A tuple of two values, which give a range, with a rule for both."""

    def allows(values) -> bool:
        return len(values) == 2 and all(map(rule.allows, values)) and values[0] <= values[1]

    return Rule(allows, f"two values, each {rule.text}, the smaller one first")


def by_layer(rule: Rule) -> RuleByLayer:
    """A mapping {layer: value}, with a rule for its values."""
    return RuleByLayer(rule.allows, rule.text)


def is_number(value: Any) -> bool:
    """Whether a value is a finite number, and no bool."""
    is_real = isinstance(value, int | float) and not isinstance(value, bool)
    return is_real and abs(value) <= sys.float_info.max


def check_type(name: str, value: Any, default: Any) -> None:
    """Raises UserError for a value that is not of its default's type.

    A float may be given as an int and a tuple as a list, as in JSON.
    """
    expected = type(default)
    allowed = {float: (int, float), tuple: (tuple, list), dict: ConfigDict}.get(expected, expected)
    if not isinstance(value, allowed) or (isinstance(value, bool) and expected is not bool):
        problem = f"must be of type {expected.__name__}, such as {default!r}"
    elif expected is int and abs(value) > LARGEST_INT:
        problem = "must be less than 2^31"
    elif expected is float and not is_number(value):
        problem = "must be a finite number"
    elif expected is str and not _is_possible_name(value):
        problem = "no file or data set can have this name"
    else:
        return
    raise UserError(f"{name}={value}: {problem}")


def _is_possible_name(text: str) -> bool:
    """Whether the operating system accepts a text as a file's name or a part of one."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


POSITIVE = Rule(lambda value: is_number(value) and value > 0, "more than 0")
FROM_0 = Rule(lambda value: is_number(value) and value >= 0, "0 or more")
FROM_1 = Rule(lambda value: is_number(value) and value >= 1, "1 or more")
NUMBER = between(-(10**6), 10**6)
FRACTION = between(0, 1, "[)")
# A square of the largest sides is 64 times the largest that Pillow reads.
PIXELS = between(0, 2**16)
SIDE = dataclasses.replace(whole(1, 2**16), text="a whole number of pixels")
