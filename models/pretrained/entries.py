"""The correspondence between a network's variables and the tensors of another framework.

A list of `Entry` describes it for a whole network. Import and export use the same list, so a round
trip is exact to the bit.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from errors import UserError
from models import graph, sound


class Entry(NamedTuple):
    """A tensor in Canon ("ours") and in the other framework ("theirs").

    path: of the leaf in our variables, collection first: ("params", "conv1", "kernel"). None for
        torch's count of BatchNorm's updates, which Canon does not have: imports ignore it, exports
        write 0.
    key: name of the tensor in the other framework.
    layout: of the axes. "same": equal in both. "conv": ours [k, k, in, out], theirs
        [out, in, k, k]. "linear": ours [side, side, c, out], or that flattened to
        [side * side * c, out], theirs [out, c * side * side]. "rows": ours as for "linear", theirs
        [side * side * c, out] with the rows in our order (Keras).
    side: of the map that a linear layer sees; 1 if it sees a vector.
    """

    path: tuple[str, ...] | None
    key: str
    layout: str = "same"
    side: int = 1

    def their_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Their shape of a tensor whose shape in Canon is `shape`."""
        if self.layout == "same":
            return shape
        if self.layout == "conv":
            return (shape[3], shape[2], *shape[:2])
        rows = math.prod(shape[:-1])
        return (rows, shape[-1]) if self.layout == "rows" else (shape[-1], rows)

    def to_theirs(self, leaf) -> np.ndarray:
        """A copy of our tensor in their layout."""
        shape = np.shape(leaf)
        if self.layout in ("same", "rows"):
            return np.array(leaf).reshape(self.their_shape(shape))
        spread = np.asarray(leaf).reshape(*self._sides(shape), -1, shape[-1])
        return np.array(spread.transpose(3, 2, 0, 1), order="C").reshape(self.their_shape(shape))

    def from_theirs(self, tensor, shape: tuple[int, ...]) -> np.ndarray:
        """A copy of their tensor, float32, in our layout; shape: of the result."""
        if self.layout in ("same", "rows"):
            return np.array(tensor, np.float32, order="C").reshape(shape)
        spread = np.asarray(tensor).reshape(shape[-1], -1, *self._sides(shape))
        return np.array(spread.transpose(2, 3, 1, 0), np.float32, order="C").reshape(shape)

    def _sides(self, shape) -> tuple[int, int]:
        return shape[:2] if self.layout == "conv" else (self.side, self.side)


def load(module, entries: Sequence[Entry], tensors, input_shape) -> dict[str, Any]:
    """`module`'s variables {"params": ..., "batch_stats": ...}, float32, from their tensors.

    tensors: their name -> array. input_shape: (height, width, channels) of an image. Raises
    UserError, naming the first ones, for tensors that are missing, unexpected or of another shape,
    for whole numbers (quantised weights), and for values that no network has (`models.sound`).
    """
    expected, ours = shapes(module, input_shape), [e for e in entries if e.path]
    counts = {e.key for e in entries if not e.path}
    check(
        {e.key: e.their_shape(expected[e.path]) for e in ours},
        {key: np.shape(tensor) for key, tensor in tensors.items() if key not in counts},
    )
    for entry in ours:
        if np.asarray(tensors[entry.key]).dtype.kind in "iub":
            raise UserError(
                f"{entry.key} holds whole numbers, as in a quantised network: export the weights as"
                " real numbers"
            )
    with np.errstate(over="ignore"):  # a number too large for float32 becomes infinite
        leaves = {e.path: e.from_theirs(tensors[e.key], expected[e.path]) for e in ours}
    for entry in ours:
        if not sound.is_sound(entry.path, leaves[entry.path]):
            raise UserError(
                f"{entry.key} {sound.fault(entry.path)}: get the file again, or export it again"
            )
    return unflatten_dict(leaves)


def dump(module, entries: Sequence[Entry], variables, input_shape) -> dict[str, np.ndarray]:
    """Their tensors from `module`'s variables. Errors as in `load`, with our names."""
    leaves = flatten_dict(variables)
    check(
        {"/".join(path): shape for path, shape in shapes(module, input_shape).items()},
        {"/".join(path): np.shape(leaf) for path, leaf in leaves.items()},
    )
    return {
        e.key: e.to_theirs(leaves[e.path]) if e.path else np.zeros((), np.int64) for e in entries
    }


def shapes(module, input_shape) -> dict[tuple[str, ...], tuple[int, ...]]:
    """The shape of every leaf of `module`'s variables, by path, from abstract evaluation."""
    variables, _, _ = graph.abstract(module, input_shape)
    return {path: leaf.shape for path, leaf in flatten_dict(variables).items()}


def class_bias(module: nn.Module, input_shape) -> tuple[str, ...] | None:
    """The path of the leaf with one value for each class; None if there is none (RBF output)."""
    try:
        two, three = (shapes(module.clone(num_classes=count), input_shape) for count in (2, 3))
    except ValueError:  # the RBF output has codes for the ten digits only
        return None
    paths = [path for path, shape in two.items() if len(shape) == 1 and shape != three[path]]
    return paths[-1] if paths else None


def check(expected: Mapping[str, tuple], given: Mapping[str, tuple]) -> None:
    """Raises UserError, one line, unless both have the same names and shapes."""
    wrong = {
        "missing": [name for name in expected if name not in given],
        "unexpected": [name for name in given if name not in expected],
        "misshapen": [
            f"{name} {list(given[name])}, not {list(shape)}"
            for name, shape in expected.items()
            if name in given and tuple(given[name]) != tuple(shape)
        ],
    }
    parts = [
        f"{len(names)} {kind} ({'; '.join(names[:3])}{'; ...' if len(names) > 3 else ''})"
        for kind, names in wrong.items()
        if names
    ]
    if parts:
        raise UserError(f"the weights do not fit the model: {', '.join(parts)}")
