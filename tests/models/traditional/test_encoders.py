"""Codes of descriptors against scikit-learn, a numerical optimum and finite differences."""

import jax
import numpy as np
import pytest
from scipy import optimize, stats
from sklearn.decomposition import SparseCoder
from sklearn.mixture import GaussianMixture

from models.traditional import encoders

RNG = np.random.default_rng(0)


def unit(*shape):
    vectors = RNG.normal(size=shape)
    return np.float32(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))


X, WORDS = unit(20, 8), unit(30, 8)
MIXTURE = encoders.Mixture(
    np.float32([0.2, 0.5, 0.3]),
    np.float32(RNG.normal(size=(3, 8))),
    np.float32(RNG.uniform(0.5, 1.5, size=(3, 8))),
)


def test_nearest_word():
    codes = np.asarray(encoders.nearest_word(X, WORDS))
    distances = np.linalg.norm(X[:, None] - WORDS, axis=2)
    np.testing.assert_array_equal(codes.argmax(axis=1), distances.argmin(axis=1))
    np.testing.assert_array_equal(np.sort(codes, axis=1)[:, -2:], np.tile([0.0, 1.0], (20, 1)))


@pytest.mark.parametrize("words", [WORDS, unit(5, 8)], ids=["overcomplete", "few words"])
@pytest.mark.parametrize("penalty", [0.05, 0.3])
def test_sparse_codes_are_those_of_scikit_learn(words, penalty):
    coder = SparseCoder(words, transform_algorithm="lasso_lars", transform_alpha=penalty)
    expected = coder.transform(X)
    actual = np.asarray(jax.jit(encoders.sparse, static_argnums=3)(X, words, penalty, 300))
    np.testing.assert_allclose(actual, expected, atol=2e-4)
    assert 0 < (expected != 0).mean() < 1


def test_sparse_codes_are_near_the_optimum_after_the_usual_iterations():
    def objective(codes):
        return 0.5 * ((X - codes @ WORDS) ** 2).sum(1) + 0.15 * np.abs(codes).sum(1)

    coder = SparseCoder(WORDS, transform_algorithm="lasso_lars", transform_alpha=0.15)
    best = objective(coder.transform(X))
    actual = objective(np.asarray(jax.jit(encoders.sparse)(X, WORDS, 0.15)))
    assert ((actual - best) / best).max() < 1e-3


def test_llc_is_the_constrained_optimum():
    neighbours, beta = 4, 0.05
    codes = np.asarray(jax.jit(encoders.llc, static_argnums=2)(X, WORDS, neighbours, beta))
    np.testing.assert_allclose(codes.sum(axis=1), 1, rtol=1e-5)
    for x, code in zip(np.float64(X), codes, strict=True):
        nearest = np.argsort(np.linalg.norm(WORDS - x, axis=1))[:neighbours]
        assert set(np.flatnonzero(code)) == set(nearest)
        words = np.float64(WORDS[nearest])
        penalty = beta * ((words - x) ** 2).sum()
        best = optimize.minimize(
            lambda c, x=x, words=words, penalty=penalty: (
                ((x - c @ words) ** 2).sum() + penalty * (c**2).sum()
            ),
            np.full(neighbours, 1 / neighbours),
            constraints={"type": "eq", "fun": lambda c: c.sum() - 1},
            tol=1e-12,
        )
        np.testing.assert_allclose(code[nearest], best.x, atol=1e-4)


def test_llc_of_a_word_is_the_word():
    codes = jax.jit(encoders.llc, static_argnums=2)(WORDS[:3], WORDS, 5)
    np.testing.assert_allclose(codes, np.eye(3, 30), atol=5e-3)


def log_likelihood(x, mixture):
    normal = stats.norm(mixture.means, mixture.deviations)  # [k, d]
    of_components = normal.logpdf(x[:, None]).sum(axis=2) + np.log(mixture.shares)
    return np.logaddexp.reduce(of_components, axis=1).mean()


@jax.jit
def fisher(x, probabilities):
    return encoders.fisher(encoders.moments(x, probabilities), MIXTURE)


def test_fisher_vector_is_the_gradient_of_the_log_likelihood():
    x, mixture = np.float64(X), encoders.Mixture(*map(np.float64, MIXTURE))
    gradients = []
    for field in ("means", "deviations"):
        gradient = np.zeros((3, 8))
        for k, d in np.ndindex(3, 8):
            ends = []
            for change in (1e-5, -1e-5):
                moved = getattr(mixture, field).copy()
                moved[k, d] += change
                ends.append(log_likelihood(x, mixture._replace(**{field: moved})))
            gradient[k, d] = (ends[0] - ends[1]) / 2e-5
        gradients.append(gradient)
    # The Fisher information of a mean is share / deviation^2, that of a deviation twice as much.
    scale = mixture.deviations / np.sqrt(mixture.shares)[:, None]
    expected = np.concatenate([gradients[0] * scale, gradients[1] * scale / np.sqrt(2)])

    actual = fisher(X, encoders.posteriors(X, MIXTURE))
    assert actual.shape == (2 * 3 * 8,)
    np.testing.assert_allclose(actual, expected.ravel(), atol=1e-5)


def test_descriptors_that_do_not_count_change_nothing():
    probabilities = np.asarray(encoders.posteriors(X, MIXTURE)).copy()
    probabilities[12:] = 0
    expected = fisher(X[:12], probabilities[:12])
    np.testing.assert_allclose(fisher(X, probabilities), expected, atol=1e-6)
    assert not np.any(fisher(X, 0 * probabilities))


def test_posteriors_are_those_of_scikit_learn():
    fitted = GaussianMixture(3, covariance_type="diag", random_state=0).fit(X)
    mixture = encoders.Mixture(fitted.weights_, fitted.means_, np.sqrt(fitted.covariances_))
    actual = encoders.posteriors(X, encoders.Mixture(*map(np.float32, mixture)))
    np.testing.assert_allclose(actual, fitted.predict_proba(X), atol=1e-4)


def test_signed_root():
    np.testing.assert_allclose(encoders.signed_root(np.float32([4, -9, 0])), [2, -3, 0])
