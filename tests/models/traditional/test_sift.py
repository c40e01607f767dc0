"""Dense SIFT; tests/parity compares it with OpenCV."""

import itertools
import math

import jax
import numpy as np
import pytest
from scipy import ndimage

from models.traditional import sift

IMAGE = np.random.default_rng(0).random((2, 24, 30)).astype(np.float32)


def descriptor_by_loop(image, row, column, width):
    """Lowe 2004, sec. 6.1: each gradient is shared between its nearest bins, eight at most."""
    histogram = np.zeros((4, 4, 8))
    for y, x in itertools.product(range(1, image.shape[0] - 1), range(1, image.shape[1] - 1)):
        dx = (image[y, x + 1] - image[y, x - 1]) / 2
        dy = (image[y - 1, x] - image[y + 1, x]) / 2
        v, u = (y - row) / width, (x - column) / width
        weight = math.hypot(dx, dy) * math.exp(-(u * u + v * v) / (2 * 2**2))
        place = v + 1.5, u + 1.5, math.atan2(dy, dx) % (2 * math.pi) * 8 / (2 * math.pi)
        lows = [math.floor(value) for value in place]
        for corner in itertools.product((0, 1), repeat=3):
            i, j, k = (low + more for low, more in zip(lows, corner, strict=True))
            if 0 <= i < 4 and 0 <= j < 4:
                shares = (1 - abs(value - n) for value, n in zip(place, (i, j, k), strict=True))
                histogram[i, j, k % 8] += weight * math.prod(shares)
    vector = histogram.ravel()
    length = np.linalg.norm(vector)
    cut = np.minimum(vector / length, 0.2)
    return cut / np.linalg.norm(cut), length / (4 * width) ** 2


def test_descriptors_are_those_of_a_loop():
    rows, columns = np.array([8.0, 13.5]), np.array([9.0, 14.25, 26.0])
    describe = jax.jit(lambda images: sift.describe(images, rows, columns, 3))
    actual, contrasts = describe(IMAGE)
    for image, i, j in itertools.product((0, 1), (0, 1), (0, 1, 2)):
        expected, contrast = descriptor_by_loop(IMAGE[image], rows[i], columns[j], 3)
        np.testing.assert_allclose(actual[image, i, j], expected, atol=1e-6)
        np.testing.assert_allclose(contrasts[image, i, j], contrast, rtol=1e-5)


def test_blur_is_a_gaussian_filter():
    actual = sift.blur(IMAGE, 1.2)[:, 6:-6, 6:-6]  # edges are treated differently
    expected = ndimage.gaussian_filter(IMAGE, (0, 1.2, 1.2), truncate=5)[:, 6:-6, 6:-6]
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    np.testing.assert_allclose(sift.blur(np.ones_like(IMAGE), 2.0), 1, atol=1e-6)


def test_grids_lie_inside_and_in_the_middle():
    assert sift.grid(16, 4, 3).tolist() == [7.5]  # pixels -0.5 to 15.5
    assert sift.grid(20, 4, 2).tolist() == [7.5, 9.5, 11.5]
    assert sift.grid(21, 4, 2).tolist() == [8, 10, 12]
    with pytest.raises(ValueError, match="side of 15 pixels is smaller than a SIFT patch of 4 x 4"):
        sift.grid(15, 4, 1)


def test_dense_descriptors_and_their_places():
    images = np.zeros((1, 24, 40, 3), np.float32)
    images[:, :, 20:] = (1, 0, 0)  # an edge; its gradient points to the right
    dense = jax.jit(lambda x: sift.dense(x, (3, 4), 4, 0.001))
    descriptors, used = dense(images)
    places = sift.places(24, 40, (3, 4), 4)
    # Patches of 12 pixels: 4 x 8 places; of 16 pixels: 3 x 7.
    assert descriptors.shape == (1, 4 * 8 + 3 * 7, 128) and len(places) == 4 * 8 + 3 * 7
    np.testing.assert_allclose(places[0] * (24, 40), (6, 6))
    np.testing.assert_allclose(places[-1] * (24, 40), (16, 32))
    reach = np.repeat((6, 8), (32, 21))
    sees_edge = np.abs(places[:, 1] * 40 - 20) < reach - 1
    assert sees_edge.any() and not sees_edge.all()
    assert used[0][sees_edge].all()
    assert not used[0][np.abs(places[:, 1] * 40 - 20) > reach + 3].any()
    seen = np.asarray(descriptors[0])[sees_edge].reshape(-1, 16, 8)
    np.testing.assert_allclose(np.linalg.norm(seen, axis=(1, 2)), 1, rtol=1e-5)
    assert (seen[..., 0].sum(1) > 0).all() and np.abs(seen[..., 2:7]).max() < 1e-6


def test_gray_is_the_luminance():
    colours = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]], np.float32)
    np.testing.assert_allclose(
        sift.gray(colours.reshape(1, 2, 2, 3)), [[[0.299, 0.587], [0.114, 1]]], atol=1e-6
    )
    np.testing.assert_array_equal(sift.gray(IMAGE[..., None]), IMAGE)
