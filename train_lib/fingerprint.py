"""What a checkpoint says of itself, by which damage to it is noticed: shapes and checksums.

Orbax's own format notices damage to some of its files only.
"""

import hashlib
import json

import jax
import numpy as np


def describe(state) -> dict[str, list]:
    """{path: [shape, dtype, SHA-256]} of a tree of NumPy arrays."""
    leaves = jax.tree.leaves_with_path(state)
    return {
        jax.tree_util.keystr(path): [
            list(leaf.shape),
            str(leaf.dtype),
            hashlib.sha256(np.ascontiguousarray(leaf).tobytes()).hexdigest(),
        ]
        for path, leaf in leaves
    }


def digest(description: dict) -> str:
    """SHA-256 of a description but for its `digest`."""
    rest = {name: value for name, value in description.items() if name != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def check(found: dict[str, list], expected: dict[str, list]) -> None:
    """Raises ValueError unless these arrays are the ones that were saved."""
    if found.keys() != expected.keys():
        name = min(found.keys() ^ expected.keys())
        raise ValueError(f"{name} is {'missing' if name in expected else 'new'}")
    for name, entry in found.items():
        if entry != expected[name]:
            raise ValueError(f"the contents of {name} do not match their checksum")
