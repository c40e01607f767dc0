"""The cost of one application of a layer to one example; `models.summary` reads it."""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Cost:
    """The result of a layer's `cost(in_shape, out_shape)`; the shapes leave the batch out.

    macs: multiply-accumulates of weights with activations (biases are not counted).
    connections: LeCun's count, in which a bias is a connection, too; None for layers to which this
        does not apply (normalisation).
    window, stride: size and step of the sliding window in units of the layer's input, from which
        the receptive field follows. The window of a layer that sees everything is the whole input.
    before: rows and columns of padding before those of the input.
    """

    macs: int
    connections: int | None
    window: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    before: tuple[int, int] = (0, 0)


def weighted_cost(out_shape, fan_in: int, use_bias: bool, **geometry) -> Cost:
    """The cost of units with `fan_in` weights each. geometry: the other fields of `Cost`."""
    units = math.prod(out_shape)
    return Cost(units * fan_in, units * (fan_in + use_bias), **geometry)


def before(padding) -> tuple[int, int]:
    """`Cost.before` of a padding: a number; or for each axis a number or a pair (before, after)."""
    if isinstance(padding, int):
        return padding, padding
    return tuple(side if isinstance(side, int) else side[0] for side in padding)


def not_counted(layer, in_shape, out_shape) -> Cost:
    """The `cost` of a normalisation."""
    return Cost(macs=0, connections=None)
