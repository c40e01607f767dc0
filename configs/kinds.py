"""Whether a config has every field that configs have, each with a value of its kind.

On the command line ConfigDict sees to that; a config from a file, or from Python, can hold
anything. Imports nothing heavy.
"""

import os
import sys
from typing import Any

from ml_collections import ConfigDict

LARGEST_INT = 2**31 - 1  # steps are counted in int32


def is_number(value: Any) -> bool:
    """Whether it is a finite number, and no bool."""
    is_one = isinstance(value, int | float) and not isinstance(value, bool)
    return is_one and abs(value) <= sys.float_info.max


def wrong(config: ConfigDict, like: ConfigDict, under: str = "config.") -> str | None:
    """What is wrong with the first field that is no such thing as its namesake in `like`."""
    for key, example in like.items():
        name = under + key
        if key not in config:
            return f"{name} is missing"
        value = config[key]
        if not isinstance(example, ConfigDict):
            what = _wrong_value(value, example)
            found = what and f"{name}={value}: {what}"
        elif isinstance(value, ConfigDict):
            found = wrong(value, example, f"{name}.")
        else:
            found = f"{name}={value}: must be fields with values"
        if found:
            return found
    return None


def _wrong_value(value, example) -> str | None:
    kind = type(example)
    allowed = {float: (int, float), tuple: (tuple, list)}.get(kind, kind)
    if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
        return f"must be of type {kind.__name__}, as {example!r}"
    if kind is int and abs(value) > LARGEST_INT:
        return "must be less than 2^31"
    if kind is float and not is_number(value):
        return "must be a finite number"
    if kind is str and not _is_name(value):
        return "no file or data set can be called so"
    return None


def _is_name(text: str) -> bool:
    """Whether the operating system takes it as a file's name or a part of one."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False
