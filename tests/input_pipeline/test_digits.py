"""The embedded data set."""

import numpy as np
import pytest

from errors import UserError
from input_pipeline import digits


def test_digits_split_is_fixed_stratified_and_disjoint():
    from sklearn.datasets import load_digits

    train_images, train_labels = digits.load("train")
    test_images, test_labels = digits.load("test")
    assert train_images.shape == (1442, 28, 28, 1)
    assert test_images.shape == (355, 28, 28, 1)
    assert train_images.dtype == np.uint8
    # Of each class, every fifth image is a test image.
    source = load_digits()
    is_test = np.zeros(len(source.target), bool)
    for digit in range(10):
        is_test[np.flatnonzero(source.target == digit)[4::5]] = True
    everything = np.empty((len(is_test), 28, 28, 1), np.uint8)
    everything[~is_test], everything[is_test] = train_images, test_images
    np.testing.assert_array_equal(train_labels, source.target[~is_test])
    np.testing.assert_array_equal(test_labels, source.target[is_test])
    assert len(np.unique(everything.reshape(len(everything), -1), axis=0)) == len(everything)
    assert train_images.max() == 255
    assert train_images.min() == 0
    with pytest.raises(UserError, match="choose train or test"):
        digits.load("validation")
