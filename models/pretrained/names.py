"""Weights by a list of names that the user writes: {"conv1/kernel": "their.name", ...} as JSON.

Our name is the path of a leaf without the collection, their name that of a tensor in the file. Each
must occur exactly once. The layout of the axes follows from the shapes and from the kind of file.
"""

import collections
import difflib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from errors import UserError, reported
from models import graph
from models.pretrained.entries import Entry, load, shapes

_COUNT = "num_batches_tracked"  # torch's; Canon has no such count


def read(path: pathlib.Path) -> dict[str, str]:
    """The names in a JSON file. Raises UserError, one line, for any other file."""
    advice = 'write a JSON object such as {"conv1/kernel": "features.0.weight"}'
    damage = (OSError, ValueError, RecursionError)
    with reported(f"cannot read the names in {path}", advice, *damage):
        pairs = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_no_twins)
    texts = list(pairs.values()) if isinstance(pairs, dict) else []
    if not texts or not all(isinstance(text, str) for text in texts):
        raise UserError(f"{path} holds no names: {advice}")
    return pairs


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    twins = _repeated([name for name, _ in pairs])
    if twins:
        raise ValueError(f"it names {twins[0]} twice")
    return dict(pairs)


def variables(
    module: nn.Module,
    tensors: Mapping[str, np.ndarray],
    input_shape,
    names: Mapping[str, str],
    channels_last: bool,
) -> dict[str, Any]:
    """`module`'s variables with the tensors that `names` gives to them.

    channels_last: their kernels are [k, k, in, out] and [in, out] (Keras), otherwise
    [out, in, k, k] and [out, in]. Raises UserError, naming the first ones, for unknown leaves or
    tensors, for a tensor named twice, and for leaves and tensors that are left out or of another
    shape.
    """
    expected = shapes(module, input_shape)
    leaves = {"/".join(path[1:]): path for path in expected}
    keys = list(names.values())
    _known("parameter of the model", list(names), list(leaves))
    _known("tensor of the file", keys, list(tensors))
    _complete("the model's parameters", leaves, names)
    needed = [name for name in tensors if name.split(".")[-1] != _COUNT]
    _complete("the file's tensors", needed, set(keys))
    twice = _repeated(keys)
    if twice:
        raise UserError(f"the names assign {_first(twice)} to two parameters: correct one of them")
    sides = _sides(module, input_shape)
    entries = []
    for ours, theirs in names.items():
        path = leaves[ours]
        layout, side = _layout(expected[path], tensors[theirs].ndim, channels_last)
        if layout == "linear" and len(expected[path]) == 2:
            side = sides.get(path[1:-1], 1)
        entries.append(Entry(path, theirs, layout, side))
    return load(module, entries, {name: tensors[name] for name in keys}, input_shape)


def _layout(shape: tuple[int, ...], their_axes: int, channels_last: bool) -> tuple[str, int]:
    """Layout and side (see `Entry`) of a leaf of `shape`."""
    if len(shape) == 4 and their_axes == 4:
        return ("same" if channels_last else "conv"), 1
    if len(shape) in (2, 4) and their_axes == 2:
        return ("rows" if channels_last else "linear"), shape[0] if len(shape) == 4 else 1
    return "same", 1


def _sides(module: nn.Module, input_shape) -> dict[tuple[str, ...], int]:
    """The side of the map that each layer with a kernel [in, out] flattens, by the layer's path.

    torch flattens a map channel by channel, Canon pixel by pixel. Raises UserError for a map that
    is not square.
    """
    variables, images, rngs = graph.abstract(module, input_shape)
    calls, _ = graph.trace(module, variables, images, train=True, rngs=rngs)
    sides = {}
    for layer, shape in ((call.layer, call.in_shape) for call in calls):
        if getattr(layer, "window", 0) is None:
            if len(shape) == 3 and shape[0] != shape[1]:
                raise UserError(
                    f"the input of {'/'.join(layer.path)} is a map of {shape[0]}x{shape[1]}: give a"
                    " square image size"
                )
            sides[layer.path] = shape[0] if len(shape) == 3 else 1
    return sides


def _known(kind: str, names: list[str], known: list[str]) -> None:
    """Raises UserError for names that are not `known`, with the nearest to the first."""
    every = set(known)
    unknown = [name for name in names if name not in every]
    if unknown:
        near = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"the first is called {known[0]}"
        raise UserError(f"no {kind} is called {_first(unknown)}: {hint}")


def _complete(group: str, needed, given) -> None:
    missing = [name for name in needed if name not in given]
    if missing:
        raise UserError(
            f"the names leave out {len(missing)} of {group} ({_first(missing)}): add them"
        )


def _repeated(names: list[str]) -> list[str]:
    return [name for name, count in collections.Counter(names).items() if count > 1]


def _first(names: list[str]) -> str:
    return "; ".join(names[:3]) + ("; ..." if len(names) > 3 else "")
