"""ImageNet's 1,000 classes. The data set gives them WordNet ids, which people cannot read."""

import functools
import pathlib
import re
from collections.abc import Sequence

from input_pipeline.split import by_number

_FILE = pathlib.Path(__file__).with_name("imagenet_classes.txt")


@functools.cache
def class_names() -> dict[str, str]:
    """{"n01440764": "tench", ...} in the order of the outputs of published networks."""
    lines = _FILE.read_text(encoding="utf-8").splitlines()
    return dict(line.split(" ", 1) for line in lines if not line.startswith("#"))


def readable(name: str) -> str:
    """The English name of a class of ImageNet, for its WordNet id. Other names stay as they are."""
    return class_names().get(name, name)


def in_published_order(names: Sequence[str]) -> tuple[str, ...]:
    """The names of ImageNet's 1,000 classes in the order of the outputs of published networks.

    names: all numbers, all WordNet ids, or all English names. Of English names only letters and
    digits are compared. Upper case matters only between "Cardigan" (the dog) and "cardigan".
    Raises ValueError for other names.
    """
    if any(all(re.fullmatch(kind, name) for name in names) for kind in (r"\d+", r"n\d{8}")):
        return by_number(names)
    english = [_letters(name) for name in class_names().values()]
    numbers = {name.lower(): i for i, name in enumerate(english)}
    numbers |= {name: i for i, name in enumerate(english)}
    numbers |= {wordnet_id: i for i, wordnet_id in enumerate(class_names())}
    classes = {}
    for name in names:
        letters = _letters(name)
        number = numbers.get(letters, numbers.get(letters.lower()))
        if number is None or number in classes:
            count = "not a" if number is None else "a second"
            raise ValueError(f"{name} is {count} name of a class of ImageNet")
        classes[number] = name
    return tuple(classes[i] for i in sorted(classes))


def _letters(name: str) -> str:
    return "".join(filter(str.isalnum, name))
