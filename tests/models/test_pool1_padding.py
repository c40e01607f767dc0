"""ResNet's first pooling as in the authors' released networks: no padding, and ceil mode."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from errors import UserError
from models import registry
from models.resnet import ResNet


def shape_of(module, side):
    images = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: module.init(jax.random.key(0), x), images)
    apply = functools.partial(module.apply, capture_intermediates=True)
    logits, seen = jax.eval_shape(apply, variables, images)
    return logits.shape, seen["intermediates"]["pool1"]["__call__"][0].shape[1]


# By Caffe's rule: as many windows as begin inside, and cover all: ceil((n - 3) / 2) + 1.
@pytest.mark.parametrize(("side", "pooled"), [(224, 56), (225, 56), (226, 56), (229, 57), (64, 16)])
def test_sides(side, pooled):
    module = ResNet(depth=18, pool1_padding=0, num_classes=7)
    assert shape_of(module, side) == ((2, 7), pooled)
    cells = module.clone(class_map=True, image_size=side)
    assert shape_of(cells, side) == ((2, 1, 1, 7), pooled)
    assert shape_of(cells, side + 32)[0] == (2, 2, 2, 7)


@pytest.mark.slow
def test_windows_begin_at_the_first_pixel():
    module = ResNet(depth=18, pool1_padding=0, num_classes=7)
    image = np.random.default_rng(0).normal(size=(1, 32, 32, 3)).astype(np.float32)

    @jax.jit
    def run(image):
        variables = module.init(jax.random.key(0), image)
        seen = module.apply(variables, image, capture_intermediates=True)[1]["intermediates"]
        # Only these two: XLA leaves out the rest of the network.
        return [seen[name]["__call__"][0] for name in ("bn1", "pool1")]

    normalised, pooled = run(image)
    before, actual = np.maximum(normalised, 0)[0], np.asarray(pooled)[0]
    assert before.shape[:2] == (16, 16) and actual.shape[:2] == (8, 8)
    for i in range(8):
        for j in range(8):
            window = before[2 * i : 2 * i + 3, 2 * j : 2 * j + 3]  # cut off at the edge
            np.testing.assert_array_equal(actual[i, j], window.max((0, 1)))


def test_other_paddings_are_refused():
    section = {"name": "resnet", "dtype": "float32", "pool1_padding": 2}
    with pytest.raises(UserError, match=r"pool1_padding=2: choose one of 1, 0$"):
        registry.create(section, 10)
