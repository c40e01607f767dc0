"""The device-side pipeline against NumPy."""

import jax
import numpy as np
import pytest

from configs.common import base
from input_pipeline.transform import affine_distort, make_transform, preprocess

OFF = {"translate": 0.0, "scale": 0.0, "squeeze": 0.0, "shear": 0.0}


def test_lenet_scaling_puts_background_at_minus_01_and_ink_at_1175():
    images = np.zeros((1, 28, 28, 1), np.uint8)
    images[0, 3, 4] = 255
    images[0, 5, 6] = 51
    found = preprocess(images, 2, -0.1, 1.175)
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
