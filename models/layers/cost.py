"""What one application of a layer to one example takes: read by `models.summary`."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a layer's `cost(in_shape, out_shape)` returns; shapes there leave the batch out.

    macs: multiply-accumulates of weights with activations (biases are not counted).
    connections: LeCun's count, where a bias is a connection too; None where the convention
        does not apply (normalisation).
    window, stride: extent and step of the sliding window in units of the layer's input, from
        which the receptive field follows; a layer that sees everything has the input's size.
    before: rows and columns of padding before the first of the input's.
    """

    macs: int
    connections: int | None
    window: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    before: tuple[int, int] = (0, 0)


def before(padding) -> tuple[int, int]:
    """`Cost.before` of a padding: a number, or for each axis one, or a pair (before, after)."""
    if isinstance(padding, int):
        return padding, padding
    return tuple(one if isinstance(one, int) else one[0] for one in padding)
