"""JAX itself, where a release computed a wrong result that Canon's networks depend on."""

import jax
import jax.numpy as jnp


def test_a_reduction_fused_into_a_batched_product_is_right():
    """The example of jax-ml/jax#39103: jaxlib 0.10.2 gives about 1.07e9 on CPUs, and varies.

    Every row is (i, 0, 0), so its squared norm is i ** 2. The last one, 32768 ** 2 = 2 ** 30, is
    exact in float32.
    """

    @jax.jit
    @jax.vmap
    def squared_norm(row):
        return jnp.sum((jnp.eye(3) @ row) ** 2)

    first = jnp.arange(32769, dtype=jnp.float32)
    zero = jnp.zeros_like(first)
    rows = jnp.stack([first, zero, zero], axis=1)  # [32769, 3]
    assert squared_norm(rows)[-1] == 32768**2
