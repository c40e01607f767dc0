"""LeNet-5 against the paper's counts, codes and tables."""

import functools
import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from errors import UserError
from models import lenet, registry
from models.layers import scaled_tanh
from models.summary import describe, table

SECTION = {"name": "lenet5", "dtype": "float32"}  # every option at its default, the paper's


def create(**options):
    return registry.create({**SECTION, **options}, 10)


def init(module):
    return module.init(jax.random.key(0), jnp.zeros((1, 32, 32, 1)))["params"]


def sizes(params):
    return {name: sum(x.size for x in jax.tree.leaves(p)) for name, p in params.items()}


def test_parameters_of_each_layer():
    params = init(create())
    assert sizes(params) == {
        "c1": 156,
        "s2": 12,
        "c3": 1516,
        "s4": 32,
        "c5": 48120,
        "f6": 10164,
    }
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))


def test_common_modern_variant_has_61706_parameters():
    modern = create(subsampling="max", activation="relu", output="softmax", c3="full")
    assert sum(sizes(init(modern)).values()) == 61706


def test_summary_has_the_counts_of_the_paper():
    actual = describe(create(), "lenet5", (32, 32, 1))
    rows = {
        layer["name"]: tuple(
            layer[k] for k in ("output_shape", "params", "connections", "macs", "receptive_field")
        )
        for layer in actual["layers"]
    }
    assert rows == {  # LeCun 1998, sec. II.B
        "c1": ([28, 28, 6], 156, 122304, 117600, 5),
        "s2": ([14, 14, 6], 12, 5880, 1176, 6),
        "c3": ([10, 10, 16], 1516, 151600, 150000, 14),
        "s4": ([5, 5, 16], 32, 2000, 400, 16),
        "c5": ([1, 1, 120], 48120, 48120, 48000, 32),
        "f6": ([84], 10164, 10164, 10080, 32),
        "output": ([10], 0, 840, 840, 32),
    }
    assert actual["total"] == {"params": 60000, "connections": 340908, "macs": 328096}
    assert "340,908" in table(actual)


def test_connection_table():
    pairs = [(i, m) for m, inputs in enumerate(lenet.C3_TABLE) for i in inputs]
    assert len(pairs) == len(set(pairs)) == 60
    assert np.bincount([i for i, _ in pairs]).tolist() == [10] * 6
    assert [len(inputs) for inputs in lenet.C3_TABLE] == [3] * 6 + [4] * 9 + [6]
    columns_of_s2_0 = [m for m, inputs in enumerate(lenet.C3_TABLE) if 0 in inputs]
    assert columns_of_s2_0 == [0, 4, 5, 6, 9, 10, 11, 12, 14, 15]  # table I, first row


def test_c3_equals_a_brute_force_convolution_over_the_table():
    module = create()
    rng = np.random.default_rng(0)
    params = init(module)
    params["c3"]["bias"] = jnp.asarray(rng.normal(size=16), jnp.float32)
    images = rng.uniform(-0.1, 1.175, (2, 32, 32, 1)).astype(np.float32)
    _, seen = module.apply({"params": params}, images, capture_intermediates=True)
    seen = seen["intermediates"]
    s2 = np.asarray(scaled_tanh(seen["s2"]["__call__"][0]), np.float64)
    kernel, bias = (np.asarray(params["c3"][k], np.float64) for k in ("kernel", "bias"))
    expected = np.zeros((2, 10, 10, 16))
    pair = 0
    for m, inputs in enumerate(lenet.C3_TABLE):
        expected[..., m] += bias[m]
        for i in inputs:
            for y in range(10):
                for x in range(10):
                    field = s2[:, y : y + 5, x : x + 5, i]
                    expected[:, y, x, m] += (field * kernel[:, :, pair]).sum(axis=(1, 2))
            pair += 1
    np.testing.assert_allclose(seen["c3"]["__call__"][0], expected, atol=2e-6)


def test_s2_is_a_trainable_multiple_of_the_sum():
    module = create()
    params = init(module)
    params["s2"] = {"coefficient": jnp.arange(1.0, 7.0), "bias": jnp.full(6, 0.5)}
    images = np.random.default_rng(1).uniform(size=(1, 32, 32, 1)).astype(np.float32)
    _, seen = module.apply({"params": params}, images, capture_intermediates=True)
    c1 = np.asarray(scaled_tanh(seen["intermediates"]["c1"]["__call__"][0]))
    s2 = np.asarray(seen["intermediates"]["s2"]["__call__"][0])
    total = c1[0, 4, 6, 3] + c1[0, 4, 7, 3] + c1[0, 5, 6, 3] + c1[0, 5, 7, 3]
    assert s2[0, 2, 3, 3] == pytest.approx(4 * total + 0.5, rel=1e-6)


def test_rbf_codes():
    codes = lenet.rbf_codes()
    assert codes.shape == (10, 84)
    assert set(np.unique(codes)) == {-1, 1}
    digest = hashlib.sha256(((codes + 1) // 2).astype(np.uint8).tobytes()).hexdigest()
    assert digest == "a61b3bbe7e039b175c0b84fb0a0ab523187ba04e7e123a705722277554709f2c"
    assert (codes == 1).sum(axis=1).tolist() == [35, 27, 33, 32, 41, 35, 39, 25, 43, 39]
    distance = (codes[:, None] != codes[None]).sum(axis=-1)
    assert distance.tolist() == [
        [0, 42, 30, 29, 18, 30, 22, 40, 26, 28],
        [42, 0, 30, 35, 50, 32, 44, 28, 50, 42],
        [30, 30, 0, 33, 34, 20, 36, 32, 34, 32],
        [29, 35, 33, 0, 29, 29, 25, 27, 21, 29],
        [18, 50, 34, 29, 0, 34, 20, 50, 20, 30],
        [30, 32, 20, 29, 34, 0, 26, 34, 28, 24],
        [22, 44, 36, 25, 20, 26, 0, 46, 12, 26],
        [40, 28, 32, 27, 50, 34, 46, 0, 40, 34],
        [26, 50, 34, 21, 20, 28, 12, 40, 0, 18],
        [28, 42, 32, 29, 30, 24, 26, 34, 18, 0],
    ]


def test_rbf_output_of_the_codes_is_minus_four_hamming_distances():
    from models.layers import RBF

    codes = lenet.rbf_codes()
    logits = RBF(tuple(map(tuple, codes.tolist()))).apply({}, jnp.asarray(codes, jnp.float32))
    expected = -4.0 * (codes[:, None] != codes[None]).sum(axis=-1)
    np.testing.assert_array_equal(logits, expected)
    assert logits.argmax(axis=1).tolist() == list(range(10))


def test_squashing_function():
    assert float(scaled_tanh(jnp.float32(1.0))) == pytest.approx(0.99999726, abs=2e-7)
    assert float(jax.grad(scaled_tanh)(0.0)) == pytest.approx(1.143933, abs=1e-6)
    assert float(jax.grad(scaled_tanh)(1.0)) == pytest.approx(0.75541, abs=1e-5)


@pytest.mark.slow
def test_initial_weights_are_uniform_by_the_fan_in_of_each_unit():
    keys = jax.random.split(jax.random.key(3), 200)
    # Compiled, so that XLA leaves out the network's computation.
    params = jax.jit(jax.vmap(lambda key: create().init(key, jnp.zeros((1, 32, 32, 1)))))(keys)
    params = params["params"]

    def check(values, fan_in):
        bound = 2.4 / fan_in
        values = np.asarray(values, np.float64).ravel()
        assert np.abs(values).max() <= bound * (1 + 1e-6)
        assert np.abs(values).max() > 0.98 * bound
        assert values.std() == pytest.approx(bound / 3**0.5, rel=0.03)
        assert abs(values.mean()) < 0.03 * bound

    check(params["c1"]["kernel"], 25)
    check(params["s2"]["coefficient"], 4)
    check(params["c3"]["kernel"][..., :18], 75)  # the six maps of three inputs
    check(params["c3"]["kernel"][..., 18:54], 100)  # the nine of four
    check(params["c3"]["kernel"][..., 54:], 150)  # the one of six
    check(params["c5"]["kernel"], 400)
    check(params["f6"]["kernel"], 120)


OPTIONS = registry.options("lenet5")


@pytest.mark.parametrize("subsampling", OPTIONS["subsampling"].choices)
@pytest.mark.parametrize("output", OPTIONS["output"].choices)
@pytest.mark.parametrize("c3", OPTIONS["c3"].choices)
def test_every_option_gives_logits_and_a_gradient_for_every_parameter(subsampling, output, c3):
    module = create(subsampling=subsampling, output=output, c3=c3)
    images = np.random.default_rng(2).uniform(-0.1, 1.2, (8, 32, 32, 1)).astype(np.float32)
    params = init(module)

    def total(params):
        logits = module.apply({"params": params}, images)
        assert logits.shape == (8, 10)
        assert logits.dtype == jnp.float32
        return (logits * jnp.arange(10.0)).sum()

    value, gradient = jax.jit(jax.value_and_grad(total))(params)
    assert np.isfinite(value)
    for path, leaf in jax.tree.leaves_with_path(gradient):
        assert np.isfinite(leaf).all(), path
        assert np.abs(leaf).max() > 0, path


@pytest.mark.slow
def test_bfloat16_computes_in_bfloat16_and_keeps_float32_parameters():
    module = create(dtype="bfloat16")
    params = init(module)
    images = np.random.default_rng(4).uniform(size=(4, 32, 32, 1)).astype(np.float32)
    apply = jax.jit(functools.partial(module.apply, capture_intermediates=True))
    logits, seen = apply({"params": params}, images)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    assert seen["intermediates"]["c5"]["__call__"][0].dtype == jnp.bfloat16
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(
        logits, jax.jit(create().apply)({"params": params}, images), rtol=0.05
    )


@pytest.mark.parametrize(
    ("section", "classes", "message"),
    [
        ({"name": "lenet"}, 10, "did you mean lenet5"),
        ({"subsampling": "maxx"}, 10, "did you mean max"),
        ({"groups": 2}, 10, "model.groups is not an option of lenet5"),
        ({"dtype": "float64"}, 10, "model.dtype=float64"),
    ],
)
def test_wrong_sections_are_refused(section, classes, message):
    with pytest.raises(UserError, match=message):
        registry.create({**SECTION, **section}, classes)


def test_rbf_with_other_classes_and_other_image_sizes_are_refused():
    with pytest.raises(ValueError, match="codes for the 10 digits"):
        init(registry.create(SECTION, 26))
    with pytest.raises(ValueError, match="32x32"):
        create().init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
