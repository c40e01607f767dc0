"""The device-side transform: order of operations, ranges, means, and randomness."""

import jax
import numpy as np
import pytest

from configs.lenet5 import get_config
from configs.schema import base
from errors import UserError
from input_pipeline import augment
from input_pipeline.statistics import Statistics
from input_pipeline.transform import make_transform, needs_statistics, output_shape


def make(preprocess, augmentation=None, statistics=None):
    config = base()
    config.preprocess.update(preprocess)
    config.augment.update(augmentation or {})
    return make_transform(config.preprocess, config.augment, statistics)


def pictures(count, height, width, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, height, width, channels)).astype(np.uint8)


def made_statistics(height, width):
    """Invented statistics: a mean image without symmetry, and oblique colour axes."""
    rng = np.random.default_rng(9)
    image = rng.uniform(90, 160, (height, width, 3)).astype(np.float32)
    axes = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    mean = image.mean(axis=(0, 1), dtype=np.float64)
    return Statistics(image, mean, np.array([0.2, 0.02, 0.004]), axes, 10)


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def test_lenet_scaling_maps_background_to_minus_01_and_ink_to_1175():
    images = np.zeros((1, 28, 28, 1), np.uint8)
    images[0, 3, 4] = 255
    images[0, 5, 6] = 51
    config = get_config("digits")
    actual = make_transform(config.preprocess, config.augment)(images)
    assert actual.shape == (1, 32, 32, 1)
    assert actual.dtype == np.float32
    assert float(actual[0, 0, 0, 0]) == pytest.approx(-0.1)
    assert float(actual[0, 5, 6, 0]) == pytest.approx(1.175)
    assert float(actual[0, 7, 8, 0]) == pytest.approx(-0.1 + 1.275 * 0.2)


def test_given_mean_and_deviation_per_channel():
    """As pretrained weights need it, with the published values (here torchvision's)."""
    mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    images = pictures(2, 5, 4)
    given = {"mean": "given", "given_mean": mean, "deviation": deviation}
    section = base().preprocess
    section.update(given)
    assert not needs_statistics(section, base().augment)
    expected = (images.astype(np.float64) / 255 - mean) / deviation
    np.testing.assert_allclose(make(given)(images), expected, rtol=1e-5, atol=1e-6)
    given["high"] = 255.0
    padded = make(given | {"pad": 1, "deviation": ()})(images)
    assert np.all(padded[:, 0] == 0)
    expected = images - 255 * np.float64(mean)
    np.testing.assert_allclose(padded[:, 1:-1, 1:-1], expected, rtol=1e-4, atol=1e-4)
    actual = make({"low": -1.0, "high": 1.0, "deviation": (0.5, 0.5, 1.0)})(images)
    expected = (images / 127.5 - 1) / (0.5, 0.5, 1.0)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(UserError, match=r"given_mean=.*: the images have 1 colour: give"):
        output_shape(section, (5, 4, 1))


def test_impossible_sizes_are_refused():
    section = base().preprocess
    with pytest.raises(UserError, match=r"set config\.view\.size"):
        output_shape(section, (0, 0, 3))
    section.crop = 40
    with pytest.raises(UserError, match="crop=40 is more than the 32x32 image"):
        output_shape(section, (32, 32, 3))
    section.pad = 4
    assert output_shape(section, (32, 48, 3)) == (40, 40, 3)
    section.crop = 0
    assert output_shape(section, (32, 48, 3)) == (40, 56, 3)


# ---------------------------------------------------------------------------------------- means


def test_a_channel_mean_is_subtracted_and_padding_is_the_mean():
    statistics = made_statistics(6, 6)
    images = pictures(2, 6, 6)
    actual = make({"mean": "channel", "high": 2.0, "pad": 3}, statistics=statistics)(images)
    expected = np.zeros((2, 12, 12, 3))
    expected[:, 3:9, 3:9] = 2 / 255 * (images - statistics.mean)
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_a_mean_image_is_subtracted_before_padding_and_cropping():
    """As ResNet: the mean image belongs to the original image, not to the crop."""
    statistics = made_statistics(32, 32)
    images = pictures(40, 32, 32)
    section = {"mean": "pixel", "pad": 4, "crop": 32}
    plain = np.asarray(make(section, statistics=statistics)(images))
    centred = (images - statistics.image) / 255
    np.testing.assert_allclose(plain, centred, atol=1e-6)
    transform = make(section, {"crop": True, "flip": True}, statistics)
    moved = np.asarray(transform(images, keys(40)))
    padded = np.pad(centred, ((0, 0), (4, 4), (4, 4), (0, 0)))
    places = set()
    for actual, source in zip(moved, padded, strict=True):
        views = {
            (top, left, mirrored): view[top : top + 32, left : left + 32]
            for mirrored, view in enumerate((source, source[:, ::-1]))
            for top in range(9)
            for left in range(9)
        }
        (place,) = [p for p, view in views.items() if np.abs(actual - view).max() < 1e-5]
        places.add(place)
    assert len(places) > 20


@pytest.mark.parametrize("count", [1, 5])
def test_the_matching_part_of_a_larger_mean_image_is_subtracted(count):
    """As AlexNet: the mean image has 256 pixels a side, a crop has 224 (here 16 and 11)."""
    statistics = made_statistics(16, 16)
    squares = pictures(count, 16, 16)
    offsets = np.array([[0, 0], [5, 5], [0, 5], [3, 1], [2, 4]], np.int32)[-count:]
    crops = np.stack(
        [s[y : y + 11, x : x + 11] for s, (y, x) in zip(squares, offsets, strict=True)]
    )
    centred = squares - statistics.image
    expected = [s[y : y + 11, x : x + 11] for s, (y, x) in zip(centred, offsets, strict=True)]
    transform = make({"mean": "pixel", "high": 255.0}, statistics=statistics)
    for given in (None, keys(count)):
        actual = jax.jit(transform)(crops, given, offsets)
        np.testing.assert_allclose(actual, expected, atol=1e-4)
    # An evaluation crop without an offset is the central one: (16 - 11) // 2 = 2 from the edge.
    np.testing.assert_allclose(transform(squares[:, 2:13, 2:13]), centred[:, 2:13, 2:13], atol=1e-4)
    # (16 - 13) / 2 = 1.5 is rounded to even, as crops are.
    np.testing.assert_allclose(transform(squares[:, 2:15, 2:15]), centred[:, 2:15, 2:15], atol=1e-4)
    with pytest.raises(ValueError, match="which part"):
        transform(crops, keys(count))


def test_images_that_do_not_fit_the_mean_are_refused_in_one_line():
    statistics = made_statistics(8, 8)
    pixel = make({"mean": "pixel"}, statistics=statistics)
    with pytest.raises(UserError, match="has 8x8x3 values, but the images are 9x8x3"):
        pixel(pictures(1, 9, 8))
    for mean in ("channel", "pixel"):
        with pytest.raises(UserError, match="the images are 8x8x1"):
            make({"mean": mean}, statistics=statistics)(pictures(1, 8, 8, 1))


# ---------------------------------------------------------------------------------------- order


def test_the_order_of_all_operations():
    """Distort, change colours, light, subtract, pad, crop, flip, scale, each by hand."""
    statistics = made_statistics(12, 12)
    ranges = {"translate": 1.0, "scale": 0.1, "squeeze": 0.1, "shear": 0.1}
    augmentation = {
        **ranges,
        "crop": True,
        "flip": True,
        "lighting": "deviations",
        "photometric": 0.4,
    }
    transform = make({"mean": "pixel", "pad": 2, "crop": 9}, augmentation, statistics)
    images = pictures(6, 12, 12)
    actual = np.asarray(jax.jit(transform)(images, keys(6)))
    axes = statistics.eigenvectors * np.sqrt(statistics.eigenvalues)
    mirrored = 0
    for image, key, result in zip(images, keys(6), actual, strict=True):
        crop_key, flip_key, photometric_key, lighting_key = (
            jax.random.fold_in(key, fold) for fold in (1, 2, 3, 4)
        )
        image = augment.affine_distort(key, image, **ranges)
        image = augment.photometric(photometric_key, image, 0.4)
        image = np.asarray(image, np.float64) + 255 * 0.1 * (
            axes @ np.asarray(jax.random.normal(lighting_key, (3,)))
        )
        image = np.pad(image - statistics.image, ((2, 2), (2, 2), (0, 0)))
        top, left = np.asarray(jax.random.randint(crop_key, (2,), 0, 8))
        image = image[top : top + 9, left : left + 9]
        if jax.random.bernoulli(flip_key):
            image, mirrored = image[:, ::-1], mirrored + 1
        np.testing.assert_allclose(result, image / 255, atol=2e-4)
    assert 0 < mirrored < 6
    plain = (images - statistics.image)[:, 1:10, 1:10] / 255  # padded by 2, (16 - 9) // 2 = 3 in
    np.testing.assert_allclose(transform(images), plain, atol=1e-6)


def test_without_a_mean_padding_is_0_and_scaling_comes_last():
    transform = make({"pad": 2, "crop": 8, "low": -1.0, "high": 1.0}, {"crop": True, "flip": True})
    images = pictures(64, 8, 8) | 1  # no pixel is 0
    np.testing.assert_allclose(transform(images), images / 127.5 - 1, atol=1e-5)
    moved = np.asarray(transform(images, keys(64, 3)))
    assert (moved == -1).any(axis=(1, 2, 3)).sum() > 40  # 24 of 25 places reach the padding


@pytest.mark.parametrize(
    "augmentation",
    [
        {"translate": 2.0},
        {"crop": True},
        {"flip": True},
        {"photometric": 0.5},
        {"lighting": "eigenvalues"},
    ],
)
def test_randomness_depends_on_the_key_only_and_is_absent_in_evaluation(augmentation):
    transform = make({"crop": 6}, augmentation, made_statistics(8, 8))
    images = pictures(5, 8, 8)
    plain = np.asarray(transform(images))
    np.testing.assert_allclose(plain, images[:, 1:7, 1:7] / 255.0, rtol=1e-6)
    moved = np.asarray(transform(images, keys(5)))
    assert np.abs(moved - plain).max() > 0.003
    order = [3, 1]
    alone = np.asarray(transform(images[order], keys(5)[np.array(order)]))
    np.testing.assert_allclose(alone, moved[order], atol=1e-6)


@pytest.mark.slow
def test_adding_an_augmentation_does_not_change_the_draws_of_others():
    images = pictures(30, 8, 8)
    some = make({"crop": 6}, {"crop": True, "flip": True})
    more = make(
        {"crop": 6},
        {"crop": True, "flip": True, "lighting": "eigenvalues", "photometric": 1e-6},
        made_statistics(8, 8),
    )
    shift = np.asarray(more(images, keys(30))) - np.asarray(some(images, keys(30)))
    assert shift.std(axis=(1, 2)).max() < 1e-4  # one shift per image: same crop and flip
    assert np.abs(shift).max() > 0.005


def test_statistics_are_needed_only_where_they_are_used():
    config = base()
    assert not needs_statistics(config.preprocess, config.augment)
    config.augment.lighting = "deviations"
    assert needs_statistics(config.preprocess, config.augment)
    config.augment.lighting = "none"
    config.preprocess.mean = "channel"
    assert needs_statistics(config.preprocess, config.augment)
