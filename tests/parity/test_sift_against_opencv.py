"""SIFT descriptors at fixed keypoints against OpenCV's."""

import jax
import numpy as np
import pytest

from models.traditional import sift

cv2 = pytest.importorskip("cv2", reason="compares with OpenCV, which is not installed: make parity")


@pytest.mark.parametrize("bin_width", [4, 6, 8.5])
def test_descriptors_at_fixed_keypoints(bin_width):
    # Blobs of several sizes; OpenCV takes 8 bits.
    noise = np.random.default_rng(0).normal(size=(120, 150)).astype(np.float32)
    blobs = sum(s * cv2.GaussianBlur(noise, (0, 0), s) for s in (1.0, 2.0, 5.0, 10.0))
    image = np.uint8(255 * (blobs - blobs.min()) / np.ptp(blobs))
    # Patches that cross the edge of the image are among them.
    rows, columns = np.arange(12, 120, 16), np.arange(9, 150, 19)
    # A descriptor's bin is three times the half of a keypoint's size. Angle 0: not rotated.
    size = 2 / 3 * bin_width
    keypoints = [cv2.KeyPoint(float(x), float(y), size, 0.0) for y in rows for x in columns]
    _, expected = cv2.SIFT_create().compute(image, keypoints)

    # OpenCV smooths the image from an assumed deviation of 0.5 to 1.6.
    smooth = cv2.GaussianBlur(np.float32(image), (0, 0), np.sqrt(1.6**2 - 0.5**2))
    describe = jax.jit(lambda images: sift.describe(images, rows, columns, bin_width)[0])
    actual = np.asarray(describe(smooth[None])).reshape(expected.shape)

    # OpenCV rounds 512 times the descriptor to whole numbers: half a unit. Its arc tangent is an
    # approximation, which is good for the rest. Turned by 1 degree, the difference is 3 units.
    assert expected.max() < 255  # none is cut off
    assert np.abs(512 * actual - expected).max() < 0.55
