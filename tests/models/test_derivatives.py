"""Every kind of derivative of every registered network: forward, reverse, forward over reverse."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import slow_where

from models.layers import backend
from tests.models import random_weights
from tests.models.test_registry import RUN, smallest

pytestmark = pytest.mark.usefixtures("product_options")

LARGE = {
    "alexnet",
    "googlenet",
    "vgg",
    "resnet",
    "resnet_cifar10",
}  # traced only: minutes of compilation


def is_slow(case):
    return case[0] not in ("lenet5", "mlp")


def network(name, options):
    """Of a case: (variables -> a smooth function of the logits in training mode, variables)."""
    module, shape = smallest(name, **options)
    images = jax.random.normal(jax.random.key(1), (8 if shape[0] < 96 else 2, *shape))

    def loss(params, rest):
        logits, _ = module.apply(
            {"params": params, **rest},
            images,
            train=True,
            rngs={"dropout": jax.random.key(2)},
            mutable=[*rest, "auxiliary"],
        )
        return jnp.sin(logits).mean()

    variables = random_weights.variables(module, shape)
    return loss, variables.pop("params"), variables


def directions(params, count: int):
    """Normally distributed, [count, ...]."""
    rng = np.random.default_rng(3)
    return jax.tree.map(lambda leaf: rng.standard_normal((count, *leaf.shape), np.float32), params)


def inner(a, b):
    return sum(jax.tree.leaves(jax.tree.map(lambda x, y: jnp.vdot(x, y), a, b)))


def length(a):
    return jnp.sqrt(inner(a, a))


def hessian_times(loss, params, v):
    return jax.jvp(jax.grad(loss), (params,), (v,))[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    slow_where(is_slow, RUN),
    ids=lambda case: f"{case[0]}-{'-'.join(map(str, case[1]))}",
)
def test_forward_and_reverse_agree_and_hessians_are_symmetric(case):
    loss, params, rest = network(*case)
    along = functools.partial(loss, rest=rest)

    if case[0] in LARGE:
        product = jax.eval_shape(lambda: hessian_times(along, params, params))
        assert max(leaf.size for leaf in jax.tree.leaves(product)) > 1000
        return

    @backend.jit
    def numbers(params, u_and_v):
        u, v = (jax.tree.map(lambda leaf, i=i: leaf[i], u_and_v) for i in range(2))
        _, forward = jax.jvp(along, (params,), (v,))
        _, linear = jax.linearize(along, params)
        gradient = jax.grad(along)(params)
        # A loop, which compiles once.
        products = jax.lax.map(lambda a: hessian_times(along, params, a), u_and_v)
        hu, hv = (jax.tree.map(lambda leaf, i=i: leaf[i], products) for i in range(2))
        first = (forward, linear(v), inner(gradient, v), length(gradient) * length(v))
        return first, (inner(u, hv), inner(v, hu), length(hv) * length(u))

    (forward, linear, reverse, scale), (uv, vu, second_scale) = jax.device_get(
        numbers(params, directions(params, 2))
    )
    # The sums cancel: rounding is to be compared with the lengths of what is multiplied.
    assert scale > 0 and abs(forward - reverse) < 1e-5 * scale
    assert abs(forward - linear) < 1e-5 * scale
    assert second_scale > 0 and abs(uv - vu) < 1e-5 * second_scale


@pytest.mark.parametrize(
    "case",
    slow_where(is_slow, [case for case in RUN if case[0] not in LARGE]),
    ids=lambda case: str(case[:2]),
)
def test_the_compiler_options_change_no_gradient(case):
    """Against XLA's default kernels; see the trap in `backend.compiler_options`."""
    loss, *variables = network(*case)
    gradient = jax.value_and_grad(loss)
    ours, default = backend.jit(gradient)(*variables), jax.jit(gradient)(*variables)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * np.abs(b).max()),
        jax.device_get(ours),
        jax.device_get(default),
    )
