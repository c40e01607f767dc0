"""Devices that share a network compute what one device computes: outputs, gradients, masks."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from models import layers

AXIS = "tower"
COLUMNS = PartitionSpec(None, AXIS)


def on_devices(function, count, specs, out_specs):
    """The function on `count` devices that share a network."""

    def divided(*arguments):
        with layers.divided(AXIS):
            return function(*arguments)

    mesh = Mesh(np.array(jax.devices()[:count]), (AXIS,))
    mapped = jax.shard_map(divided, mesh=mesh, in_specs=specs, out_specs=out_specs, check_vma=False)
    return jax.jit(mapped)


def loss(weights, x):
    """Of three layers: the second sees only its own part of the first, the third sees all."""
    first, own, third = weights
    h = jnp.tanh(x @ first)
    parts, size = own.shape[0], own.shape[-1]
    h = h.reshape(len(x), parts, -1)
    h = jnp.tanh(jnp.einsum("bpi,pio->bpo", h, own)).reshape(len(x), parts * size)
    outputs = layers.joined_output(layers.joined(h) @ third)
    return jnp.square(outputs).sum() + jnp.sin(outputs[:, 0]).sum(), outputs


@pytest.mark.parametrize("count", [2, 4])
def test_gradients_are_those_of_one_device(count):
    rng = np.random.default_rng(0)
    shapes = (5, 8), (count, 8 // count, 3), (3 * count, 8)
    weights = tuple(rng.normal(size=shape).astype(np.float32) for shape in shapes)
    x = rng.normal(size=(6, 5)).astype(np.float32)
    whole, outputs = jax.grad(loss, has_aux=True)(weights, x)
    specs = (COLUMNS, PartitionSpec(AXIS), COLUMNS)
    gradient = jax.grad(loss, has_aux=True)
    all_equal = PartitionSpec()
    run = on_devices(gradient, count, (specs, all_equal), (specs, all_equal))
    actual, divided_outputs = run(weights, x)
    np.testing.assert_allclose(divided_outputs, outputs, rtol=1e-5, atol=1e-5)
    for a, b in zip(actual, whole, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


class Dropped(nn.Module):
    regulariser: str

    @nn.compact
    def __call__(self, x, pre):
        if self.regulariser == "dropout":
            return layers.Dropout(0.5)(x, train=True)
        return layers.Standout()(x, pre, train=True)


@pytest.mark.parametrize("regulariser", ["dropout", "standout"])
def test_masks_are_those_of_one_device(regulariser):
    pre = np.random.default_rng(1).normal(size=(4, 40)).astype(np.float32)
    rngs = {"dropout": jax.random.key(3)}
    apply = functools.partial(Dropped(regulariser).apply, {}, rngs=rngs)
    whole = apply(np.ones((4, 40), np.float32), pre)
    assert 0.3 < (whole == 0).mean() < 0.7
    divided = on_devices(apply, 2, (COLUMNS, COLUMNS), COLUMNS)
    np.testing.assert_array_equal(divided(np.ones((4, 40), np.float32), pre), whole)
