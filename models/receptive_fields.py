"""Where in the image a unit looks: its receptive field, with the padding that it meets."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from errors import UserError
from models import graph


def receptive_field(
    module: nn.Module,
    input_shape: tuple[int, int, int],
    layer: str,
    place: tuple[int, int] | None = None,
) -> tuple[int, int, int, int]:
    """(top, left, height, width), in pixels, of what one unit of a layer sees of the image.

    input_shape: (height, width, channels). layer: a name of `inspection.activations`. place:
    (row, column) of the unit in its map; None: the middle one. Of layers without maps there is
    one place, (0, 0).

    Exact at the edges, too: what padding stands in for is not in the box, so that a unit in the
    middle has the size that `models.summary` states, if the image is as large. As there,
    normalisation over neighbouring pixels is looked through. Nothing is computed or allocated.
    Raises UserError for a layer or place that there is not.
    """
    images = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
    keys = {name: jax.random.key(0) for name in ("params", "dropout")}
    variables = jax.eval_shape(lambda x: module.init(keys, x, train=False), images)
    calls, outputs = graph.trace(module, variables, images)
    if layer not in outputs:
        raise UserError(
            f"there is no layer {layer}: the net has {', '.join(list(outputs)[:6])}, ..."
            " (see --mode=summary)"
        )
    shape = outputs[layer].shape
    rows, columns = _size(shape)
    row, column = place or (rows // 2, columns // 2)
    if not (0 <= row < rows and 0 <= column < columns):
        raise UserError(f"there is no place {(row, column)} in {layer}: it has {rows}x{columns}")
    boxes = []
    for axis, number in ((0, row), (1, column)):
        spans = _spans(calls, input_shape, axis)
        start, stop = _together(spans, outputs[layer].made_of, shape, axis)[number]
        boxes.append((int(start), int(stop)) if start < stop else (0, 0))
    (top, bottom), (left, right) = boxes
    return top, left, bottom - top, right - left


_NOTHING = np.array([[2**31, -1]])  # the span of what sees padding alone


def _size(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of a map [height, width, channels]; 1, 1 of a vector."""
    return tuple(shape[:2]) if len(shape) == 3 else (1, 1)


def _spans(calls: list[graph.Call], input_shape, axis: int) -> dict[int, np.ndarray]:
    """For each call, int [n, 2]: first pixel, and the one behind the last, that its units see."""
    pixels = np.arange(input_shape[axis])
    spans = {graph.IMAGE: np.stack([pixels, pixels + 1], axis=1)}
    for number, call in enumerate(calls):
        cost = call.layer.cost(call.in_shape, call.out_shape)
        below = _together(spans, call.feeders, call.in_shape, axis)
        first = np.arange(_size(call.out_shape)[axis]) * cost.stride[axis] - cost.before[axis]
        spans[number] = np.array(
            [_hull(below[max(0, i) : max(0, i + cost.window[axis])]) for i in first]
        )
    return spans


def _hull(spans: np.ndarray) -> np.ndarray:
    """The smallest span [2] that holds all [n, 2]."""
    starts, stops = np.concatenate([spans, _NOTHING]).T
    return np.array([starts.min(), stops.max()])


def _together(spans, numbers, shape: tuple[int, ...], axis: int) -> np.ndarray:
    """What units of an array of `shape` see that is made of the outputs of these calls."""
    found = np.stack([_brought_to(spans[n], shape, axis) for n in numbers])
    return np.stack([found[..., 0].min(axis=0), found[..., 1].max(axis=0)], axis=1)


def _brought_to(spans: np.ndarray, shape: tuple[int, ...], axis: int) -> np.ndarray:
    """The units that are left where an array is smaller than the output it is made of."""
    size = _size(shape)[axis]
    if len(spans) == size:
        return spans
    step = -(-len(spans) // size)
    if len(shape) == 3 and -(-len(spans) // step) == size:
        return spans[::step]  # a shortcut takes every second (He 2015, option A)
    return np.array([_hull(spans)] * size)  # flattened: all of them are in each
