"""The embedded data set: the 1,797 handwritten digits that scikit-learn ships.

8x8 images of 17 grey levels, by 13 writers (the test part of UCI's "Optical Recognition of
Handwritten Digits"), enlarged to MNIST's 28x28. The split is fixed and stratified: within each
class, in scikit-learn's order, every fifth example (the 5th, 10th, ...) is a test example. That
gives 1,442 training and 355 test images. Both splits have the same writers, so the error is lower
than for new writers.
"""

import importlib.util
import pathlib

import numpy as np

from errors import UserError

IMAGE_SHAPE = (28, 28, 1)
CLASS_NAMES = tuple("0123456789")


def load(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [n, 28, 28, 1] and labels int32 [n] of "train" or "test".

    Raises UserError for any other split.
    """
    if split not in ("train", "test"):
        raise UserError(f"digits has no split {split!r}: choose train or test")
    from PIL import Image

    # scikit-learn's file. Importing scikit-learn would take about a second.
    package = pathlib.Path(importlib.util.find_spec("sklearn").origin).parent
    rows = np.loadtxt(package / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    # A row has 64 grey levels and the label.
    small, labels = rows[:, :-1].reshape(-1, 8, 8), rows[:, -1].astype(np.int32)
    in_test = np.zeros(len(labels), bool)
    for digit in range(10):
        in_test[np.flatnonzero(labels == digit)[4::5]] = True
    in_split = in_test == (split == "test")
    small = np.rint(small[in_split] * (255 / 16)).astype(np.uint8)
    size = IMAGE_SHAPE[1], IMAGE_SHAPE[0]
    images = [Image.fromarray(image).resize(size, Image.Resampling.BICUBIC) for image in small]
    return np.stack([np.asarray(image) for image in images])[..., None], labels[in_split]
