"""Activation functions by name, those with parameters included."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp


def scaled_tanh(x: jax.Array) -> jax.Array:
    """1.7159 tanh(2x/3), so that f(1) = 1 and f(-1) = -1 (LeCun 1998, app. A)."""
    return 1.7159 * jnp.tanh(x * (2.0 / 3.0))


def leaky_relu(x: jax.Array) -> jax.Array:
    """x where positive, else 0.01 x (Maas 2013)."""
    return jnp.where(x > 0, x, LEAK * x)


def prelu(x: jax.Array, slope: jax.Array) -> jax.Array:
    """x where positive, else slope * x (He 2015, "Delving Deep", eq. 1)."""
    return jnp.where(x > 0, x, slope.astype(x.dtype) * x)


def maxout(x: jax.Array, pieces: int) -> jax.Array:
    """The largest of each unit's affine pieces (Goodfellow 2013): [..., n * pieces] -> [..., n].

    Unit u has the channels u * pieces .. u * pieces + pieces - 1.
    """
    x = x.reshape(*x.shape[:-1], x.shape[-1] // pieces, pieces)
    # Not `max(axis=-1)`: its gradient compares the maximum with the pieces, which XLA may compute
    # again with another rounding. If no piece is equal to the maximum, it divides by zero.
    return functools.reduce(jnp.maximum, (x[..., i] for i in range(pieces)))


LEAK = 0.01
PRELU_START = 0.25  # He 2015, sec. 2.1

# ReLU's derivative at 0 is 0.
FUNCTIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "scaled_tanh": scaled_tanh,
    "relu": jax.nn.relu,
    "leaky_relu": leaky_relu,
}
# prelu: a slope for each channel; prelu_shared: one for the layer; maxout: over `pieces` channels.
ACTIVATIONS = (*FUNCTIONS, "prelu", "prelu_shared", "maxout")

# Slope of the negative half, for He's initialisation.
NEGATIVE_SLOPES = {"leaky_relu": LEAK, "prelu": PRELU_START, "prelu_shared": PRELU_START}


def bind(module: nn.Module, name: str, channels: int, pieces: int = 1) -> Callable:
    """Activation `name` as a function of one array. Its parameter, if any, is `slope` of `module`.

    To be called in a compact method. channels: of the function's argument.
    """
    if name == "maxout":
        return lambda x: maxout(x, pieces)
    if name in ("prelu", "prelu_shared"):
        shape = (channels,) if name == "prelu" else ()
        slope = module.param("slope", nn.initializers.constant(PRELU_START), shape)
        return lambda x: prelu(x, slope)
    return FUNCTIONS[name]


class Activation(nn.Module):
    """A named activation as a layer, so that its output can be inspected by its name.

    [..., channels] -> [..., channels] ([..., channels / pieces] for maxout). kind: a name of
    `ACTIVATIONS`. Only parametric ReLU has a parameter: `slope`, [channels] or [] if shared, which
    starts at 0.25, takes no weight decay and may have any sign (He 2015, sec. 2).

    shortcut: added to x before the activation (He 2015, "Deep Residual Learning", eq. 1).
    """

    kind: str
    pieces: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, shortcut: jax.Array | None = None) -> jax.Array:
        activate = bind(self, self.kind, x.shape[-1], self.pieces)
        if shortcut is None:
            return activate(x)
        if self.kind == "maxout":  # max(a, b) + s = max(a + s, b + s)
            return activate(x) + shortcut
        return activate(x + shortcut)


def layer_name(layer: str, kind: str) -> str:
    """The name of the activation after `layer`: conv1_relu, conv1_prelu, ..."""
    return f"{layer}_{'prelu' if kind == 'prelu_shared' else kind}"
