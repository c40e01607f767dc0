"""The spatial pyramid against a loop, and the chi2 map against scikit-learn."""

import numpy as np
import pytest
from sklearn.kernel_approximation import AdditiveChi2Sampler
from sklearn.metrics.pairwise import additive_chi2_kernel

from models.traditional import pyramid

RNG = np.random.default_rng(1)
LEVELS = ((1, 1), (2, 2), (4, 4))


@pytest.mark.parametrize("kind", pyramid.POOLING)
@pytest.mark.parametrize("levels", [LEVELS, ((1, 1), (3, 1), (2, 2))], ids=["caltech", "voc"])
def test_pooling_is_that_of_a_loop(kind, levels):
    places, codes = RNG.random((40, 2)), np.float32(RNG.normal(size=(40, 5)))
    expected = []
    for rows, columns in levels:
        for row in range(rows):
            for column in range(columns):
                inside = [
                    code
                    for (y, x), code in zip(places, codes, strict=True)
                    if row / rows <= y < (row + 1) / rows
                    and column / columns <= x < (column + 1) / columns
                ]
                pooled = {"sum": np.sum, "max": np.max}[kind]
                expected.append(pooled(inside, axis=0) if inside else np.zeros(5))
    actual = pyramid.pool(codes, pyramid.cells(places, levels), kind)
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_21_cells_of_all_descriptors():
    members = pyramid.cells(RNG.random((100, 2)), LEVELS)
    assert len(members) == 1 + 4 + 16
    for level in (members[:1], members[1:5], members[5:]):
        assert sorted(np.concatenate(level)) == list(range(100))
    # A place between two cells belongs to the second. A place on the edge belongs to the last.
    assert [len(m) for m in pyramid.cells(np.array([[0.5, 0], [1, 1]]), ((2, 1),))] == [0, 2]
    np.testing.assert_array_equal(
        pyramid.pool(np.ones((2, 3), np.float32), [np.array([], int)], "max"), 0
    )


def test_norms_of_cells():
    pooled = np.float32([[1, 3], [0, 0], [-3, 4]])
    np.testing.assert_allclose(pyramid.per_cell(pooled, 1)[::2], [[0.25, 0.75], [-3 / 7, 4 / 7]])
    np.testing.assert_allclose(pyramid.per_cell(pooled, 2)[2], [-0.6, 0.8])
    np.testing.assert_array_equal(pyramid.per_cell(pooled, 1)[1], 0)


def test_chi2_map_is_that_of_scikit_learn():
    histograms = RNG.random((6, 10)) * (RNG.random((6, 10)) > 0.3)
    actual = np.asarray(pyramid.chi2_map(np.float32(histograms)))
    expected = AdditiveChi2Sampler(sample_steps=2, sample_interval=0.6).fit_transform(histograms)
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_products_of_mapped_histograms_are_nearly_the_chi2_kernel():
    histograms = RNG.dirichlet(np.ones(20), size=30)
    mapped = np.asarray(pyramid.chi2_map(np.float32(histograms)))
    # scikit-learn's kernel is -sum (x - y)^2 / (x + y), which is sum 4 x y / (x + y) - 2 here.
    expected = (additive_chi2_kernel(histograms) + 2) / 2
    np.testing.assert_allclose(mapped @ mapped.T, expected, atol=0.05)
