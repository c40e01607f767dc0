"""Filters with fixed weights: the lecture's example, equivariance, closed forms, bad input.

tests/parity/test_filters.py compares them with OpenCV and scikit-image.
"""

import math

import jax
import numpy as np
import pytest
from scipy import ndimage, signal

from models import filters, layers

ROWS = ("100001", "010010", "001100", "100010", "010010", "001010")
IMAGE = np.array([list(row) for row in ROWS], int)
KERNELS = {
    "diagonal": (
        [[1, -1, -1], [-1, 1, -1], [-1, -1, 1]],
        [[3, -1, -3, -1], [-3, 1, 0, -3], [-3, -3, 0, 1], [3, -2, -2, -1]],
        [[3, 0], [3, 1]],
    ),
    "vertical": (
        [[-1, 1, -1]] * 3,
        [[-1, -1, -1, -1], [-1, -1, -2, 1], [-1, -1, -2, 1], [-1, 0, -4, 3]],
        [[-1, 1], [0, 3]],
    ),
}
# Every filter of images of one channel, with the reach of its window in pixels.
KERNEL = np.random.default_rng(1).normal(size=(5, 3, 1, 2)).astype(np.float32)
FILTERS = {
    "convolve": (lambda x, border: filters.convolve(x, KERNEL, border), 2),
    "mean": (lambda x, border: filters.mean(x, 5, border), 2),
    "gaussian": (lambda x, border: filters.gaussian(x, 1.0, border=border), 4),
    "bilateral": (lambda x, border: filters.bilateral(x, 1.0, 0.3, border=border), 3),
    "sobel_x": (filters.sobel_x, 1),
    "sobel_y": (filters.sobel_y, 1),
    "sobel_magnitude": (filters.sobel_magnitude, 1),
    "harris": (lambda x, border: filters.harris(x, border=border), 5),
    "simple_cells": (lambda x, border: filters.simple_cells(x, filters.oriented_bank(), border), 5),
}


def noise(*shape, seed=0):
    return np.random.default_rng(seed).uniform(size=shape).astype(np.float32)


@pytest.mark.parametrize("name", KERNELS)
def test_the_lectures_example(name):
    """A 6x6 image, two kernels, their feature maps, and 2x2 maxima (worked out by hand)."""
    kernel, feature_map, pooled = KERNELS[name]
    x, kernel = IMAGE[None, ..., None], np.array(kernel)[..., None, None]
    for convolve in (filters.sliding_sum, filters.convolve):
        assert convolve(x, kernel)[0, ..., 0].tolist() == feature_map
    pool = layers.Pool("max", 2, 2)
    assert pool.apply({}, filters.convolve(x, kernel))[0, ..., 0].tolist() == pooled


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_a_convolution_is_a_sliding_sum(stride):
    x, kernel = noise(2, 9, 12, 3), noise(4, 3, 3, 5, seed=1)
    expected = np.zeros((2, 6, 10, 5))
    for image, maps in zip(x, expected, strict=True):
        for number in range(5):
            for channel in range(3):
                weights = kernel[:, :, channel, number]
                maps[..., number] += signal.correlate2d(image[..., channel], weights, "valid")
    expected = expected[:, ::stride, ::stride]
    for convolve in (filters.sliding_sum, filters.convolve):
        assert np.allclose(convolve(x, kernel, stride=stride), expected, atol=1e-5)


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("border", ["zero", "reflect"])
def test_filters_commute_with_shifts_away_from_the_border(name, border):
    """Translation equivariance: shift, then filter, is filter, then shift."""
    apply, reach = FILTERS[name]
    down, right = 3, 2
    scene = noise(1, 40, 40, 1)
    before = apply(scene[:, :30, :30], border)
    after = apply(scene[:, down : 30 + down, right : 30 + right], border)
    size = 30 - 2 * reach
    common = before[:, down + reach : 30 - reach, right + reach : 30 - reach]
    moved = after[:, reach : 30 - reach - down, reach : 30 - reach - right]
    assert common.shape[1:3] == (size - down, size - right)
    assert np.std(common) > 0.01
    assert np.allclose(common, moved, atol=1e-5 * np.abs(common).max())


@pytest.mark.parametrize("name", FILTERS)
def test_borders_break_the_equivariance(name):
    apply, reach = FILTERS[name]
    scene = noise(1, 40, 40, 1)
    before, after = apply(scene[:, :30, :30], "zero"), apply(scene[:, :30, 1:31], "zero")
    difference = np.abs(before[:, :, 1:] - after[:, :, :-1]).max(axis=(0, 1, 3))
    limit = 0.01 * np.std(before)
    # The windows of the last columns of the first image, or of the first of the other, cross it.
    assert difference[0] > limit and difference[-1] > limit
    assert difference[reach : len(difference) - reach].max() < limit


def test_strides_break_the_equivariance():
    """With stride 2, only shifts by even numbers of pixels move the map, by half as much."""
    scene = noise(1, 31, 31, 1)

    def maps(shift):
        return np.asarray(filters.convolve(scene[:, shift : shift + 21, :21], KERNEL, stride=2))

    assert np.allclose(maps(2)[:, :-1], maps(0)[:, 1:], atol=1e-6)
    assert np.allclose(maps(4)[:, :-2], maps(0)[:, 2:], atol=1e-6)
    spread = np.std(maps(0))
    for whole in (0, 1):  # a shift by one pixel is a shift of the map by 0 or by 1: neither
        moved = maps(0)[:, whole:]
        assert np.abs(maps(1)[:, : moved.shape[1]] - moved).mean() > 0.5 * spread


def test_pooling_with_a_stride_breaks_the_equivariance():
    scene = noise(1, 12, 12, 1)
    pool = layers.Pool("max", 2, 2)
    assert np.array_equal(pool.apply({}, scene[:, 2:])[:, :4], pool.apply({}, scene)[:, 1:5])
    by_one = pool.apply({}, scene[:, 1:])
    assert np.abs(by_one - pool.apply({}, scene)[:, :5]).max() > 0.2
    assert np.abs(by_one[:, :4] - pool.apply({}, scene)[:, 1:5]).max() > 0.2


@pytest.mark.parametrize("border", filters.BORDERS)
def test_borders(border):
    x = noise(1, 6, 7, 2)
    modes = {"reflect": "mirror", "symmetric": "reflect", "zero": "constant", "none": "constant"}
    expected = ndimage.uniform_filter(x, (1, 3, 3, 1), mode=modes[border])
    if border == "none":
        expected = expected[:, 1:-1, 1:-1]
    assert np.allclose(filters.mean(x, 3, border), expected, atol=1e-6)


def test_the_bilateral_filter_by_its_definition():
    x, sigma_space, sigma_value, radius = noise(1, 7, 6, 3), 1.3, 0.4, 2
    padded = np.pad(x[0], ((radius,) * 2, (radius,) * 2, (0, 0)), "reflect")
    expected = np.zeros((7, 6, 3))
    for row in range(7):
        for column in range(6):
            weights = 0
            for i in range(-radius, radius + 1):
                for j in range(-radius, radius + 1):
                    if i * i + j * j > radius**2:
                        continue
                    pixel = padded[row + i + radius, column + j + radius].astype(float)
                    difference = np.sum((pixel - x[0, row, column]) ** 2)
                    weight = math.exp(-(i * i + j * j) / (2 * sigma_space**2))
                    weight *= math.exp(-difference / (2 * sigma_value**2))
                    expected[row, column] += weight * pixel
                    weights += weight
            expected[row, column] /= weights
    assert np.allclose(filters.bilateral(x, sigma_space, sigma_value, radius)[0], expected)


def test_only_the_bilateral_filter_keeps_a_step():
    step = np.repeat(np.where(np.arange(20) < 10, 0.2, 0.8), 20).reshape(1, 20, 20, 1)
    assert np.abs(filters.bilateral(step, 2.0, 0.05) - step).max() < 1e-5
    assert np.abs(filters.gaussian(step, 2.0) - step).max() > 0.2
    # With a large sigma_value it is the Gaussian mean.
    wide = filters.bilateral(step, 1.0, 1e4, radius=4)
    assert np.allclose(wide, filters.gaussian(step, 1.0), atol=1e-3)  # whose window is square


def test_sobel_of_a_ramp_is_its_slope_times_8():
    row, column = np.mgrid[:8, :9]
    ramp = (2 * row + 3 * column)[None, ..., None]  # integers
    assert np.allclose(filters.sobel_x(ramp, "none"), 8 * 3)
    assert np.allclose(filters.sobel_y(ramp, "none"), 8 * 2)
    assert np.allclose(filters.sobel_magnitude(ramp, "none"), 8 * math.sqrt(13), rtol=1e-6)


def test_harris_finds_the_corners_of_a_square():
    image = np.zeros((1, 32, 32, 1), np.uint8)
    image[:, 8:24, 10:22] = 200
    response = np.asarray(filters.harris(image))[0, ..., 0]
    assert response[8, 10] > 0 > response[16, 10]  # corner; edge
    assert response[16, 16] == response[2, 2] == 0  # flat
    corners = np.argwhere(np.asarray(filters.peaks(response[None, ..., None]))[0, ..., 0])
    expected = [(8, 10), (8, 21), (23, 10), (23, 21)]
    assert len(corners) == 4 and np.abs(corners - expected).max() <= 1


def test_a_flat_image_has_no_peaks():
    assert not filters.peaks(filters.harris(np.full((1, 16, 16, 1), 9.0))).any()
    assert not filters.peaks(np.full((1, 16, 16, 1), -1.0)).any()


def test_the_oriented_bank():
    bank = filters.oriented_bank(11, angles=4)
    assert bank.shape == (11, 11, 1, 16) and bank.dtype == np.float32
    assert np.allclose(bank.sum(axis=(0, 1)), 0, atol=1e-5)
    assert np.allclose(np.square(bank).sum(axis=(0, 1)), 1, atol=1e-5)
    assert np.allclose(bank[..., 0], -bank[..., 2], atol=1e-6)  # phases 0 and pi
    # Turning the image by 90 degrees turns the wave from rightwards to downwards.
    assert np.allclose(bank[..., 0], bank[..., 8].transpose(1, 0, 2), atol=1e-6)
    edge = filters.gabor(11, 8.0, 0.0, math.pi / 2, 2.0)
    assert edge[5, 4] < 0 < edge[5, 6]  # light to the right


def grating(angle, phase, size=48, wavelength=5.5):
    y, x = np.mgrid[:size, :size]
    along = x * math.cos(angle) + y * math.sin(angle)
    return np.cos(2 * math.pi * along / wavelength - phase)[None, ..., None].astype(np.float32)


def test_cells_prefer_their_angle():
    for number in range(4):
        simple = filters.simple_cells(grating(math.pi * number / 4, 0.3), filters.oriented_bank())
        assert simple.min() >= 0
        strength = filters.complex_cells(simple)[:, 10:-10, 10:-10].mean(axis=(0, 1, 2))
        assert strength.shape == (4,) and strength.argmax() == number
        assert strength[(number + 2) % 4] < 0.2 * strength[number]


def test_complex_cells_do_not_care_where_the_stripe_is():
    """A moving grating switches a simple cell on and off, and hardly changes a complex cell."""
    waves = np.concatenate([grating(0.0, phase) for phase in np.linspace(0, 2 * math.pi, 24)])
    simple = filters.simple_cells(waves, filters.oriented_bank())
    complex_ = filters.complex_cells(simple, window=1)
    one, other = np.asarray(simple[:, 24, 24, 0]), np.asarray(complex_[:, 24, 24, 0])
    assert one.min() == 0 < one.max()
    assert np.array_equal(other, np.asarray(simple)[:, 24, 24, :4].max(axis=-1))
    # The largest of four phases is at least cos(45 degrees) of the wave's amplitude.
    assert math.sqrt(0.5) - 0.02 < other.min() / other.max() < 1
    pooled = np.asarray(filters.complex_cells(simple, window=7)[:, 20, 20, 0])
    assert pooled.min() > 0.95 * pooled.max()


@pytest.mark.parametrize("name", ["bilateral", "sobel_magnitude", "harris"])
def test_filters_have_gradients(name):
    x, direction = noise(1, 9, 9, 1), noise(1, 9, 9, 1, seed=2)

    def total(image):
        return (FILTERS[name][0](image, "reflect")).sum()

    slope = float((jax.grad(total)(x) * direction).sum())
    ends = [float(total(x + step * direction)) for step in (1e-3, -1e-3)]
    assert slope == pytest.approx((ends[0] - ends[1]) / 2e-3, rel=0.02)
    assert np.isfinite(jax.grad(total)(np.ones_like(x))).all()  # a flat image


X = np.zeros((1, 8, 8, 1), np.float32)
BAD = [
    (lambda: filters.mean(X[0], 3), r"images of the shape \[8, 8, 1\]: give \[batch"),
    (lambda: filters.mean(X[:, :0], 3), r"images of the shape \[1, 0, 8, 1\]"),
    (lambda: filters.mean(X, 4), "size: 4: give an odd number"),
    (lambda: filters.mean(X, 0), "size: 0"),
    (lambda: filters.mean(X, 3, "wrap"), "border: 'wrap': choose one of reflect, symmetric"),
    (lambda: filters.mean(X, 9, "none"), "too small: it is 8x8, and the window 9x1"),
    (lambda: filters.gaussian(X, 0), "sigma: 0: give a number above 0"),
    (lambda: filters.gaussian(X, math.nan), "sigma: nan"),
    (lambda: filters.gaussian(X, 1.0, radius=-1), "radius: -1: give a whole number"),
    (lambda: filters.bilateral(X, -1.0, 1.0), "sigma_space: -1.0"),
    (lambda: filters.bilateral(X, 1.0, 0.0), "sigma_value: 0.0"),
    (lambda: filters.harris(X, sigma=-2.0), "sigma: -2.0"),
    (lambda: filters.peaks(X, radius=0.5), "radius: 0.5"),
    (lambda: filters.convolve(X, np.ones((3, 3))), r"kernel of the shape \[3, 3\]"),
    (lambda: filters.convolve(X, np.ones((3, 3, 2, 1))), "for images of 1 channels"),
    (lambda: filters.convolve(X, np.ones((2, 3, 1, 1)), "zero"), "window's side: 2: give an odd"),
    (lambda: filters.convolve(X, np.ones((3, 3, 1, 1)), stride=0), "stride: 0"),
    (lambda: filters.sliding_sum(X, np.ones((9, 9, 1, 1))), "too small"),
    (lambda: filters.gabor(4, 6.0, 0.0, 0.0, 2.0), "size: 4"),
    (lambda: filters.gabor(5, 0.0, 0.0, 0.0, 2.0), "wavelength: 0.0"),
    (lambda: filters.mean(X, 3.0), "size: 3.0"),
    (lambda: filters.convolve(X, np.ones((3, 3, 1, 1)), stride=1.5), "stride: 1.5: give a whole"),
    (lambda: filters.oriented_bank(angles=0), "angles: 0"),
    (lambda: filters.oriented_bank(1), "size: 1: give 3 or more"),
    (lambda: filters.complex_cells(np.ones((1, 8, 8, 4)), 0), "phases: 0"),
    (lambda: filters.complex_cells(np.ones((1, 8, 8, 4)), stride=0), "stride: 0"),
    (lambda: filters.complex_cells(np.ones((1, 8, 8, 6))), "6 simple cells are no multiple of 4"),
    (lambda: filters.complex_cells(np.ones((1, 4, 4, 4))), "too small"),
]


@pytest.mark.parametrize("call, message", BAD)
def test_bad_input_is_one_clear_error(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
