"""LeNet-5's output layer."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.layers.cost import Cost


class RBF(nn.Module):
    """Euclidean radial basis functions with fixed centres (LeCun 1998, eq. 7).

    [batch, features] -> [batch, classes] *logits* -y_i, y_i = sum_j (x_j - centre_ij)^2: the
    paper's output negated, so that the largest logit is the paper's argmin. No parameters.
    Computed in float32 for any dtype of the input.

    centres: [classes, features] of +-1, as nested tuples.
    """

    centres: tuple[tuple[int, ...], ...]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        centres = jnp.asarray(self.centres, jnp.float32)
        difference = x.astype(jnp.float32)[:, None, :] - centres
        return -jnp.sum(difference * difference, axis=-1)

    def cost(self, in_shape, out_shape) -> Cost:
        weights = math.prod(in_shape) * math.prod(out_shape)
        return Cost(macs=weights, connections=weights)
