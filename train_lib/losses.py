"""Losses by name, and the class probabilities that belong to each."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

_TINY = 1e-30  # a probability that is as good as zero, but not zero in float32


@dataclasses.dataclass(frozen=True)
class Loss:
    """A loss, called with (logits, labels), and the class probabilities that belong to it.

    per_example: logits [batch, classes], int labels [batch] -> losses [batch].
    probabilities: logits [batch, classes] -> class probabilities [batch, classes].
    other_class: the name of a class beside those of the data set, whose probability is what the
        others lack to 1; "" if there is none.
    """

    per_example: Callable[[jax.Array, jax.Array], jax.Array]
    probabilities: Callable[[jax.Array], jax.Array] = jax.nn.softmax
    other_class: str = ""

    def __call__(self, logits: jax.Array, labels: jax.Array) -> jax.Array:
        return self.per_example(logits, labels)


def mse(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """y_D, the RBF output of the right class (LeCun 1998, eq. 8); logits are -y."""
    return -jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]


def _with_rubbish(logits: jax.Array, j: float) -> jax.Array:
    """[batch, classes + 1]: the last column is the class of everything that is no character."""
    return jnp.concatenate([logits, jnp.full((logits.shape[0], 1), -j, logits.dtype)], axis=1)


def map_criterion(logits: jax.Array, labels: jax.Array, j: float) -> jax.Array:
    """y_D + log(exp(-j) + sum_i exp(-y_i)) over all classes (LeCun 1998, eq. 9); logits are -y.

    j > 0 is the constant of the class of everything that is no character ("rubbish"). The paper
    gives it no value.
    """
    return mse(logits, labels) + jax.nn.logsumexp(_with_rubbish(logits, j), axis=1)


def map_probabilities(logits: jax.Array, j: float) -> jax.Array:
    """Class probabilities under the MAP criterion, without that of the rubbish class.

    Those of an image that is far from all classes would all be zero in float32. They are not, so
    that the nearest class still has the largest.
    """
    probabilities = jax.nn.softmax(_with_rubbish(logits, j), axis=1)[:, :-1]
    return jnp.maximum(probabilities, _TINY * jax.nn.softmax(logits, axis=1))


def make_loss(section: Mapping[str, Any]) -> Loss:
    """The loss of a config's `loss` section."""
    if section["name"] == "mse":
        return Loss(mse)
    if section["name"] == "map":
        j = section["j"]
        return Loss(
            functools.partial(map_criterion, j=j),
            functools.partial(map_probabilities, j=j),
            other_class="no character",
        )
    return Loss(optax.losses.softmax_cross_entropy_with_integer_labels)
