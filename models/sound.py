"""Values that no trained network has: NaN, infinite, or a negative variance of BatchNorm."""

from collections.abc import Mapping

import numpy as np


def is_sound(path: tuple[str, ...], leaf):
    """Whether every value of a leaf, a NumPy or JAX array, is possible: a bool [].

    path: of the leaf in the variables, such as ("batch_stats", "bn1", "var").
    """
    is_possible = leaf >= 0 if path[-1] == "var" else leaf > -np.inf  # False for NaN
    return (is_possible & (leaf < np.inf)).all()


def fault(path: tuple[str, ...]) -> str:
    """Says what is wrong with a leaf that is not sound."""
    return "is not finite or has a negative value" if path[-1] == "var" else "is not finite"


def check(leaves: Mapping[tuple[str, ...], np.ndarray]) -> None:
    """Raises ValueError, naming the first one, for leaves {path: array} that are not sound."""
    for path, leaf in leaves.items():
        if not is_sound(path, leaf):
            raise ValueError(f"{'/'.join(path)} {fault(path)}")
