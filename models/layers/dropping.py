"""Regularisers that drop at random in training: dropout, DropConnect, standout.

`rate` is the share that is *dropped* (Srivastava 2014 calls the share kept p). `scale`, a number
or a traced scalar, multiplies it: annealed dropout (Rennie 2014) lowers it to 0 step by step.
Random numbers come from the rng stream "dropout". Those of an example depend only on the key of the
stream, the layer, and the position of the example in the batch: see `placed`.
"""

import contextlib
import contextvars
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.layers import activations, division
from models.layers.convolution import FullyConnected, multiply, weights_and_input

_places: contextvars.ContextVar[jax.Array | None] = contextvars.ContextVar("places", default=None)


@contextlib.contextmanager
def placed(places: jax.Array):
    """A context in which the examples of a batch have these positions, int32 [batch].

    A device that has a part of a batch then draws the masks that one device with the whole batch
    would draw. Outside the context the positions are 0, 1, 2, ....
    """
    token = _places.set(places)
    try:
        yield
    finally:
        _places.reset(token)


def example_keys(module: nn.Module, count: int) -> jax.Array:
    """Keys [count] for the examples of the module's input, by their positions in the batch."""
    places = _places.get()
    places = jnp.arange(count) if places is None else places
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(module.make_rng("dropout"), places)


def _keep(module: nn.Module, x: jax.Array, share: jax.Array) -> jax.Array:
    """x [batch, ...]; each element stays with probability `share` ([] or [batch, ...]), or is 0.

    If devices share the network, each draws the masks of all units, as one device would.
    """
    draw = jax.vmap(jax.random.bernoulli)
    keys, share = example_keys(module, len(x)), division.repeated(jnp.broadcast_to(share, x.shape))
    return jnp.where(division.own(draw(keys, share)), x, 0)


class Dropout(nn.Module):
    """Sets a random share of its input's elements to zero in training (Srivastava 2014, sec. 4).

    [batch, ...] -> the same shape. scaling: "test" multiplies by the share kept at test time, as
    published (Krizhevsky 2012, sec. 4.2). "train" divides by it in training instead; the networks
    are equal if the weights of the next layer are multiplied by the share kept. "none" does
    neither: values are on average larger in tests than in training (Maxout's images).
    """

    rate: float
    scaling: str = "train"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, scale: float | jax.Array = 1.0) -> jax.Array:
        if self.rate == 0.0:
            return x
        keep = jnp.asarray(1.0 - self.rate * scale, jnp.float32)
        if not train:
            return x * keep.astype(x.dtype) if self.scaling == "test" else x
        kept = _keep(self, x, keep)
        return kept / keep.astype(x.dtype) if self.scaling == "train" else kept


class Standout(nn.Module):
    """Adaptive dropout: a unit is kept with probability sigmoid(alpha * pre + beta).

    pre: the unit's input before its activation, [batch, ...] like x. (This is the tied form of Ba &
    Frey 2013, in which the standout network has alpha times the weights of the unit, plus beta.) In
    training x is masked, at test time it is multiplied by the probability. No gradient flows
    through the probabilities.
    """

    alpha: float = 1.0
    beta: float = 0.0

    @nn.compact
    def __call__(self, x, pre, train: bool, scale: float | jax.Array = 1.0) -> jax.Array:
        pre = jax.lax.stop_gradient(pre).astype(jnp.float32)
        keep = 1.0 - scale * (1.0 - jax.nn.sigmoid(self.alpha * pre + self.beta))
        if not train:
            return x * keep.astype(x.dtype)
        return _keep(self, x, keep)


# Number of masked weights in memory at once in training, which limits the group of examples.
_MASKED_ELEMENTS = 2**26


class DropConnect(FullyConnected):
    """Fully connected layer and its activation, with weights dropped at random (Wan 2013).

    In training every example has its own mask over weights and biases: a((M * W) v), without
    rescaling. At test time the input of a unit is a Gaussian with the masks' mean and variance,
    u ~ N(keep W v, keep (1 - keep) (W * W)(v * v)). The output is the mean of a(u) over `samples`
    draws (inference "gaussian", the paper's), or a(keep W v) ("mean").

    The draws are the same for every image and call, so a prediction depends on its image alone.
    Shapes and parameters are those of `FullyConnected`, plus `slope` for PReLU. With a window,
    training needs the native size (otherwise ValueError).

    activation: a name of `activations.ACTIVATIONS`, or None.
    """

    rate: float = 0.5
    activation: str | None = None
    pieces: int = 1
    inference: str = "gaussian"
    samples: int = 1000

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, scale: float | jax.Array = 1.0) -> jax.Array:
        activate: Callable = lambda u: u  # noqa: E731
        if self.activation:
            activate = activations.bind(self, self.activation, self.features, self.pieces)
        x, kernel, bias = weights_and_input(self, x)
        keep = jnp.asarray(1.0 - self.rate * scale, jnp.float32)
        if train:
            return activate(self._masked(x, kernel, bias, keep))
        bias = jnp.zeros(self.features, x.dtype) if bias is None else bias
        share = keep.astype(x.dtype)
        mean = share * (multiply(x, kernel) + bias)
        if self.inference == "mean":
            return activate(mean)
        squares = multiply(jnp.square(x), jnp.square(kernel)) + jnp.square(bias)
        variance = share * (1 - share) * squares
        # The root of 0 has no derivative: not 0 times infinity.
        deviation = jnp.where(variance > 0, jnp.sqrt(jnp.where(variance > 0, variance, 1)), 0)

        def add(total, key):
            draw = jax.random.normal(key, (self.features,), mean.dtype)
            return total + activate(mean + deviation * draw).astype(jnp.float32), None

        keys = jax.random.split(jax.random.key(0), self.samples)
        start = jnp.zeros(jax.eval_shape(activate, mean).shape, jnp.float32)
        return (jax.lax.scan(add, start, keys)[0] / self.samples).astype(mean.dtype)

    def _masked(self, x, kernel, bias, keep) -> jax.Array:
        """The units' inputs [b, (1, 1,) features]; each example has its own mask."""
        if self.window and x.shape[1:3] != (self.window,) * 2:
            raise ValueError(f"{self.name} trains with DropConnect at its native size only")
        weights = kernel.reshape(-1, self.features)

        @jax.checkpoint  # masks are too large to store, so they are drawn again for the gradient
        def one_example(example):
            v, key = example
            weight_key, bias_key = jax.random.split(key)
            u = v @ jnp.where(jax.random.bernoulli(weight_key, keep, weights.shape), weights, 0)
            if bias is not None:
                u += jnp.where(jax.random.bernoulli(bias_key, keep, bias.shape), bias, 0)
            return u

        keys = example_keys(self, len(x))
        group = min(len(x), max(1, _MASKED_ELEMENTS // weights.size))
        u = jax.lax.map(one_example, (x.reshape(len(x), -1), keys), batch_size=group)
        return u.reshape(len(x), *((1, 1) if self.window else ()), self.features)
