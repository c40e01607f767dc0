"""Images of several sizes in one padded batch: each comes out as if it were alone."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import slow_where

from models import layers, registry
from tests.models import random_weights

NETS = [
    ("resnet_cifar10", {}, 32),
    ("resnet", {"depth": 18, "shortcut": "A"}, 64),
    ("resnet", {"depth": 18, "pool1_padding": 0}, 64),
    ("resnet", {"depth": 50, "pooling": "average"}, 64),
    ("googlenet", {"auxiliary_heads": False, "initializer": "he"}, 64),
    (
        "googlenet",
        {"auxiliary_heads": False, "normalisation": "batch_norm", "pooling": "average"},
        64,
    ),
    ("vgg", {"variant": "A-LRN", "initializer": "he", "image_size": 64}, 64),
    ("vgg", {"variant": "A", "regulariser": "dropconnect", "image_size": 32}, 32),
    ("alexnet", {"initializer": "he"}, 224),
    ("alexnet", {"initializer": "he", "image_size": 32, "width": 0.1}, 32),
    ("googlenet", {"initializer": "he", "stem": "small", "width": 0.1}, 32),
]


# These functions run once or twice.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 1})


def label(case):
    return "-".join(map(str, [case[0], *case[1].values()])) if isinstance(case, tuple) else None


def create(name, options, side):
    module = registry.create({"name": name, "dtype": "float32", **options}, 7)
    if name in ("resnet", "resnet_cifar10", "googlenet"):
        module = module.clone(image_size=side)
    return module


def randomised(module, side):
    """Variables with statistics and biases that are not 0 or 1, so that padding shows."""
    variables = random_weights.variables(module, (side, side, 3))
    rng = np.random.default_rng(1)

    def shake(path, leaf):
        if path[-1].key == "kernel":
            return leaf
        return leaf + np.abs(rng.normal(size=leaf.shape)).astype(np.float32) * 0.3

    return jax.tree_util.tree_map_with_path(shake, variables)


def is_large(case):
    wide = case[0] == "alexnet" and "width" not in case[1]
    return wide or case[0] == "googlenet" or case[1].get("depth") == 50


@pytest.mark.slow
@pytest.mark.parametrize("case", slow_where(is_large, NETS), ids=label)
def test_padding_changes_nothing(case):
    *_, side = case
    module = create(*case).clone(class_map=True)
    variables = randomised(module, side)
    rng = np.random.default_rng(0)
    sizes = [(side + 13, side), (side + 9, side + 32)]
    shape = side + 32, side + 32
    images = [rng.normal(size=(*size, 3)).astype(np.float32) for size in sizes]
    # Not zeros: what is outside must not matter.
    batch = rng.normal(size=(len(sizes), *shape, 3)).astype(np.float32) * 9
    for i, image in enumerate(images):
        batch[i, : image.shape[0], : image.shape[1]] = image

    @quick_jit
    def together(variables, batch, sizes):
        with layers.padded(shape, sizes):
            maps = module.apply(variables, batch)
            return maps, layers.valid_sizes(maps)

    maps, valid = together(variables, batch, jnp.array(sizes))
    for image, actual, (height, width) in zip(images, maps, valid, strict=True):
        alone = quick_jit(module.apply)(variables, image[None])[0]
        assert alone.shape == (height, width, 7)
        scale = float(jnp.abs(alone).max())
        np.testing.assert_allclose(actual[:height, :width], alone, rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize(
    "case", slow_where(is_large, [case for case in NETS if case[0] != "vgg"]), ids=label
)
def test_a_class_map_of_one_cell_equals_the_logits(case):
    *_, side = case
    module = create(*case)
    variables = randomised(module, side)
    image = np.random.default_rng(0).normal(size=(2, side, side, 3)).astype(np.float32)
    cells = quick_jit(module.clone(class_map=True).apply)(variables, image)
    assert cells.shape == (2, 1, 1, 7)
    vector = quick_jit(module.apply)(variables, image)
    np.testing.assert_allclose(cells[:, 0, 0], vector, rtol=1e-4, atol=1e-5)


class Valid(nn.Module):
    """Convolutions without padding, and a fully connected layer on the 2x2 map of 14x14 images."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(layers.Conv(8, (3, 3), name="conv1")(x))
        x = layers.Pool("max", 2, 2)(x)
        x = nn.relu(layers.Conv(8, (3, 3), name="conv2")(x))
        x = layers.Pool("max", 2, 2)(x)
        return layers.FullyConnected(7, window=2, name="fc")(x)


def test_without_padding_a_cell_is_the_network_on_the_crop_that_it_sees():
    """Without padding the border of a crop does not change the result."""
    module, side, stride = Valid(), 14, 4
    image = np.random.default_rng(0).normal(size=(1, 30, 38, 3)).astype(np.float32)
    variables = module.init(jax.random.key(0), jnp.zeros((1, side, side, 3)))
    cells = module.apply(variables, image)[0]
    assert cells.shape == (5, 7, 7)
    for i in range(5):
        for j in range(7):
            top, left = i * stride, j * stride
            crop = image[:, top : top + side, left : left + side]
            alone = module.apply(variables, crop)
            assert alone.shape == (1, 1, 1, 7)
            np.testing.assert_allclose(cells[i, j], alone[0, 0, 0], rtol=1e-4, atol=1e-5)


def test_a_global_mean_leaves_out_padding():
    x = jnp.arange(24.0).reshape(1, 4, 3, 2)
    with layers.padded((4, 3), jnp.array([[2, 3]])):
        actual = layers.GlobalAveragePool().apply({}, x)
    np.testing.assert_allclose(actual, x[:, :2].mean(axis=(1, 2)))


@pytest.mark.parametrize(
    ("name", "options"), [("resnet", {"depth": 18}), ("googlenet", {}), ("resnet_cifar10", {})]
)
def test_an_image_smaller_than_the_native_one_is_refused(name, options):
    side = 28 if name == "resnet_cifar10" else 192
    module = registry.create({"name": name, "dtype": "float32", **options}, 7)
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), image)
    with pytest.raises(ValueError, match="too small"):
        jax.eval_shape(module.clone(class_map=True).apply, variables, image)
