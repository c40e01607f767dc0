"""Configs as they are stored, and the differences between two of them."""

import hashlib
import importlib.metadata
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from configs.schema import base, check_types
from errors import UserError, one_line, reported

# Where a machine keeps its files, and how many processes it uses for reading.
_MACHINE = ("dataset.data_dir", "dataset.cache_dir", "dataset.workers")
# These may change between the commands on a run.
_FREE = (
    *_MACHINE,
    "tracker",
    "dataset.on_bad_image",  # so that a run which ended at an unreadable image can continue
    *("evaluate.split", "evaluate.checkpoint", "evaluate.protocol", "evaluate.scales"),
    *("evaluate.multi_scale", "evaluate.crops", "evaluate.map_average", "evaluate.ensemble"),
    *("predict.invert", "predict.crop_to_ink", "predict.contact_sheet"),
)
_ABSENT = "not there"


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"model.name": "lenet5", ...}, with tuples as lists, as JSON stores them."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, ConfigDict | Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat


def differences(stored: Mapping[str, Any], config: ConfigDict, prefixes="") -> list[str]:
    """ "name: stored -> now" for every field in which a stored config and a config differ.

    stored: flattened. prefixes: one or several; only fields with such names are compared. Paths,
    and fields that say how a run is evaluated or used for prediction, may differ.
    """
    now = flatten(config)
    return [
        f"{name}: {stored.get(name, _ABSENT)} -> {now.get(name, _ABSENT)}"
        for name in {**stored, **now}
        if name.startswith(prefixes)
        and name not in _FREE
        and stored.get(name, _ABSENT) != now.get(name, _ABSENT)
    ]


def digest(mode: str, images: str, config: ConfigDict) -> str:
    """A word that is equal in processes with the same work, config and version of JAX."""
    flat = {name: value for name, value in flatten(config).items() if name not in _MACHINE}
    work = [mode, images, sorted(flat.items()), importlib.metadata.version("jax")]
    return hashlib.sha256(json.dumps(work).encode()).hexdigest()[:16]


def to_json(config: ConfigDict) -> str:
    """The text of config.json."""
    return json.dumps(config.to_dict(), indent=2) + "\n"


def read(path: pathlib.Path) -> ConfigDict:
    """The config in a run's config.json. Raises UserError if it cannot be read."""
    advice = "restore it, or choose another --workdir"
    with reported(f"cannot read {path}", advice, OSError, ValueError, RecursionError):
        return from_json(path.read_text())


def from_json(text: str) -> ConfigDict:
    """The config that `to_json` stored, perhaps in an older version of Canon.

    Fields that it lacks get their neutral values; fields that no longer exist stay. Raises
    ValueError for a text that holds no config.
    """
    stored = json.loads(text)
    if not isinstance(stored, dict):
        raise ValueError("it has no fields")
    try:
        config = ConfigDict(_over(base().to_dict(), stored))
        check_types(config)
    except (KeyError, TypeError, AttributeError, UserError) as error:  # also: impossible names
        raise ValueError(one_line(error)) from error
    return config


def _over(defaults: dict, stored: dict) -> dict:
    """`defaults` with the values of `stored`, section by section. Lists become tuples."""
    merged = dict(defaults)
    for name, value in stored.items():
        if isinstance(value, dict):
            default = defaults.get(name)
            merged[name] = _over(default if isinstance(default, dict) else {}, value)
        else:
            merged[name] = tuple(value) if isinstance(value, list) else value
    return merged
