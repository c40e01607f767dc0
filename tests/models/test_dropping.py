"""Dropout, DropConnect, standout: against enumerations of all masks, and closed forms."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import layers, registry
from models.layers import dropping

KEY = {"dropout": jax.random.key(7)}


def test_dropout_drops_its_rate_and_keeps_the_mean():
    x = jnp.ones((200, 500))
    trained = layers.Dropout(0.3).apply({}, x, True, rngs=KEY)
    dropped = float((trained == 0).mean())
    assert dropped == pytest.approx(0.3, abs=5 * (0.21 / x.size) ** 0.5)
    np.testing.assert_allclose(np.unique(trained), [0, 1 / 0.7], rtol=1e-6)
    np.testing.assert_array_equal(layers.Dropout(0.3).apply({}, x, False), x)
    published = layers.Dropout(0.3, "test")
    np.testing.assert_array_equal(np.unique(published.apply({}, x, True, rngs=KEY)), [0, 1])
    np.testing.assert_allclose(published.apply({}, x, False), 0.7 * x, rtol=1e-6)


def test_both_scalings_are_equal_if_the_weights_of_the_next_layer_are_scaled():
    """Test-time scaling with weights W is train-time scaling with W times the share kept."""
    section = {"name": "mlp", "dtype": "float32", "hidden": (20, 15), "regulariser": "dropout"}
    published = registry.create({**section, "dropout_scaling": "test", "drop_rate": 0.4}, 10)
    inverted = registry.create({**section, "dropout_scaling": "train", "drop_rate": 0.4}, 10)
    x = np.random.default_rng(0).normal(size=(5, 6, 6, 1)).astype(np.float32)
    params = published.init(jax.random.key(0), x)["params"]
    scaled = {name: dict(layer) for name, layer in params.items()}
    for behind in ("h2", "output"):
        scaled[behind]["kernel"] = params[behind]["kernel"] * 0.6
    for train in (True, False):
        a = published.apply({"params": params}, x, train=train, rngs=KEY)
        b = inverted.apply({"params": scaled}, x, train=train, rngs=KEY)
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)
    assert np.abs(a - published.apply({"params": params}, x, train=True, rngs=KEY)).max() > 0.01


def test_halved_weights_give_the_geometric_mean_of_all_masks_for_one_softmax_layer():
    """Exact for a single softmax layer (Goodfellow 2013, sec. 7)."""
    rng = np.random.default_rng(0)
    x, kernel, bias = rng.normal(size=8), rng.normal(size=(8, 4)), rng.normal(size=4)
    masks = np.array(list(itertools.product([0, 1], repeat=8)))
    log_probabilities = jax.nn.log_softmax((masks * x) @ kernel + bias)
    geometric = jax.nn.softmax(log_probabilities.mean(axis=0))
    scaled = layers.Dropout(0.5, "test").apply({}, jnp.asarray(x, jnp.float32), False)
    np.testing.assert_allclose(jax.nn.softmax(scaled @ kernel + bias), geometric, rtol=1e-5)


def test_the_annealed_rate_follows_the_scale():
    x = jnp.ones((100, 1000))
    drop = layers.Dropout(0.5)
    half = jax.jit(lambda scale: drop.apply({}, x, True, scale, rngs=KEY))
    assert float((half(0.5) == 0).mean()) == pytest.approx(0.25, abs=0.01)
    assert float(half(0.5).max()) == pytest.approx(1 / 0.75)
    np.testing.assert_array_equal(half(0.0), x)


@pytest.mark.parametrize("kind", ["dropout", "standout", "dropconnect"])
def test_a_part_of_a_batch_has_the_masks_of_its_positions(kind):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 4, 5)), jnp.float32)
    apply = {
        "dropout": lambda x: layers.Dropout(0.5).apply({}, x, True, rngs=KEY),
        "standout": lambda x: layers.Standout().apply({}, x, x, True, rngs=KEY),
        "dropconnect": lambda x: layers.DropConnect(7).apply(
            {"params": {"kernel": jnp.ones((20, 7)), "bias": jnp.ones(7)}}, x, True, rngs=KEY
        ),
    }[kind]
    whole = apply(x)
    places = jnp.array([4, 1, 3])
    with layers.placed(places):
        part = apply(x[places])
    np.testing.assert_allclose(part, whole[places], rtol=1e-5, atol=1e-6)
    assert np.abs(apply(x[places]) - part).max() > 0.1  # without it they are 0, 1, 2


def masked_inputs_of_a_unit(v, w, b, keep):
    """Every mask over weights and bias of one unit: (u, probability) of each."""
    for mask in itertools.product([0, 1], repeat=len(v) + 1):
        probability = math.prod(keep if m else 1 - keep for m in mask)
        yield float(np.dot(np.array(mask[:-1]) * w, v) + mask[-1] * b), probability


def layer_of_one_unit(keep, **options):
    v, w, b = np.array([0.5, -1.0, 2.0]), np.array([1.0, 0.7, -0.4]), 0.3
    layer = layers.DropConnect(1, rate=1 - keep, **options)
    params = {"kernel": jnp.asarray(w, jnp.float32)[:, None], "bias": jnp.array([b])}
    return layer, {"params": params}, v, w, b


def test_dropconnect_in_training_has_the_mean_and_variance_of_its_masks():
    keep = 0.7
    layer, variables, v, w, b = layer_of_one_unit(keep)
    x = jnp.tile(jnp.asarray(v, jnp.float32), (40_000, 1))  # every example has its own mask
    actual = np.asarray(layer.apply(variables, x, True, rngs=KEY), np.float64).ravel()
    cases = list(masked_inputs_of_a_unit(v, w, b, keep))
    mean = sum(p * u for u, p in cases)
    variance = sum(p * (u - mean) ** 2 for u, p in cases)
    assert mean == pytest.approx(keep * (w @ v + b))
    assert variance == pytest.approx(keep * (1 - keep) * (w**2 @ v**2 + b**2))
    assert actual.mean() == pytest.approx(mean, abs=5 * (variance / 40_000) ** 0.5)
    assert actual.var() == pytest.approx(variance, rel=0.03)
    np.testing.assert_allclose(np.unique(actual.round(4)), sorted({round(u, 4) for u, _ in cases}))


def test_dropconnect_samples_a_gaussian_with_the_moments_of_the_masks():
    keep = 0.7
    layer, variables, v, w, b = layer_of_one_unit(keep, activation="relu", samples=20_000)
    m = keep * (w @ v + b)
    s = (keep * (1 - keep) * (w**2 @ v**2 + b**2)) ** 0.5
    actual = layer.apply(variables, jnp.asarray(v, jnp.float32)[None], False)
    below = 0.5 * (1 + math.erf(m / s / 2**0.5))
    density = math.exp(-0.5 * (m / s) ** 2) / (2 * math.pi) ** 0.5
    expected = m * below + s * density  # E relu(u), u ~ N(m, s^2)
    assert float(actual[0, 0]) == pytest.approx(expected, abs=5 * s / 20_000**0.5)
    mean = layers.DropConnect(1, rate=1 - keep, activation="relu", inference="mean")
    assert float(mean.apply(variables, v[None], False)[0, 0]) == pytest.approx(
        max(0.0, m), abs=1e-6
    )


def test_dropconnect_predictions_depend_on_their_image_alone():
    layer = layers.DropConnect(6, activation="tanh", samples=50)
    x = np.random.default_rng(0).normal(size=(5, 9)).astype(np.float32)
    variables = layer.init(jax.random.key(0), x, False)
    together = layer.apply(variables, x, False)
    np.testing.assert_allclose(layer.apply(variables, x[3:4], False)[0], together[3], atol=1e-6)


@pytest.mark.slow
def test_dropconnect_in_groups_of_examples_is_the_same(monkeypatch):
    layer = layers.DropConnect(6, activation="prelu")
    x = np.random.default_rng(0).normal(size=(5, 9)).astype(np.float32)
    variables = layer.init(jax.random.key(0), x, False)

    def run():
        return jax.value_and_grad(lambda v: jnp.sin(layer.apply(v, x, True, rngs=KEY)).sum())(
            variables
        )

    whole = run()
    monkeypatch.setattr(dropping, "_MASKED_ELEMENTS", 2 * 54)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), run(), whole)


def test_dropconnect_slides_over_larger_maps_at_test_time_only():
    layer = layers.DropConnect(4, window=3, activation="relu", samples=20)
    x = np.random.default_rng(0).normal(size=(2, 5, 4, 2)).astype(np.float32)
    variables = layer.init(jax.random.key(0), x[:, :3, :3], False)
    whole = layer.apply(variables, x, False)
    assert whole.shape == (2, 3, 2, 4)
    part = layer.apply(variables, x[:, 2:5, 1:4], False)
    np.testing.assert_allclose(whole[:, 2:, 1:], part, atol=1e-5)
    assert layer.apply(variables, x[:, :3, :3], True, rngs=KEY).shape == (2, 1, 1, 4)
    with pytest.raises(ValueError, match="native size only"):
        layer.apply(variables, x, True, rngs=KEY)


def test_standout_keeps_a_unit_by_a_sigmoid_of_its_input():
    pre = jnp.tile(jnp.array([-2.0, 0.0, 1.5]), (50_000, 1))
    x = jnp.maximum(pre, 0.0) + 1
    standout = layers.Standout(alpha=0.8, beta=-0.5)
    probability = 1 / (1 + np.exp(-(0.8 * np.asarray(pre[0], np.float64) - 0.5)))
    trained = standout.apply({}, x, pre, True, rngs=KEY)
    np.testing.assert_allclose((trained != 0).mean(axis=0), probability, atol=0.012)
    tested = standout.apply({}, x, pre, False)
    np.testing.assert_allclose(tested[0], np.asarray(x[0]) * probability, rtol=1e-5)
    np.testing.assert_allclose(standout.apply({}, x, pre, True, 0.0, rngs=KEY), x)


def test_no_gradient_flows_through_the_probabilities_of_standout():
    def total(pre):
        return layers.Standout().apply({}, jnp.ones(4), pre, False).sum()

    assert jax.grad(total)(jnp.arange(4.0)).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("variant", ["mnist_dense", "mnist_conv"])
@pytest.mark.slow
def test_maxout_scales_hidden_layers_but_not_images(variant):
    """The authors' files: input_scales 1; for other layers the default, 1 / 0.5 (pylearn2)."""
    section = {"name": "maxout", "dtype": "float32", "variant": variant}
    image = np.random.default_rng(0).uniform(0.5, 1.0, (2, 28, 28, 1)).astype(np.float32)

    def seen(train, **options):
        module = registry.create({**section, **options}, 10)
        call = {"train": train, "capture_intermediates": True, "mutable": True}

        @jax.jit
        def run(image):
            variables = module.init(jax.random.key(0), image)
            return module.apply(variables, image, rngs=KEY, **call)[1]["intermediates"]

        get = run(image)
        first, behind = (np.asarray(get[f"{n}_dropout"]["__call__"][0]) for n in ("h0", "h1"))
        return (
            first,
            behind,
            np.asarray(get["pool0" if "conv" in variant else "h0_maxout"]["__call__"][0]),
        )

    first, behind, hidden = seen(train=True)
    kept = first != 0
    assert kept.mean() == pytest.approx(0.8, abs=0.05)
    np.testing.assert_array_equal(first[kept], image[kept])
    np.testing.assert_allclose(behind[behind != 0], 2 * hidden[behind != 0], rtol=1e-6)
    np.testing.assert_array_equal(seen(train=False)[0], image)
    first = seen(train=True, input_dropout_scaling="train")[0]
    np.testing.assert_allclose(first[kept], image[kept] / 0.8, rtol=1e-6)
    first = seen(train=False, input_dropout_scaling="test")[0]
    np.testing.assert_allclose(first, image * 0.8, rtol=1e-6)


@pytest.mark.parametrize("rate, image", [(0.0, 1.0), (0.5, 0.0)])
def test_dropconnect_without_variance_has_a_gradient(rate, image):
    layer = layers.DropConnect(3, rate=rate, samples=2)
    images = jnp.full((1, 4), image)
    variables = layer.init(jax.random.key(0), images, train=False)
    gradient = jax.grad(lambda x: layer.apply(variables, x, train=False).sum())(images)
    assert jnp.isfinite(gradient).all()
