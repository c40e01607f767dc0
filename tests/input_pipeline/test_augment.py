"""Each augmentation against NumPy or Pillow with fixed keys, and the distribution of its draws."""

import itertools

import jax
import numpy as np
import pytest
from PIL import Image, ImageEnhance
from scipy import ndimage

from configs import alexnet, googlenet, lenet5, resnet_cifar10
from input_pipeline import augment

OFF = {"translate": 0.0, "scale": 0.0, "squeeze": 0.0, "shear": 0.0}

# Of ImageNet's pixels in 0..1, as fb.resnet.torch publishes them; eigenvectors as columns.
EIGENVALUES = np.array([0.2175, 0.0188, 0.0045])
EIGENVECTORS = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
)


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def each(function, images, seed=0, **options):
    """Applies the function to each image, each with its own key."""
    apply = jax.jit(jax.vmap(lambda key, image: function(key, image, **options)))
    return np.asarray(apply(keys(len(images), seed), images))


# ---------------------------------------------------------------------------- affine distortion


def test_affine_distortion_with_zero_ranges_is_the_identity():
    image = np.random.default_rng(0).integers(0, 256, (28, 28, 1)).astype(np.uint8)
    actual = augment.affine_distort(jax.random.key(1), image, **OFF)
    np.testing.assert_allclose(actual, image, atol=1e-3)


def test_affine_distortion_moves_a_dot_as_its_formula_says():
    # A dot 8 pixels right of and 4 below the centre of a 29x29 image (centre: 14, 14).
    image = np.zeros((29, 29, 1), np.uint8)
    image[17:20, 21:24] = 200
    key = jax.random.key(4)
    t_y, t_x, zoom, ratio, slope = np.asarray(
        jax.random.uniform(key, (5,), minval=-1.0, maxval=1.0)
    )
    y, x = np.mgrid[0:29, 0:29] - 14.0
    cases = {
        "translate": (3.0, 8 + 3 * t_x, 4 + 3 * t_y),
        "scale": (0.3, 8 * (1 + 0.3 * zoom), 4 * (1 + 0.3 * zoom)),
        "squeeze": (0.3, 8 * (1 + 0.3 * ratio), 4 / (1 + 0.3 * ratio)),
        "shear": (0.5, 8 + 0.5 * slope * 4, 4),
    }
    for kind, (value, to_x, to_y) in cases.items():
        actual = np.asarray(augment.affine_distort(key, image, **{**OFF, kind: value}))[..., 0]
        assert (actual * x).sum() / actual.sum() == pytest.approx(to_x, abs=0.1), kind
        assert (actual * y).sum() / actual.sum() == pytest.approx(to_y, abs=0.1), kind


# -------------------------------------------------------------------------------- crop and flip


def test_random_crops_are_uniform_over_all_positions():
    image = np.arange(6 * 7, dtype=np.uint8).reshape(1, 6, 7, 1)
    actual = each(augment.crop, np.repeat(image, 3000, axis=0), side=4)
    tops, lefts = actual[:, 0, 0, 0] // 7, actual[:, 0, 0, 0] % 7
    for i in range(20):
        expected = image[0, tops[i] : tops[i] + 4, lefts[i] : lefts[i] + 4]
        np.testing.assert_array_equal(actual[i], expected)
    counts = np.bincount(tops * 4 + lefts)
    assert len(counts) == 12  # 3 x 4 places, those at the edges among them
    assert (np.abs(counts - 250) < 5 * 250**0.5).all()


def test_half_of_the_images_are_flipped():
    images = np.random.default_rng(0).integers(0, 256, (2000, 3, 4, 3)).astype(np.uint8)
    actual = each(augment.flip, images, seed=1)
    mirrored = (actual == images[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (mirrored | (actual == images).all(axis=(1, 2, 3))).all()
    assert abs(mirrored.mean() - 0.5) < 5 * 0.5 / 2000**0.5


# ------------------------------------------------------------------------ photometric distortion


def photograph():
    """Smooth patches of strong and weak colours, with noise: uint8 [40, 50, 3]."""
    rng = np.random.default_rng(3)
    small = Image.fromarray(rng.integers(0, 256, (4, 5, 3)).astype(np.uint8))
    smooth = np.asarray(small.resize((50, 40), Image.Resampling.BICUBIC)).astype(int)
    return (smooth + rng.integers(-9, 10, smooth.shape)).clip(0, 255).astype(np.uint8)


PILLOW = {
    "brightness": ImageEnhance.Brightness,
    "contrast": ImageEnhance.Contrast,
    "colour": ImageEnhance.Color,
}


@pytest.mark.parametrize("kind", augment.ENHANCEMENTS)
@pytest.mark.parametrize("factor", [0.0, 0.5, 1.0, 1.3, 2.0])
def test_enhancements_equal_those_of_pillow(kind, factor):
    image = photograph()
    expected = np.asarray(PILLOW[kind](Image.fromarray(image)).enhance(factor), np.float32)
    actual = augment.enhance(image, augment.ENHANCEMENTS.index(kind), factor)
    assert 0 <= actual.min() <= actual.max() <= 255
    np.testing.assert_allclose(actual, expected, atol=1.6)  # Pillow's are whole


def test_enhancements_of_grey_images():
    image = photograph()[..., :1]
    for kind in (0, 1):
        rgb = augment.enhance(np.repeat(image, 3, axis=-1), kind, 1.4)
        np.testing.assert_allclose(augment.enhance(image, kind, 1.4), rgb[..., :1], atol=1e-3)
    np.testing.assert_allclose(augment.enhance(image, 2, 1.4), image)


@pytest.mark.slow
def test_photometric_distortion_draws_all_orders_and_the_whole_range_of_factors():
    image = photograph()[::4, ::4]
    actual = each(augment.photometric, np.repeat(image[None], 1200, axis=0), extent=0.4)
    order_keys, factor_keys = jax.vmap(jax.random.split, out_axes=1)(keys(1200))
    draw_order = jax.vmap(lambda key: jax.random.permutation(key, 3))
    draw_factors = jax.vmap(lambda key: jax.random.uniform(key, (3,), minval=0.6, maxval=1.4))
    orders = [tuple(order) for order in np.asarray(draw_order(order_keys)).tolist()]
    factors = np.asarray(draw_factors(factor_keys))
    for distorted, order, drawn in zip(actual[:12], orders, factors, strict=False):
        expected = image
        for kind in order:
            expected = augment.enhance(expected, kind, drawn[kind])
        np.testing.assert_allclose(distorted, expected, atol=1e-3)
    counts = [orders.count(order) for order in itertools.permutations(range(3))]
    assert sum(counts) == 1200
    assert max(abs(count - 200) for count in counts) < 5 * 200**0.5
    np.testing.assert_allclose(factors.mean(axis=0), 1, atol=5 * 0.8 / 12**0.5 / 1200**0.5)
    assert (factors.min(axis=0) < 0.61).all()
    assert (factors.max(axis=0) > 1.39).all()
    assert np.abs(np.corrcoef(factors.T) - np.eye(3)).max() < 5 / 1200**0.5


# -------------------------------------------------------------------------------------- lighting


@pytest.mark.parametrize(
    ("kind", "digits", "low", "high"),
    [("eigenvalues", 4, 0.0124, 0.0128), ("deviations", 3, 0.028, 0.029)],
)
def test_lighting_shifts_whole_images_by_the_published_amounts(kind, digits, low, high):
    axes = augment.light_axes(kind, EIGENVALUES, EIGENVECTORS)
    images = np.random.default_rng(0).integers(0, 256, (20_000, 2, 1, 3)).astype(np.uint8)
    shift = each(augment.lighting, images, axes=axes, deviation=0.1) - images
    np.testing.assert_allclose(shift[:, 1, 0], shift[:, 0, 0], atol=1e-4)  # each pixel the same
    shift = shift[:, 0, 0] / 255
    # Per channel: the root of the sum over axes of (0.1 * size * component)^2.
    strength = EIGENVALUES if kind == "eigenvalues" else np.sqrt(EIGENVALUES)
    expected = 0.1 * np.sqrt(EIGENVECTORS**2 @ strength**2)
    assert expected.min().round(digits) == low
    assert expected.max().round(digits) == high
    np.testing.assert_allclose(shift.std(axis=0), expected, rtol=5 / (2 * 20_000) ** 0.5)
    np.testing.assert_allclose(shift.mean(axis=0), 0, atol=5 * expected.max() / 20_000**0.5)
    along = shift @ EIGENVECTORS  # the axes count independently
    assert np.abs(np.corrcoef(along.T) - np.eye(3)).max() < 5 / 20_000**0.5
    np.testing.assert_allclose(along.std(axis=0), 0.1 * strength, rtol=0.03)


def test_lighting_is_the_sum_of_the_axes_times_the_drawn_alphas():
    image = np.full((2, 2, 3), 100, np.uint8)
    key = jax.random.key(7)
    axes = augment.light_axes("deviations", EIGENVALUES, EIGENVECTORS)
    alpha = 0.1 * np.asarray(jax.random.normal(key, (3,)), np.float64)
    expected = 100 + 255 * sum(
        alpha[i] * np.sqrt(EIGENVALUES[i]) * EIGENVECTORS[:, i] for i in range(3)
    )
    actual = augment.lighting(key, image, axes, 0.1)
    np.testing.assert_allclose(actual, np.broadcast_to(expected, (2, 2, 3)), rtol=1e-5)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (lenet5.get_config("mnist"), ""),
        (lenet5.get_config("digits"), "translate 2, scale 0.15, squeeze 0.15, shear 0.3"),
        (resnet_cifar10.get_config("20"), "crop, flip"),
        (alexnet.get_config(), "flip, lighting eigenvalues"),
        (googlenet.get_config(), "flip, photometric 0.5"),
    ],
)
def test_the_description_names_what_is_in_use(config, expected):
    config.augment.lighting_deviation = 0.2
    if "lighting" in expected:
        expected += ", lighting_deviation 0.2"
    assert augment.describe(config.augment) == expected


def test_a_distortion_is_one_affine_map_with_black_around_the_image():
    """All four kinds at once, against SciPy: sizes, then shear, then shifts along the new axes."""
    image = np.random.default_rng(0).integers(1, 256, (29, 29, 1), np.uint8)
    key = jax.random.key(4)
    t_y, t_x, zoom, ratio, slope = np.asarray(jax.random.uniform(key, (5,), minval=-1, maxval=1))
    zoom, ratio = 1 + 0.15 * zoom, 1 + 0.2 * ratio
    forward = np.array([[1, 0], [0.3 * slope, 1]]) @ np.diag([zoom / ratio, zoom * ratio])
    to_source = np.linalg.inv(forward)
    centre = np.array([14.0, 14.0])
    moved = centre + 3 * np.array([t_y, t_x + 0.3 * slope * t_y])
    expected = ndimage.affine_transform(
        image[..., 0].astype(float),
        to_source,
        centre - to_source @ moved,
        order=1,
        mode="grid-constant",
    )
    actual = np.asarray(augment.affine_distort(key, image, 3.0, 0.15, 0.2, 0.3))[..., 0]
    np.testing.assert_allclose(actual, expected, atol=0.01)
