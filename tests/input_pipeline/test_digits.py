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
    everything = np.bincount(load_digits().target)
    assert np.bincount(test_labels).tolist() == (everything // 5).tolist()
    assert (np.bincount(train_labels) + np.bincount(test_labels)).tolist() == everything.tolist()
    assert train_images.max() == 255
    assert train_images.min() == 0
    with pytest.raises(UserError, match="choose train or test"):
        digits.load("validation")
