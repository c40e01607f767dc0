"""ImageNet's 1,000 classes. The data set gives them WordNet ids, which people cannot read."""

import functools
import pathlib

_FILE = pathlib.Path(__file__).with_name("imagenet_classes.txt")


@functools.cache
def class_names() -> dict[str, str]:
    """{"n01440764": "tench", ...} in the order of the outputs of published networks."""
    lines = _FILE.read_text(encoding="utf-8").splitlines()
    return dict(line.split(" ", 1) for line in lines if not line.startswith("#"))


def readable(name: str) -> str:
    """The English name of a class of ImageNet, for its WordNet id. Other names stay as they are."""
    return class_names().get(name, name)
