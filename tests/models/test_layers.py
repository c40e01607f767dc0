"""The layers against XLA's convolution and NumPy."""

import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from models import layers
from models.layers import backend, kernels, pooling


@pytest.mark.parametrize("batch", [2, pytest.param(27, marks=pytest.mark.slow)])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("size", "padding"),
    [
        (1, 0),
        (3, 0),
        (3, 1),
        (5, 2),
        (5, ((2, 1), (0, 3))),
        (3, ((-1, 1), (-2, 0))),
        (9, ((0, 0), (0, 1))),
    ],
)
def test_convolution_and_its_derivatives_equal_those_of_xla(
    batch, groups, stride, size, padding, monkeypatch, product_options
):
    """Values, gradients, tangents and a Hessian-vector product; 27 images: 3 chunks of 8 and 3."""
    monkeypatch.setattr(kernels, "_CACHE_BYTES", 0)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batch, 9, 8, 4)).astype(np.float32)
    kernel = rng.normal(size=(size, size, 4 // groups, 6)).astype(np.float32)
    along = [rng.normal(size=a.shape).astype(np.float32) for a in (x, kernel)]
    pads = ((padding, padding),) * 2 if isinstance(padding, int) else padding
    shared = dict(
        feature_group_count=groups,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision="highest",
    )

    def derivatives(convolve):
        def total(x, kernel):
            return jnp.sin(convolve(x, kernel, (stride, stride), pads, **shared) / 10).sum()

        gradient = jax.grad(total, argnums=(0, 1))

        @backend.jit
        def of(operands, along):
            return jax.jvp(total, operands, along), jax.jvp(gradient, operands, along)

        return of((x, kernel), tuple(along))

    ours, xlas = derivatives(kernels.convolve), derivatives(lax.conv_general_dilated)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4, rtol=2e-5), ours, xlas)


@pytest.mark.parametrize(("size", "padding"), [(3, 1), (5, ((2, 1), (0, 3))), (1, 0)])
def test_a_small_convolution_of_one_image_equals_that_of_xla(
    size, padding, monkeypatch, product_options
):
    test = test_convolution_and_its_derivatives_equal_those_of_xla
    test(1, 1, 1, size, padding, monkeypatch, product_options)


def test_an_empty_batch_and_a_batch_of_unknown_size():
    kernel = np.ones((3, 3, 2, 4), np.float32)

    def gradient(x):
        def total(kernel):
            return kernels.convolve(x, kernel, (1, 1), ((1, 1), (1, 1))).sum()

        return jax.grad(total)(kernel)

    assert not np.asarray(gradient(np.ones((0, 5, 5, 2), np.float32))).any()
    (batch,) = jax.export.symbolic_shape("b")
    shape = jax.ShapeDtypeStruct((batch, 5, 5, 2), np.float32)
    exported = jax.export.export(jax.jit(gradient))(shape)
    x = np.ones((30, 5, 5, 2), np.float32)
    np.testing.assert_allclose(exported.call(x), gradient(x), rtol=1e-5)


def test_convolution_under_vmap():
    x, kernel = np.ones((3, 2, 5, 5, 1), np.float32), np.ones((3, 3, 1, 2), np.float32)
    mapped = jax.vmap(lambda x: kernels.convolve(x, kernel, (1, 1), ((0, 0), (0, 0))))(x)
    assert mapped.shape == (3, 2, 3, 3, 2)
    assert np.all(np.asarray(mapped) == 9)


def test_a_kernel_that_covers_its_input_and_many_groups():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(2, 5, 5, 8)).astype(np.float32)
    whole = layers.Conv(3, (5, 5))
    variables = whole.init(jax.random.key(0), x)
    expected = np.einsum("bhwc,hwcf->bf", x, variables["params"]["kernel"])
    np.testing.assert_allclose(whole.apply(variables, x)[:, 0, 0], expected, atol=1e-5)
    depthwise = layers.Conv(8, (3, 3), feature_group_count=8)
    variables = depthwise.init(jax.random.key(0), x)
    alone = layers.Conv(1, (3, 3))
    part = {"params": jax.tree.map(lambda leaf: leaf[..., 5:6], variables["params"])}
    actual = depthwise.apply(variables, x)[..., 5:6]
    np.testing.assert_allclose(actual, alone.apply(part, x[..., 5:6]), atol=1e-5)


def test_convolution_in_bfloat16_sums_its_kernel_gradient_in_float32(monkeypatch):
    """Eight chunks: added up in bfloat16, their sums (multiples of 65 * 8) would be rounded."""
    monkeypatch.setattr(kernels, "_CACHE_BYTES", 0)
    x = jnp.ones((64, 5, 13, 1), jnp.bfloat16)
    kernel = jnp.ones((1, 3, 1, 1), jnp.bfloat16)

    def total(kernel):
        y = kernels.convolve(x, kernel, (1, 1), ((0, 0), (1, 1)))
        return y.astype(jnp.float32).sum()

    assert jax.grad(total)(kernel).ravel().tolist() == [3840.0, 4160.0, 3840.0]


def test_pooling_on_a_small_example():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    assert layers.Pool("max").apply({}, x).ravel().tolist() == [5, 7, 13, 15]
    assert layers.Pool("average").apply({}, x).ravel().tolist() == [2.5, 4.5, 10.5, 12.5]
    overlapping = layers.Pool("max", window=3, stride=1)
    assert overlapping.apply({}, x).ravel().tolist() == [10, 11, 14, 15]
    average = layers.Pool("average", window=3, stride=1)
    assert average.apply({}, x).ravel().tolist() == [5, 6, 9, 10]


def test_example_of_the_lecture_a_correlation_and_max_pooling():
    # 6x6 image and 3x3 kernel of the lecture; no kernel is flipped.
    rows = ["100001", "010010", "001100", "100010", "010010", "001010"]
    image = np.array([[int(c) for c in row] for row in rows], np.float32).reshape(1, 6, 6, 1)
    kernel = np.array([[1, -1, -1], [-1, 1, -1], [-1, -1, 1]], np.float32).reshape(3, 3, 1, 1)
    conv = layers.Conv(1, (3, 3), use_bias=False)
    actual = conv.apply({"params": {"kernel": kernel}}, image)
    assert actual[0, :, :, 0].tolist() == [
        [3, -1, -3, -1],
        [-3, 1, 0, -3],
        [-3, -3, 0, 1],
        [3, -2, -2, -1],
    ]
    assert layers.Pool("max").apply({}, actual)[0, :, :, 0].tolist() == [[3, 0], [3, 1]]


def test_gradient_of_equal_pixels_in_max_and_average_pooling():
    x = jnp.array([[1.0, 3, 3], [3, 0, 3], [3, 3, 3]]).reshape(1, 3, 3, 1)
    gradient = jax.grad(lambda x: layers.Pool("max", 3, 1).apply({}, x).sum())(x)
    assert gradient.ravel().tolist() == [0, 1, 0, 0, 0, 0, 0, 0, 0]
    gradient = jax.grad(lambda x: layers.Pool("average", 3, 1).apply({}, x).sum())(x)
    np.testing.assert_allclose(gradient.ravel(), 1 / 9, rtol=1e-6)


def test_max_pooling_keeps_nan():
    x = jnp.zeros((1, 4, 4, 1)).at[0, 1, 0, 0].set(jnp.nan)
    assert jnp.isnan(layers.Pool("max").apply({}, x)).ravel().tolist() == [
        True,
        False,
        False,
        False,
    ]


def window_starts(size, window, stride, padding, ceil):
    """Where windows begin along an axis: whole ones; in ceil mode one more if pixels are left."""
    starts, edge = [], size + padding
    start = -padding
    while start + window <= edge:
        starts.append(start)
        start += stride
    left_over = not starts or starts[-1] + window < edge
    if ceil and left_over and start < size:
        starts.append(start)
    return starts


def brute_force_pool(x, kind, window, stride, padding, ceil):
    """Windows one by one, clipped to the image (max) or the image and its padding (average)."""
    height, width, channels = x.shape[1:]
    starts = [window_starts(size, window, stride, padding, ceil) for size in (height, width)]
    out = np.empty((len(x), len(starts[0]), len(starts[1]), channels), np.float32)
    for i, top in enumerate(starts[0]):
        for j, left in enumerate(starts[1]):
            bottom, right = top + window, left + window
            field = x[:, max(top, 0) : bottom, max(left, 0) : right]
            if kind == "max":
                out[:, i, j] = field.max(axis=(1, 2))
            else:
                rows = min(bottom, height + padding) - top
                columns = min(right, width + padding) - left
                out[:, i, j] = field.sum(axis=(1, 2)) / (rows * columns)
    return out


@pytest.mark.parametrize("kind", layers.POOLING_KINDS)
@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize(
    ("window", "stride", "padding"),
    [(2, 2, 0), (3, 2, 0), (3, 2, 1), (4, 2, 0), (3, 1, 1), (5, 3, 2)],
)
def test_pooling_equals_its_definition(kind, ceil, window, stride, padding):
    rng = np.random.default_rng(0)
    for height, width in ((5, 6), (7, 8), (9, 12)):
        x = rng.normal(size=(2, height, width, 3)).astype(np.float32)
        actual = jax.jit(layers.Pool(kind, window, stride, padding, ceil).apply)({}, x)
        expected = brute_force_pool(x, kind, window, stride, padding, ceil)
        np.testing.assert_allclose(actual, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("variant", "expected"),
    {  # computed by hand from the formulas, with n = 5 and beta = 0.75
        "paper": [5.651838, 10.708635, 14.866753, 17.999544, 22.735027, 27.944183],
        "cuda_convnet": [5.884357, 11.631335, 17.135998, 22.295521, 27.946353, 33.745586],
        "caffe": [9.795016, 19.14479, 27.741441, 35.330394, 44.388891, 53.888599],
    }.items(),
)
def test_local_response_normalisation_on_one_pixel(variant, expected):
    x = jnp.array([10.0, 20, 30, 40, 50, 60]).reshape(1, 1, 1, 6)
    k, alpha = layers.LRN_VARIANTS[variant]
    actual = layers.LocalResponseNorm(5, alpha, k=k).apply({}, x)
    np.testing.assert_allclose(actual.ravel(), expected, rtol=1e-6)


def test_groups_of_lrn_are_normalised_separately():
    x = np.random.default_rng(0).normal(size=(2, 3, 3, 8)).astype(np.float32) * 50
    norm = layers.LocalResponseNorm(5, 1e-3)
    halves = np.concatenate([norm.apply({}, half) for half in np.split(x, 2, -1)], axis=-1)
    towers = layers.LocalResponseNorm(5, 1e-3, groups=2).apply({}, x)
    np.testing.assert_allclose(towers, halves, rtol=1e-6)
    assert np.abs(norm.apply({}, x) - halves).max() > 0.1  # at the border


def test_lrn_within_maps_equals_its_definition():
    x = np.random.default_rng(0).normal(size=(2, 5, 4, 3)).astype(np.float32) * 9
    actual = layers.LocalResponseNormWithinMap(3, 0.01, 0.75, 1.0).apply({}, x)
    expected = np.empty_like(x)
    for i in range(5):
        for j in range(4):
            field = x[:, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
            total = (field.astype(np.float64) ** 2).sum(axis=(1, 2))
            expected[:, i, j] = x[:, i, j] / (1 + 0.01 * total) ** 0.75
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_maxout_has_relu_and_absolute_value_as_special_cases():
    x = jnp.linspace(-2, 2, 9)[:, None]
    relu = jnp.concatenate([x, jnp.zeros_like(x)], axis=-1)
    absolute = jnp.concatenate([x, -x], axis=-1)
    both = layers.maxout(jnp.concatenate([relu, absolute], axis=-1), 2)
    np.testing.assert_array_equal(both[:, :1], jnp.maximum(x, 0))
    np.testing.assert_array_equal(both[:, 1:], jnp.abs(x))


@pytest.mark.parametrize(
    ("name", "expected"),
    {
        "sigmoid": [0.119203, 0.5, 0.952574],
        "tanh": [-0.964028, 0.0, 0.995055],
        "relu": [0.0, 0.0, 3.0],
        "leaky_relu": [-0.02, 0.0, 3.0],
        "prelu": [-0.5, 0.0, 3.0],
        "prelu_shared": [-0.5, 0.0, 3.0],
        "maxout": [3.0],
    }.items(),
)
def test_activations(name, expected):
    class One(nn.Module):
        @nn.compact
        def __call__(self, x):
            return layers.activations.bind(self, name, x.shape[-1], 3)(x)

    actual, _ = One().init_with_output(jax.random.key(0), jnp.array([[-2.0, 0.0, 3.0]]))
    np.testing.assert_allclose(actual[0], expected, atol=1e-6)


def test_deterministic_pooling_has_no_select_and_scatter_on_other_backends(monkeypatch):
    """On a GPU XLA refuses to compile select-and-scatter under this flag. Gradients are equal."""
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 9, 9, 3)), jnp.float32)

    def loss(x):
        return (pooling.pool(x, layers.Pool("max", 3, 2, 1)) ** 2).sum()

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    for flags, has in (("", True), ("--xla_gpu_deterministic_ops=true", False)):
        monkeypatch.setenv("XLA_FLAGS", flags)
        text = jax.jit(lambda x: jax.grad(loss)(x)).lower(x).as_text()
        assert ("select_and_scatter" in text) == has
    actual = jax.grad(loss)(x)
    monkeypatch.setenv("XLA_FLAGS", "")
    np.testing.assert_allclose(actual, jax.grad(loss)(x), rtol=1e-6)
