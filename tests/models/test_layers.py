"""The primitives against XLA's own convolution and NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from models import layers


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", [0, 2])
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_convolution_and_its_gradients_equal_xlas(stride, padding, kernel_size):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 9, 8, 3)).astype(np.float32)
    module = layers.Conv(4, (kernel_size,) * 2, strides=stride, padding=padding)
    variables = module.init(jax.random.key(0), x)

    def ours(variables, x):
        return jnp.sin(module.apply(variables, x)).sum()

    def xlas(variables, x):
        p = variables["params"]
        y = lax.conv_general_dilated(
            x,
            p["kernel"],
            (stride, stride),
            [(padding, padding)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision="highest",
        )
        return jnp.sin(y + p["bias"]).sum()

    assert float(ours(variables, x)) == pytest.approx(float(xlas(variables, x)), rel=1e-5)
    found = jax.grad(ours, argnums=(0, 1))(variables, x)
    expected = jax.grad(xlas, argnums=(0, 1))(variables, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), found, expected)


def test_grouped_and_very_large_convolutions_take_xlas_way(monkeypatch):
    x = np.random.default_rng(1).normal(size=(1, 6, 6, 4)).astype(np.float32)
    grouped = layers.Conv(4, (3, 3), feature_group_count=2)
    variables = grouped.init(jax.random.key(0), x)
    assert variables["params"]["kernel"].shape == (3, 3, 2, 4)
    whole = np.asarray(grouped.apply(variables, x))
    half = layers.Conv(2, (3, 3))
    part = {"params": jax.tree.map(lambda leaf: leaf[..., :2], variables["params"])}
    np.testing.assert_allclose(whole[..., :2], half.apply(part, x[..., :2]), atol=1e-5)

    padded = layers.Conv(4, (3, 3), padding=1)
    variables = padded.init(jax.random.key(0), x)
    small = padded.apply(variables, x)
    monkeypatch.setattr(layers.kernels, "_MAX_PATCH_BYTES", 0)
    np.testing.assert_allclose(padded.apply(variables, x), small, atol=1e-5)


def test_pooling_on_a_small_example():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    assert layers.Pool("max").apply({}, x).ravel().tolist() == [5, 7, 13, 15]
    assert layers.Pool("average").apply({}, x).ravel().tolist() == [2.5, 4.5, 10.5, 12.5]
    overlapping = layers.Pool("max", window=3, stride=1)
    assert overlapping.apply({}, x).ravel().tolist() == [10, 11, 14, 15]
    average = layers.Pool("average", window=3, stride=1)
    assert average.apply({}, x).ravel().tolist() == [5, 6, 9, 10]


def test_the_lectures_example_is_a_correlation_then_max_pooling():
    # 6x6 image and 3x3 kernel of the lecture; no kernel is flipped.
    rows = ["100001", "010010", "001100", "100010", "010010", "001010"]
    image = np.array([[int(c) for c in row] for row in rows], np.float32).reshape(1, 6, 6, 1)
    kernel = np.array([[1, -1, -1], [-1, 1, -1], [-1, -1, 1]], np.float32).reshape(3, 3, 1, 1)
    conv = layers.Conv(1, (3, 3), use_bias=False)
    found = conv.apply({"params": {"kernel": kernel}}, image)
    assert found[0, :, :, 0].tolist() == [
        [3, -1, -3, -1],
        [-3, 1, 0, -3],
        [-3, -3, 0, 1],
        [3, -2, -2, -1],
    ]
    assert layers.Pool("max").apply({}, found)[0, :, :, 0].tolist() == [[3, 0], [3, 1]]
