"""Receptive fields: the part of the image that a unit sees, with the padding at the edges."""

import flax.linen as nn
import numpy as np

from errors import UserError
from models import graph


def receptive_field(
    module: nn.Module,
    input_shape: tuple[int, int, int],
    layer: str,
    place: tuple[int, int] | None = None,
) -> tuple[int, int, int, int]:
    """(top, left, height, width), in pixels, of the part of the image that one unit sees.

    input_shape: (height, width, channels). layer: a name of `inspection.activations`. place:
    (row, column) of the unit in its map; None: the middle one. Layers without maps have one place,
    (0, 0).

    It is exact at the edges, too: padding does not belong to the box. A unit in the middle has the
    size that `models.summary` states, if the image is as large. As there, normalisation over
    neighbouring pixels is ignored. Nothing is computed or allocated. Raises UserError for an
    unknown layer or place.
    """
    variables, images, _ = graph.abstract(module, input_shape)
    calls, outputs = graph.trace(module, variables, images)
    if layer not in outputs:
        raise graph.missing(layer, outputs)
    shape = outputs[layer].shape
    rows, columns = _size(shape)
    row, column = place or (rows // 2, columns // 2)
    if not (0 <= row < rows and 0 <= column < columns):
        raise UserError(
            f"there is no position {(row, column)} in {layer}: its map is {rows}x{columns}"
        )
    boxes = []
    for axis, number in ((0, row), (1, column)):
        spans = _spans(calls, input_shape, axis)
        start, stop = _union(spans, outputs[layer].sources, shape, axis)[number]
        boxes.append((int(start), int(stop)) if start < stop else (0, 0))
    (top, bottom), (left, right) = boxes
    return top, left, bottom - top, right - left


_NOTHING = np.array([[2**31, -1]])  # the span of a unit that sees padding only


def _size(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of a map [height, width, channels]; 1, 1 of a vector."""
    return tuple(shape[:2]) if len(shape) == 3 else (1, 1)


def _spans(calls: list[graph.Call], input_shape, axis: int) -> dict[int, np.ndarray]:
    """For each call, int [n, 2]: the first pixel that each unit sees, and the last one plus 1."""
    pixels = np.arange(input_shape[axis])
    spans = {graph.IMAGE: np.stack([pixels, pixels + 1], axis=1)}
    for number, call in enumerate(calls):
        cost = call.layer.cost(call.in_shape, call.out_shape)
        inputs = _union(spans, call.feeders, call.in_shape, axis)
        first = np.arange(_size(call.out_shape)[axis]) * cost.stride[axis] - cost.before[axis]
        spans[number] = np.array(
            [_hull(inputs[max(0, i) : max(0, i + cost.window[axis])]) for i in first]
        )
    return spans


def _hull(spans: np.ndarray) -> np.ndarray:
    """The smallest span [2] that contains all spans [n, 2]."""
    starts, stops = np.concatenate([spans, _NOTHING]).T
    return np.array([starts.min(), stops.max()])


def _union(spans, numbers, shape: tuple[int, ...], axis: int) -> np.ndarray:
    """The spans of the units of an array of `shape` that comes from the outputs of these calls."""
    parts = np.stack([_resized(spans[n], shape, axis) for n in numbers])
    return np.stack([parts[..., 0].min(axis=0), parts[..., 1].max(axis=0)], axis=1)


def _resized(spans: np.ndarray, shape: tuple[int, ...], axis: int) -> np.ndarray:
    """The spans of the units that remain if an array is smaller than the output it comes from."""
    size = _size(shape)[axis]
    if len(spans) == size:
        return spans
    step = -(-len(spans) // size)
    if len(shape) == 3 and -(-len(spans) // step) == size:
        return spans[::step]  # a shortcut takes every second unit (He 2015, option A)
    return np.array([_hull(spans)] * size)  # flattened: each unit sees all of them
