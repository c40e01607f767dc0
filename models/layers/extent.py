"""Images of several sizes in one batch, each filled up below and on the right.

A net that is applied within `padded` computes for each image just what it computes for that image
alone: before a layer looks beyond a pixel, what is outside the image is set to the layer's padding.
So a compiled step serves all sizes up to its own.
"""

import contextlib
import contextvars
from collections.abc import Callable

import jax
import jax.numpy as jnp

_current: contextvars.ContextVar["Extents | None"] = contextvars.ContextVar("extents", default=None)


class Extents:
    """The valid part, at the top left, of every map of a net: int32 [batch, 2], height and width.

    By the size of the whole map: two maps of one size are valid in the same part, since layers
    change the sizes of both in the same way.
    """

    def __init__(self, shape: tuple[int, int], sizes: jax.Array):
        self._sizes = {tuple(shape): sizes}

    def of(self, x: jax.Array) -> jax.Array:
        """Of a map [batch, h, w, channels] that a layer made."""
        return self._sizes[x.shape[1:3]]

    def note(self, shape: tuple[int, int], sizes: jax.Array) -> None:
        """A layer made maps of `shape`, valid in `sizes`."""
        self._sizes[tuple(shape)] = sizes


@contextlib.contextmanager
def padded(shape: tuple[int, int], sizes: jax.Array):
    """Within it, nets take images [batch, *shape, channels] of which only `sizes` are valid.

    sizes: int32 [batch, 2]. Gives the `Extents`. For layers that keep an image's geometry:
    convolutions, pooling, and fully connected ones with a window.
    """
    token = _current.set(Extents(shape, sizes))
    try:
        yield _current.get()
    finally:
        _current.reset(token)


def valid(x: jax.Array) -> jax.Array | None:
    """The valid sizes [batch, 2] of a map; None where all of every map is valid."""
    extents = _current.get()
    return extents and extents.of(x)


def mask(shape: tuple[int, int], sizes: jax.Array) -> jax.Array:
    """bool [batch, *shape, 1]: what lies within sizes [batch, 2]."""
    rows, columns = (jnp.arange(length) < sizes[:, axis, None] for axis, length in enumerate(shape))
    return (rows[:, :, None] & columns[:, None, :])[..., None]


def fill(x: jax.Array, value: float = 0.0) -> jax.Array:
    """x with `value` in its invalid part."""
    sizes = valid(x)
    return x if sizes is None else jnp.where(mask(x.shape[1:3], sizes), x, value)


def follow(x: jax.Array, y: jax.Array, *change: Callable) -> None:
    """A layer made y of x: along each axis, or along both, a size n becomes change(n)."""
    extents = _current.get()
    if extents is not None:
        sizes = extents.of(x)
        both = [rule(sizes[:, axis]) for axis, rule in enumerate(change * (2 // len(change)))]
        extents.note(y.shape[1:3], jnp.stack(both, axis=1))
