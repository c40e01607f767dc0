"""What --mode=predict says about an image."""

import numpy as np
import pytest

from train_lib.commands.predict import in_words

NAMES = ("cat", "dog", "great auk, extinct")


@pytest.mark.parametrize(
    ("row", "words", "short"),
    [
        ([0.02, 0.978, 0.002], "dog (98 %), cat (2 %)", "dog (98 %)"),
        ([0, 0, 1], "great auk, extinct (100 %)", "great auk, extinct (100 %)"),
        ([0.5, 0, 0.5], "cat (50 %), great auk, extinct (50 %)", "cat (50 %)"),
    ],
)
def test_the_most_probable_class_comes_first(row, words, short):
    assert in_words(np.float32(row), NAMES) == words
    assert in_words(np.float32(row), NAMES, is_short=True) == short


def test_at_most_five_classes_and_the_first_in_any_case():
    names = [str(i) for i in range(1000)]
    assert in_words(np.full(1000, 0.001), names) == "0 (below 1 %)"
    row = np.zeros(1000)
    row[:8] = 0.125
    assert in_words(row, names).count("%") == 5


@pytest.mark.parametrize(
    ("row", "words", "short"),
    [
        # LeCun 1998, eq. 9, with j = 0.1: 52 % for an image that is exactly as its class.
        ([0.0, 0.52, 0.0], "dog (100 %)", "dog (100 %)"),
        ([0.05, 0.15, 0.0], "dog (75 %), cat (25 %)", "dog (75 %)"),
        (
            [0.01, 0.03, 0.0],
            "looks most like dog, but is probably no character (96 %)",
            "dog? no character (96 %)",
        ),
        (
            [1e-40, 0.0, 1e-30],
            "looks most like great auk, extinct, but is probably no character (100 %)",
            "great auk, extinct? no character (100 %)",
        ),
    ],
)
def test_an_image_of_no_class_is_said_to_be_that(row, words, short):
    assert in_words(np.float32(row), NAMES, "no character") == words
    assert in_words(np.float32(row), NAMES, "no character", is_short=True) == short


def test_outputs_that_are_not_finite_are_no_class():
    row = np.float32([np.nan, 0.3, 0.3])
    assert in_words(row, NAMES).startswith("no class, because ")
