"""The device-side pipeline against NumPy."""

import jax
import numpy as np
import pytest
from PIL import Image

from configs.common import base
from configs.lenet5 import get_config
from errors import UserError
from input_pipeline import transform as t
from input_pipeline.transform import affine_distort, make_transform

OFF = {"translate": 0.0, "scale": 0.0, "squeeze": 0.0, "shear": 0.0}


def test_lenet_scaling_puts_background_at_minus_01_and_ink_at_1175():
    images = np.zeros((1, 28, 28, 1), np.uint8)
    images[0, 3, 4] = 255
    images[0, 5, 6] = 51
    config = get_config("digits")
    found = make_transform(config.preprocess, config.augment)(images)
    assert found.shape == (1, 32, 32, 1)
    assert found.dtype == np.float32
    assert float(found[0, 0, 0, 0]) == pytest.approx(-0.1)
    assert float(found[0, 5, 6, 0]) == pytest.approx(1.175)
    assert float(found[0, 7, 8, 0]) == pytest.approx(-0.1 + 1.275 * 0.2)


def test_no_range_leaves_the_image_alone():
    image = np.random.default_rng(0).integers(0, 256, (28, 28, 1)).astype(np.uint8)
    found = affine_distort(jax.random.key(1), image, **OFF)
    np.testing.assert_allclose(found, image, atol=1e-3)


def test_each_kind_moves_a_dot_to_where_its_formula_says():
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
        found = np.asarray(affine_distort(key, image, **{**OFF, kind: value}))[..., 0]
        assert (found * x).sum() / found.sum() == pytest.approx(to_x, abs=0.1), kind
        assert (found * y).sum() / found.sum() == pytest.approx(to_y, abs=0.1), kind


def test_the_transform_distorts_in_training_only_and_by_key_only():
    config = base()
    config.augment.translate = 2.0
    transform = make_transform(config.preprocess, config.augment)
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1)).astype(np.uint8)
    keys = jax.random.split(jax.random.key(0), 3)
    plain, moved = np.asarray(transform(images)), np.asarray(transform(images, keys))
    np.testing.assert_allclose(plain, images / 255.0, rtol=1e-6)
    assert np.abs(moved - plain).max() > 0.1
    alone = np.asarray(transform(images[1:2], keys[1:2]))
    np.testing.assert_allclose(alone[0], moved[1], atol=1e-6)


def test_random_crops_reach_every_place_equally_and_central_ones_the_middle():
    image = np.arange(6 * 7, dtype=np.uint8).reshape(1, 6, 7, 1)
    images = np.repeat(image, 3000, axis=0)
    found = np.asarray(t.crop(images, 4, jax.random.split(jax.random.key(0), 3000)))
    tops, lefts = found[:, 0, 0, 0] // 7, found[:, 0, 0, 0] % 7
    np.testing.assert_array_equal(
        found[5, ..., 0], image[0, tops[5] : tops[5] + 4, :, 0][:, lefts[5] : lefts[5] + 4]
    )
    counts = np.bincount(tops * 4 + lefts)
    assert len(counts) == 12  # 3 x 4 places
    assert (np.abs(counts - 250) < 5 * 250**0.5).all()
    np.testing.assert_array_equal(t.crop(image, 4)[0, ..., 0], image[0, 1:5, 1:5, 0])


def test_flips_are_half_and_whole():
    images = np.random.default_rng(0).integers(0, 256, (2000, 3, 4, 3)).astype(np.uint8)
    found = np.asarray(t.flip(images, jax.random.split(jax.random.key(1), 2000)))
    mirrored = (found == images[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (mirrored | (found == images).all(axis=(1, 2, 3))).all()
    assert abs(mirrored.mean() - 0.5) < 5 * 0.5 / 2000**0.5


def test_resizing_equals_pillows_bilinear():
    image = np.random.default_rng(2).integers(0, 256, (20, 20)).astype(np.uint8)
    for side in (40, 9):
        expected = Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR)
        found = np.asarray(t.resize(image[None, ..., None], side))[0, ..., 0]
        np.testing.assert_allclose(found, np.asarray(expected, np.float32), atol=1.01)


def test_the_order_is_resize_pad_crop_flip_scale_and_random_only_in_training():
    config = base()
    config.preprocess.update({"resize": 16, "pad": 2, "crop": 16, "low": -1.0, "high": 1.0})
    config.augment.update({"crop": True, "flip": True})
    transform = make_transform(config.preprocess, config.augment)
    images = np.random.default_rng(0).integers(1, 256, (64, 8, 8, 3)).astype(np.uint8)
    plain = np.asarray(transform(images))
    resized = np.asarray(t.resize(images, 16))
    np.testing.assert_allclose(plain, resized / 127.5 - 1, atol=1e-5)
    keys = jax.random.split(jax.random.key(3), 64)
    moved = np.asarray(transform(images, keys))
    assert moved.shape == plain.shape
    padded = np.pad(resized, ((0, 0), (2, 2), (2, 2), (0, 0))) / 127.5 - 1
    for found, source in zip(moved[:4], padded[:4], strict=True):
        views = [
            view[y : y + 16, x : x + 16]
            for view in (source, source[:, ::-1])
            for y in range(5)
            for x in range(5)
        ]
        assert min(np.abs(found - view).max() for view in views) < 1e-4


def test_sizes_that_cannot_be_are_refused():
    section = base().preprocess
    with pytest.raises(UserError, match=r"set config.preprocess.resize"):
        t.output_shape(section, (0, 0, 3))
    section.crop = 40
    with pytest.raises(UserError, match="crop=40 is more than the 32x32 image"):
        t.output_shape(section, (32, 32, 3))
    section.update({"resize": 64, "pad": 4})
    assert t.output_shape(section, (0, 0, 3)) == (40, 40, 3)
