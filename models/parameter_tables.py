"""Tables of parameters: the values of each array of a network, and the differences of two."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from errors import UserError


def parameters(variables: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row for each array of {"params": ..., "batch_stats": ...}, or of parameters alone.

    name ("params/conv1/kernel"), shape, count, mean, deviation, norm (Euclidean) and zeros, the
    share of values that are exactly 0. Moments are computed in float64.
    """
    rows = []
    for name, leaf in _leaves(variables).items():
        values = leaf.astype(np.float64)
        rows.append(
            {
                "name": name,
                "shape": list(leaf.shape),
                "count": leaf.size,
                "mean": float(values.mean()),
                "deviation": float(values.std()),
                "norm": float(np.linalg.norm(values)),
                "zeros": float((leaf == 0).mean()),
            }
        )
    return rows


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[dict[str, Any]]:
    """How the arrays of `other` differ from those of `one`: two checkpoints, or runs, of a network.

    name, shape, norm (of the difference), relative (norm by the norm in `one`; 0 if the arrays are
    equal, infinite if only `one` is 0), largest (absolute difference of a value), changed (the
    share of values that differ). Raises UserError, naming them, for arrays that only one of them
    has, or whose shapes differ.
    """
    left, right = _leaves(one), _leaves(other)
    odd = [name for name in {**left, **right} if name not in left or name not in right]
    odd += [n for n in left if n in right and left[n].shape != right[n].shape]
    if odd:
        raise UserError(
            f"these states are not of the same network: {len(odd)} arrays differ in name or shape"
            f" ({', '.join(odd[:3])}{', ...' if len(odd) > 3 else ''})"
        )
    rows = []
    for name, leaf in left.items():
        before, after = leaf.astype(np.float64), right[name].astype(np.float64)
        norm, norm_before = np.linalg.norm(after - before), np.linalg.norm(before)
        rows.append(
            {
                "name": name,
                "shape": list(leaf.shape),
                "norm": float(norm),
                "relative": float(norm / norm_before if norm_before else np.inf if norm else 0),
                "largest": float(np.abs(after - before).max()),
                "changed": float((leaf != right[name]).mean()),
            }
        )
    return rows


def text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of one of the tables above as text, below the names of the columns."""
    if not rows:
        return ""
    return aligned([[list(rows[0])], [[_cell(value) for value in row.values()] for row in rows]])


def aligned(blocks: Sequence[Sequence[Sequence[str]]], left: int = 1) -> str:
    """Blocks of rows of cells as text, with a ruler between the blocks.

    left: number of columns that are aligned on the left; the others are aligned on the right.
    """
    rows = [row for block in blocks for row in block]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    ruler = "-" * (sum(widths) + 2 * (len(widths) - 1))

    def line(cells) -> str:
        padded = [
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "  ".join(padded).rstrip()

    return f"\n{ruler}\n".join("\n".join(map(line, block)) for block in blocks)


def _cell(value) -> str:
    if isinstance(value, list):
        return "x".join(map(str, value)) or "()"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else value


def _leaves(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """{"params/conv1/kernel": array}."""
    return {"/".join(path): np.asarray(leaf) for path, leaf in flatten_dict(variables).items()}
