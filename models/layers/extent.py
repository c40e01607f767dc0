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

# The valid sizes, int32 [batch, 2], of the maps of a network, by the size of the whole map: in two
# maps of the same size the same part is valid, because layers change the sizes of both in the same
# way.
_sizes: contextvars.ContextVar[dict | None] = contextvars.ContextVar("sizes", default=None)


@contextlib.contextmanager
def padded(shape: tuple[int, int], sizes: jax.Array):
    """A context in which only `sizes` of the images [batch, *shape, channels] are valid.

    sizes: int32 [batch, 2], height and width at the top left. All layers must keep the geometry of
    an image: convolutions, pooling, and fully connected layers with a window.
    """
    token = _sizes.set({tuple(shape): sizes})
    try:
        yield
    finally:
        _sizes.reset(token)


def valid(x: jax.Array) -> jax.Array | None:
    """The valid sizes [batch, 2] of a layer's output [batch, h, w, channels].

    None outside of `padded`, where everything is valid.
    """
    sizes = _sizes.get()
    return sizes and sizes[x.shape[1:3]]


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
    sizes = valid(x)
    if sizes is not None:
        both = [rule(sizes[:, axis]) for axis, rule in enumerate(change * (2 // len(change)))]
        _sizes.get()[y.shape[1:3]] = jnp.stack(both, axis=1)
