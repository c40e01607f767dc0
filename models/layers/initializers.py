"""Rules for initial weights, by name. Biases start as constants, which the networks give."""

import dataclasses
import math

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Init:
    """A rule for drawing weights, which is a linen initializer of kernels.

    name:
        gaussian    N(0, scale^2) (Krizhevsky 2012, sec. 5: scale 0.01)
        uniform     U(-scale, scale)
        he          N(0, 2 / ((1 + slope^2) fan_in)) (He 2015, "Delving Deep", eq. 10 and 15)
        he_fan_out  the same with fan_out (eq. 14)
        glorot      U(+-sqrt(6 / (fan_in + fan_out))) (Glorot & Bengio 2010, eq. 16)
        lecun1998   U(-2.4 / fan_in, 2.4 / fan_in) (LeCun 1998, app. A)
        xavier_fan_in  U(+-sqrt(3 / fan_in)): Caffe's "xavier", Glorot's without the fan_out
    scale: for gaussian and uniform. slope: of the activation's negative half, for he.
    """

    name: str
    scale: float = 0.01
    slope: float = 0.0

    def __call__(self, key, shape, dtype=jnp.float32, groups: int = 1) -> jax.Array:
        """Draws the kernel [kh, kw, in / groups, out] of a convolution with groups."""
        fan_in, fan_out = math.prod(shape[:-1]), math.prod(shape) // shape[-2] // groups
        return self.draw(key, shape, fan_in, fan_out, dtype)

    def draw(self, key, shape, fan_in, fan_out, dtype=jnp.float32) -> jax.Array:
        """Draws `shape` for units with these fans: numbers, or arrays that broadcast to it."""
        deviations = {
            "gaussian": lambda: self.scale,
            "he": lambda: (2.0 / ((1.0 + self.slope**2) * fan_in)) ** 0.5,
            "he_fan_out": lambda: (2.0 / ((1.0 + self.slope**2) * fan_out)) ** 0.5,
        }
        if self.name in deviations:
            return deviations[self.name]() * jax.random.normal(key, shape, dtype)
        bounds = {
            "uniform": lambda: self.scale,
            "glorot": lambda: (6.0 / (fan_in + fan_out)) ** 0.5,
            "lecun1998": lambda: 2.4 / fan_in,
            "xavier_fan_in": lambda: (3.0 / fan_in) ** 0.5,
        }
        bound = bounds[self.name]()
        if jnp.ndim(bound) == 0:
            return jax.random.uniform(key, shape, dtype, -bound, bound)
        return jnp.asarray(bound, dtype) * jax.random.uniform(key, shape, dtype, -1.0, 1.0)
