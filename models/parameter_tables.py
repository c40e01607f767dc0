"""Tables of parameters: what is in each array of a net, and how two nets differ, array by array."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from errors import UserError


def parameters(variables: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row an array of {"params": ..., "batch_stats": ...}, or of parameters alone.

    name ("params/conv1/kernel"), shape, count, mean, deviation, norm (Euclidean) and zeros, the
    share of values that are exactly 0. Moments are taken in float64.
    """
    return [{"name": name, **_moments(leaf)} for name, leaf in _leaves(variables).items()]


def _moments(leaf: np.ndarray) -> dict[str, Any]:
    values = leaf.astype(np.float64)
    return {
        "shape": list(leaf.shape),
        "count": leaf.size,
        "mean": float(values.mean()),
        "deviation": float(values.std()),
        "norm": float(np.linalg.norm(values)),
        "zeros": float((leaf == 0).mean()),
    }


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[dict[str, Any]]:
    """How `other` differs from `one`, a row an array: of two checkpoints, or two runs of a net.

    name, shape, norm (of the difference), relative (that by the norm of `one`, 0 where they are
    equal, infinite where only `one` is 0), largest (absolute difference of a value), changed (the
    share of values that are not equal). Raises UserError, naming them, for arrays that only one
    has, or that differ in shape.
    """
    left, right = _leaves(one), _leaves(other)
    odd = [name for name in {**left, **right} if name not in left or name not in right]
    odd += [n for n in left if n in right and left[n].shape != right[n].shape]
    if odd:
        raise UserError(
            f"these are not of one net: {len(odd)} arrays differ in name or shape"
            f" ({', '.join(odd[:3])}{', ...' if len(odd) > 3 else ''})"
        )
    rows = []
    for name, leaf in left.items():
        before, after = leaf.astype(np.float64), right[name].astype(np.float64)
        norm, own = np.linalg.norm(after - before), np.linalg.norm(before)
        rows.append(
            {
                "name": name,
                "shape": list(leaf.shape),
                "norm": float(norm),
                "relative": float(norm / own) if own else float("inf" if norm else 0),
                "largest": float(np.abs(after - before).max()),
                "changed": float((leaf != right[name]).mean()),
            }
        )
    return rows


def text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of one of the tables above, for people: a line each, below the names of the columns."""
    if not rows:
        return ""
    cells = [list(rows[0])] + [[_cell(value) for value in row.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]

    def line(row) -> str:
        first, *rest = row
        padded = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        return "  ".join([first.ljust(widths[0]), *padded])

    return "\n".join([line(cells[0]), "-" * len(line(cells[0])), *map(line, cells[1:])])


def _cell(value) -> str:
    if isinstance(value, list):
        return "x".join(map(str, value)) or "()"
    return (
        f"{value:.4g}"
        if isinstance(value, float)
        else f"{value:,}"
        if isinstance(value, int)
        else value
    )


def _leaves(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """{"params/conv1/kernel": array}."""
    return {"/".join(path): np.asarray(leaf) for path, leaf in flatten_dict(variables).items()}
