"""Codes of descriptors: vector quantisation, sparse coding, LLC, and improved Fisher vectors.

A descriptor is a row of `x`, [n, d]. A code says by which words of a codebook, [words, d], it is
described. A Fisher vector describes a set of descriptors by a Gaussian mixture.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


def squared_distances(x: jax.Array, words: jax.Array) -> jax.Array:
    """[n, words], between descriptors and words; never negative."""
    products = x @ words.T
    sums = (x * x).sum(axis=1)[:, None] + (words * words).sum(axis=1)
    return jnp.maximum(0, sums - 2 * products)


def nearest_word(x: jax.Array, words: jax.Array) -> jax.Array:
    """Vector quantisation: 1 for the nearest word of a descriptor, else 0; [n, words].

    Their sum over an image is its histogram of visual words (Lazebnik 2006).
    """
    return jax.nn.one_hot(squared_distances(x, words).argmin(axis=1), len(words))


def sparse(x: jax.Array, words: jax.Array, penalty: float, iterations: int = 100) -> jax.Array:
    """Sparse codes u, [n, words], which minimise 1/2 |x - u words|^2 + penalty |u|_1 (Yang 2009).

    By accelerated proximal gradient descent (FISTA: Beck and Teboulle 2009, restarted for each
    descriptor where the momentum points uphill: O'Donoghue and Candes 2015).
    """
    # The curvature is at most the largest eigenvalue of words words^T; words^T words is smaller.
    smaller = words.T @ words if len(words) > words.shape[1] else words @ words.T
    step = 1 / jnp.linalg.eigvalsh(smaller)[-1]

    def iterate(_, state):
        codes, ahead, momentum = state
        moved = ahead - step * (ahead @ words - x) @ words.T
        new = jnp.sign(moved) * jnp.maximum(0, jnp.abs(moved) - step * penalty)
        change = new - codes
        uphill = ((ahead - new) * change).sum(axis=1, keepdims=True) > 0
        momentum = jnp.where(uphill, 1.0, momentum)
        next_momentum = (1 + jnp.sqrt(1 + 4 * momentum**2)) / 2
        return new, new + (momentum - 1) / next_momentum * change, next_momentum

    zeros = jnp.zeros((len(x), len(words)), x.dtype)
    start = zeros, zeros, jnp.ones((len(x), 1), x.dtype)
    return jax.lax.fori_loop(0, iterations, iterate, start)[0]


def llc(x: jax.Array, words: jax.Array, neighbours: int = 5, beta: float = 1e-4) -> jax.Array:
    """Locality-constrained linear codes [n, words] (Wang 2010, sec. 3, the fast approximation).

    The affine combination of the nearest words that is closest to the descriptor: the weights sum
    to 1, and all other words have 0. beta: factor of a penalty on the squares of the weights, as a
    share of the sum of the squared distances to these words.
    """
    words = jnp.asarray(words)
    _, nearest = jax.lax.top_k(-squared_distances(x, words), neighbours)
    offsets = words[nearest] - x[:, None]  # [n, neighbours, d]
    covariance = jnp.einsum("nid,njd->nij", offsets, offsets)
    trace = jnp.trace(covariance, axis1=1, axis2=2)
    ridge = jnp.maximum(beta * trace, 1e-12)[:, None, None] * jnp.eye(neighbours)
    weights = jnp.linalg.solve(covariance + ridge, jnp.ones((*nearest.shape, 1)))[..., 0]
    weights /= weights.sum(axis=1, keepdims=True)
    codes = jnp.zeros((len(x), len(words)), x.dtype)
    return codes.at[jnp.arange(len(x))[:, None], nearest].set(weights)


class Mixture(NamedTuple):
    """A mixture of k Gaussians with diagonal covariances.

    shares: of the components, [k]. means, deviations: [k, d].
    """

    shares: jax.Array
    means: jax.Array
    deviations: jax.Array


def posteriors(x: jax.Array, mixture: Mixture) -> jax.Array:
    """The probability of each component, given a descriptor: [n, k]."""
    precision = mixture.deviations**-2
    squares = (x * x) @ precision.T - 2 * x @ (mixture.means * precision).T
    squares += (mixture.means**2 * precision).sum(axis=1)
    constants = jnp.log(mixture.shares) - jnp.log(mixture.deviations).sum(axis=1)
    return jax.nn.softmax(constants - squares / 2, axis=1)


def moments(x: jax.Array, probabilities: jax.Array) -> jax.Array:
    """Sums over descriptors, by component: of 1, x and x^2, weighted; [k, 1 + 2 d].

    probabilities: `posteriors` [n, k]; rows of zeros are descriptors that do not count.
    """
    powers = jnp.concatenate([jnp.ones((len(x), 1), x.dtype), x, x * x], axis=1)
    return probabilities.T @ powers


def fisher(sums: jax.Array, mixture: Mixture) -> jax.Array:
    """The Fisher vector of a set of descriptors, [2 k d] (Perronnin 2010, sec. 2).

    The gradient of their mean log-likelihood with respect to the means and to the deviations,
    scaled by the inverse root of its (approximate) Fisher information.

    sums: their `moments`. The vector of no descriptors is zero. The sums are float32: deviations
    far below 0.01 make the result inexact (those of SIFT on the digits are above 0.02).
    """
    means, deviations = mixture.means, mixture.deviations
    counts, first, second = jnp.split(sums, (1, 1 + means.shape[1]), axis=1)
    scale = jnp.maximum(1, counts.sum()) * jnp.sqrt(mixture.shares)[:, None]
    of_means = (first - counts * means) / deviations / scale
    spread = (second - 2 * first * means + counts * means**2) / deviations**2
    of_deviations = (spread - counts) / (jnp.sqrt(2.0) * scale)
    return jnp.concatenate([of_means.ravel(), of_deviations.ravel()])


def signed_root(vectors: jax.Array) -> jax.Array:
    """sign(v) sqrt(|v|): one of the improvements of Perronnin 2010, sec. 3.2."""
    sizes = jnp.where(vectors == 0, 1, jnp.abs(vectors))  # a root has no derivative at 0
    return jnp.sign(vectors) * jnp.sqrt(sizes)
