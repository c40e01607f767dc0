"""Rosenblatt's perceptron and its learning rule (the lecture's first learning machine).

Rosenblatt 1958, "The perceptron", Psychological Review 65; the rule in this form and the bound are
those of Novikoff 1962, "On convergence proofs for perceptrons". The rule finds a line that
separates two classes, if one exists. For XOR none exists (Minsky and Papert 1969). A hidden layer
(models/mlp.py) solves it. notebooks/perceptron.ipynb is the lesson.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# The four points of a function of two bits, and its values: +1 is true, -1 is false.
POINTS = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], np.float32)
FUNCTIONS = {
    "and": np.array([-1, -1, -1, 1]),
    "or": np.array([-1, 1, 1, 1]),
    "xor": np.array([-1, 1, 1, -1]),
}


class Learnt(NamedTuple):
    """What `learn` returns.

    weights: [inputs + 1], the last is the bias. mistakes: int32 [passes], of each pass; 0 in all
    passes after the first one without a mistake. history: [passes, examples, inputs + 1], the
    weights after each example.
    """

    weights: jax.Array
    mistakes: jax.Array
    history: jax.Array


@functools.partial(jax.jit, static_argnames="passes")
def learn(inputs, labels, passes: int = 100) -> Learnt:
    """Rosenblatt's rule: goes through the examples, and adds label * input at each mistake.

    inputs: [examples, inputs]. labels: [examples], positive for one class, 0 or negative for the
    other. Weights start at 0, and a sum of 0 counts as a mistake. The order of examples is the
    given one in each pass.

    Raises ValueError for other shapes, and for passes below 1.
    """
    x, labels = with_bias(inputs), jnp.where(jnp.asarray(labels) > 0, 1, -1)
    if labels.shape != x.shape[:1]:
        raise ValueError(f"{len(x)} inputs have labels of the shape {list(labels.shape)}")
    if passes < 1:
        raise ValueError(f"passes: {passes}: give 1 or more")

    def example(weights, example):
        x, label = example
        is_wrong = label * (weights @ x) <= 0
        weights = weights + is_wrong * label * x
        return weights, (is_wrong, weights)

    def one_pass(weights, _):
        weights, (is_wrong, history) = jax.lax.scan(example, weights, (x, labels.astype(x.dtype)))
        return weights, (is_wrong.sum(), history)

    start = jnp.zeros(x.shape[1], x.dtype)
    weights, (mistakes, history) = jax.lax.scan(one_pass, start, length=passes)
    return Learnt(weights, mistakes, history)


def predict(weights, inputs) -> jax.Array:
    """The class of each input, +1 or -1: the side of the line that it is on. [examples]"""
    return jnp.where(with_bias(inputs) @ weights > 0, 1, -1)


def mistake_bound(weights, inputs, labels) -> float:
    """Novikoff's bound on all mistakes of `learn`, whatever the order of the examples.

    weights: [inputs + 1] of any line that separates the classes; the one with the largest margin
    gives the lowest bound. labels: as in `learn`. The bound is (R / margin)^2, with R the largest
    norm of an input, and the margin the smallest distance of an input from the plane. Both are
    taken with the bias's constant input 1. Raises ValueError if the weights do not separate the
    classes.
    """
    x, weights = np.asarray(with_bias(inputs), np.float64), np.asarray(weights, np.float64)
    least = np.min(np.where(np.asarray(labels) > 0, 1, -1) * (x @ weights))
    if not least > 0:
        raise ValueError("these weights do not separate the classes, so there is no bound")
    margin = least / np.linalg.norm(weights)
    return float(np.square(x).sum(axis=1).max() / margin**2)


def with_bias(inputs) -> jax.Array:
    """The inputs with a constant 1 after each: [examples, inputs] -> [examples, inputs + 1]."""
    x = jnp.asarray(inputs)
    if x.ndim != 2:
        raise ValueError(f"inputs of the shape {list(x.shape)}: give [examples, inputs]")
    x = x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.float32)
    return jnp.pad(x, ((0, 0), (0, 1)), constant_values=1)
