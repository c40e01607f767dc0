"""Variables of a network whose kernels NumPy draws.

Compiling the random numbers of JAX takes as long as compiling the gradient of a network.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters import partial_eval


def variables(module, shape: tuple[int, int, int]) -> dict:
    """Initial variables for images [height, width, channels].

    Kernels are normally distributed with He's deviation, sqrt(2 / fan-in). All other variables are
    those of the module's own initialisation.
    """

    def init():
        return module.init(jax.random.key(0), jnp.zeros((1, *shape)))

    traced, shapes = jax.make_jaxpr(init, return_shape=True)()
    leaves = jax.tree.leaves_with_path(shapes)
    others = [path[-1].key != "kernel" for path, _ in leaves]
    # Without the images' way through the network, which would take long to compile.
    jaxpr, _ = partial_eval.dce_jaxpr(traced.jaxpr, others, instantiate=True)
    rest = iter(jax.jit(lambda: jax.core.eval_jaxpr(jaxpr, traced.consts))())
    rng = np.random.default_rng(0)

    def value(path, leaf):
        if path[-1].key != "kernel":
            return next(rest)
        fan_in = math.prod(leaf.shape[-4:-1])  # a local layer's positions come before these
        return rng.standard_normal(leaf.shape, np.float32) * np.float32((2 / fan_in) ** 0.5)

    return jax.tree_util.tree_map_with_path(value, shapes)
