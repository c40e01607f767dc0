"""Layers, parameters and statistics by patterns of their names, in which `*` matches anything."""

import fnmatch
from collections.abc import Collection, Mapping, Sequence

from errors import UserError


def matching(names: Sequence[str], patterns: Sequence[str], field: str) -> list[str]:
    """The names that match a pattern without "!" and no pattern that begins with "!".

    names: of parameters and statistics, like "conv1/kernel". If there is no pattern without "!",
    every name matches. field: the config field of the patterns.
    Raises UserError for a pattern that matches no name.
    """

    def matches(name, patterns):
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)

    for pattern in patterns:
        bare = pattern.removeprefix("!")
        if not any(matches(name, [bare]) for name in names):
            is_layer = any(matches(name, [f"{bare}/*"]) for name in names)
            advice = f": for the whole layer write {pattern}/*" if is_layer else ""
            raise UserError(
                f"config.{field}: {pattern} matches no parameter of this network, which has"
                f" {', '.join(names[:3])}, ...{advice}"
            )
    included = [p for p in patterns if not p.startswith("!")] or ["*"]
    excluded = [p[1:] for p in patterns if p.startswith("!")]
    return [name for name in names if matches(name, included) and not matches(name, excluded)]


def by_layer(values: Mapping[str, float], layers: Collection[str], field: str) -> dict[str, float]:
    """{layer: value} for the layers that `values` names, alone or by patterns.

    values: {"fc6": 0.0, "conv5_*": 0.1}. A layer's own name goes before patterns. field: the config
    field of the values.
    Raises UserError for a name or pattern of no layer, and for two patterns for the same layer.
    """
    for pattern in values:
        if not fnmatch.filter(layers, pattern):
            raise UserError(
                f"config.{field}.{pattern}: there is no such layer: choose one of"
                f" {', '.join(sorted(layers))}"
            )
    chosen = {}
    for layer in layers:
        fitting = [pattern for pattern in values if fnmatch.fnmatchcase(layer, pattern)]
        if layer in values:
            fitting = [layer]
        if len(fitting) > 1:
            raise UserError(
                f"config.{field}: {' and '.join(sorted(fitting))} both match {layer}: change one of"
                f" the patterns, or give {layer} a value of its own"
            )
        if fitting:
            chosen[layer] = values[fitting[0]]
    return chosen
