"""Images of several sizes in one batch, each filled up at the bottom and on the right.

Inside the context `padded` a network computes for each image what it computes for that image alone:
before a layer with windows computes, pixels outside the image are set to the layer's padding. So
one compiled step serves all sizes up to the size of its batch.
"""

import contextlib
import contextvars
from collections.abc import Callable

import jax
import jax.numpy as jnp

_current: contextvars.ContextVar["Extents | None"] = contextvars.ContextVar("extents", default=None)


class Extents:
    """The valid part, at the top left, of every map of a network: int32 [batch, 2], height, width.

    Stored by the size of the whole map: in two maps of the same size the same part is valid,
    because layers change the sizes of both in the same way.
    """

    def __init__(self, shape: tuple[int, int], sizes: jax.Array):
        self._sizes = {tuple(shape): sizes}

    def of(self, x: jax.Array) -> jax.Array:
        """The valid sizes of a map [batch, h, w, channels] that is a layer's output."""
        return self._sizes[x.shape[1:3]]

    def note(self, shape: tuple[int, int], sizes: jax.Array) -> None:
        """Stores that maps of `shape` are valid in `sizes`."""
        self._sizes[tuple(shape)] = sizes


@contextlib.contextmanager
def padded(shape: tuple[int, int], sizes: jax.Array):
    """A context in which only `sizes` of the images [batch, *shape, channels] are valid.

    sizes: int32 [batch, 2]. Gives the `Extents`. All layers must keep the geometry of an image:
    convolutions, pooling, and fully connected layers with a window.
    """
    token = _current.set(Extents(shape, sizes))
    try:
        yield _current.get()
    finally:
        _current.reset(token)


def valid(x: jax.Array) -> jax.Array | None:
    """The valid sizes [batch, 2] of a map; None outside of `padded`, where everything is valid."""
    extents = _current.get()
    return extents and extents.of(x)


def mask(shape: tuple[int, int], sizes: jax.Array) -> jax.Array:
    """bool [batch, *shape, 1]: True inside sizes [batch, 2]."""
    rows, columns = (jnp.arange(length) < sizes[:, axis, None] for axis, length in enumerate(shape))
    return (rows[:, :, None] & columns[:, None, :])[..., None]


def fill(x: jax.Array, value: float = 0.0) -> jax.Array:
    """x with `value` in its invalid part."""
    sizes = valid(x)
    return x if sizes is None else jnp.where(mask(x.shape[1:3], sizes), x, value)


def follow(x: jax.Array, y: jax.Array, *change: Callable) -> None:
    """Stores the valid sizes of y, a layer's output for x.

    change: functions from a size in x to the size in y, for each axis or one for both.
    """
    extents = _current.get()
    if extents is not None:
        sizes = extents.of(x)
        both = [rule(sizes[:, axis]) for axis, rule in enumerate(change * (2 // len(change)))]
        extents.note(y.shape[1:3], jnp.stack(both, axis=1))
