"""Losses by name: logits [batch, classes] and labels [batch] to float32 losses [batch]."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

NAMES = ("map", "mse", "softmax")


def mse(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """y_D, the RBF output of the right class (LeCun 1998, eq. 8); logits are -y."""
    return -jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]


def map_criterion(logits: jax.Array, labels: jax.Array, j: float) -> jax.Array:
    """y_D + log(exp(-j) + sum_i exp(-y_i)) over all classes (LeCun 1998, eq. 9); logits are -y.

    j > 0 is the constant of the class of everything that is no character ("rubbish"). The paper
    gives it no value.
    """
    rubbish = jnp.full((logits.shape[0], 1), -j, logits.dtype)
    everything = jax.nn.logsumexp(jnp.concatenate([logits, rubbish], axis=1), axis=1)
    return mse(logits, labels) + everything


def make_loss(section: Mapping[str, Any]) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The loss of a config's `loss` section."""
    if section["name"] == "mse":
        return mse
    if section["name"] == "map":
        return lambda logits, labels: map_criterion(logits, labels, section["j"])
    return optax.losses.softmax_cross_entropy_with_integer_labels


def probabilities(section: Mapping[str, Any], logits: jax.Array) -> jax.Array:
    """Class probabilities [batch, classes] that belong to a loss.

    Under the MAP criterion the rubbish class has a share too: what is missing to 1.
    """
    if section["name"] == "map":
        rubbish = jnp.full((logits.shape[0], 1), -section["j"], logits.dtype)
        return jax.nn.softmax(jnp.concatenate([logits, rubbish], axis=1), axis=1)[:, :-1]
    return jax.nn.softmax(logits, axis=1)
