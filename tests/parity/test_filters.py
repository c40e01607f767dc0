"""models/filters.py against SciPy, OpenCV and scikit-image, on a photograph of values in 0 to 1."""

import numpy as np
import pytest
from scipy import ndimage
from sklearn.datasets import load_sample_images

from models import filters

cv2 = pytest.importorskip("cv2")
pytest.importorskip("skimage")
from skimage import feature  # noqa: E402

# Names of SciPy and OpenCV for the rules at the border.
SCIPY = {"symmetric": "reflect", "reflect": "mirror", "zero": "constant"}
OPENCV = {"symmetric": "BORDER_REFLECT", "reflect": "BORDER_REFLECT_101", "zero": "BORDER_CONSTANT"}


@pytest.fixture(scope="module")
def photo():
    """float32 [61, 83, 3]: a part of scikit-learn's temple, with edges and a smooth sky."""
    part = load_sample_images().images[0][60:121, 250:333]
    assert part.std() > 40
    return np.float32(part) / 255


def of_each(function, photo):
    """`function` of [height, width] applied to each channel of [height, width, channels]."""
    return np.stack([function(channel) for channel in np.moveaxis(photo, -1, 0)], axis=-1)


def assert_equal(ours, theirs, limit=1e-5):
    """theirs: [height, width, channels]; the largest difference is below 1e-5."""
    assert ours.shape[1:] == theirs.shape
    assert np.abs(np.asarray(ours[0], np.float64) - theirs).max() < limit


@pytest.mark.parametrize("border", SCIPY)
def test_mean(photo, border):
    ours = filters.mean(photo[None], 5, border)
    assert_equal(ours, of_each(lambda x: ndimage.uniform_filter(x, 5, mode=SCIPY[border]), photo))
    opencv = cv2.blur(photo, (5, 5), borderType=getattr(cv2, OPENCV[border]))
    assert_equal(ours, opencv)


@pytest.mark.parametrize("border", SCIPY)
def test_gaussian(photo, border):
    ours = filters.gaussian(photo[None], 1.7, border=border)
    mode = SCIPY[border]
    assert_equal(ours, of_each(lambda x: ndimage.gaussian_filter(x, 1.7, mode=mode), photo))
    ours = filters.gaussian(photo[None], 1.7, radius=4, border=border)
    edge = getattr(cv2, OPENCV[border])
    assert_equal(ours, cv2.GaussianBlur(photo, (9, 9), 1.7, borderType=edge))


@pytest.mark.parametrize("border", SCIPY)
def test_sobel(photo, border):
    edge = getattr(cv2, OPENCV[border])
    for ours, axis, order in ((filters.sobel_x, 1, (1, 0)), (filters.sobel_y, 0, (0, 1))):
        ours = ours(photo[None], border)
        mode = SCIPY[border]
        assert_equal(ours, of_each(lambda x, a=axis, m=mode: ndimage.sobel(x, a, mode=m), photo))
        assert_equal(ours, cv2.Sobel(photo, cv2.CV_32F, *order, ksize=3, borderType=edge))
    x, y = (of_each(lambda p, a=a: ndimage.sobel(p, a, mode=SCIPY[border]), photo) for a in (1, 0))
    assert_equal(filters.sobel_magnitude(photo[None], border), np.hypot(x, y))


@pytest.mark.parametrize("border", SCIPY)
@pytest.mark.parametrize("sigma_space, sigma_value", [(1.5, 0.1), (3.0, 0.5)])
def test_bilateral(photo, border, sigma_space, sigma_value):
    # Of grey images: OpenCV measures the difference of colours in another way. (The weights of
    # scikit-image 0.26 are not symmetric: the table of its window is one row too large.)
    grey, edge = photo[..., :1], getattr(cv2, OPENCV[border])
    ours = filters.bilateral(grey[None], sigma_space, sigma_value, radius=4, border=border)
    theirs = cv2.bilateralFilter(grey, 9, sigma_value, sigma_space, borderType=edge)
    assert_equal(ours, theirs[..., None])


@pytest.mark.parametrize("sigma, k", [(1.0, 0.05), (2.0, 0.04)])
def test_harris(photo, sigma, k):
    theirs = of_each(lambda x: feature.corner_harris(x, "k", k, sigma=sigma), photo)
    assert theirs.max() > 1
    assert_equal(filters.harris(photo[None], sigma, k, border="zero"), theirs, 1e-5 * theirs.max())


def test_peaks(photo):
    response = np.array(filters.harris(photo[None, ..., :1]))
    ours = filters.peaks(response, radius=2, share=0.001)
    theirs = feature.peak_local_max(
        response[0, ..., 0], min_distance=2, threshold_rel=0.001, exclude_border=False
    )
    assert len(theirs) > 10
    assert {*map(tuple, np.argwhere(np.asarray(ours[0, ..., 0])))} == {*map(tuple, theirs)}


@pytest.mark.parametrize("angle, phase", [(0.0, 0.0), (0.6, 1.1), (2.5, np.pi / 2)])
def test_gabor(angle, phase):
    ours = filters.gabor(11, 6.0, angle, phase, 2.5, aspect=0.5)
    theirs = cv2.getGaborKernel((11, 11), 2.5, angle, 6.0, 0.5, -phase)
    # OpenCV's kernel is turned by 180 degrees.
    assert np.abs(ours - theirs[::-1, ::-1]).max() < 1e-5


@pytest.mark.parametrize("border", OPENCV)
def test_convolve(photo, border):
    kernel = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    grey = photo[..., :1]
    ours = filters.convolve(grey[None], kernel[..., None, None], border)
    edge = getattr(cv2, OPENCV[border])
    assert_equal(ours, cv2.filter2D(grey, -1, kernel, borderType=edge)[..., None])
    theirs = ndimage.correlate(grey[..., 0], kernel, mode=SCIPY[border])
    assert_equal(ours, theirs[..., None])
