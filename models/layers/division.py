"""One network on several devices, each of which holds an equal part of every layer.

AlexNet was trained in this way: each of two GPUs held one tower, and they exchanged maps only where
a layer sees both towers (Krizhevsky 2012, sec. 3.2). Inside the context `divided`, a network
computes with a device's part of its parameters. Each layer has the device's part of the maps or
units, which is a part of the last axis. Where a layer sees the maps of all devices, the network
calls `joined`.

Outside the context a network is whole, and the functions of this module return their argument.
"""

import contextlib
import contextvars

import jax
import jax.numpy as jnp

_axis: contextvars.ContextVar[str | None] = contextvars.ContextVar("axis", default=None)


@contextlib.contextmanager
def divided(axis: str):
    """A context in which the devices along `axis`, a mesh axis of `jax.shard_map`, share a network.

    Gradients are right if all devices compute the same loss from `joined_output`, and `shard_map`
    has check_vma=False.
    """
    token = _axis.set(axis)
    try:
        yield
    finally:
        _axis.reset(token)


def axis_name() -> str | None:
    """The axis of the devices that share the network; None outside of `divided`."""
    return _axis.get()


def parts() -> int:
    """The number of devices that share the network; 1 outside of `divided`."""
    return jax.lax.axis_size(axis_name()) if axis_name() else 1


def joined(x: jax.Array) -> jax.Array:
    """This device's maps or units [..., part] -> those of all devices [..., whole].

    The gradient of a device's part is the sum of the gradients that all devices have for it:
    each of them computes other outputs from it.
    """
    return jax.lax.all_gather(x, axis_name(), axis=x.ndim - 1, tiled=True) if axis_name() else x


def joined_output(x: jax.Array) -> jax.Array:
    """As `joined`, for the output of the network, from which all devices compute the same loss.

    The gradient of a device's part is the one that this device has for it. A sum over the devices
    would count the loss several times.
    """
    if not axis_name():
        return x
    whole, last = joined(jax.lax.stop_gradient(x)), x.ndim - 1
    return jax.lax.dynamic_update_slice_in_dim(whole, x, _start(x.shape[last]), last)


def own(x: jax.Array) -> jax.Array:
    """This device's part [..., part] of an array [..., whole] that all devices have."""
    if not axis_name():
        return x
    last, size = x.ndim - 1, x.shape[-1] // parts()
    return jax.lax.dynamic_slice_in_dim(x, _start(size), size, last)


def repeated(x: jax.Array) -> jax.Array:
    """[..., part] -> [..., whole]: an array whose parts are copies of x."""
    return jnp.concatenate([x] * parts(), axis=-1) if axis_name() else x


def _start(size: int) -> jax.Array:
    """Where this device's part begins, if each part has `size` elements."""
    return jax.lax.axis_index(axis_name()) * size
