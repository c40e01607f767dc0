"""Initial weights: mean, deviation and support by layer, and their effect on gradients."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import layers, lenet, registry

IMAGENET = (224, 224, 3)

# Rule and activation -> (kind, deviation or bound) by fan-in i and fan-out o. He 2015, "Delving
# Deep", eq. 10, 14, 15; Glorot & Bengio 2010, eq. 16; LeCun 1998, app. A; Caffe's filler.hpp.
EXPECTED = {
    ("gaussian", "relu"): ("normal", lambda i, o: 0.03),
    ("uniform", "relu"): ("uniform", lambda i, o: 0.03),
    ("he", "relu"): ("normal", lambda i, o: (2 / i) ** 0.5),
    ("he", "leaky_relu"): ("normal", lambda i, o: (2 / (1.0001 * i)) ** 0.5),
    ("he", "prelu"): ("normal", lambda i, o: (2 / (1.0625 * i)) ** 0.5),
    ("he", "prelu_shared"): ("normal", lambda i, o: (2 / (1.0625 * i)) ** 0.5),
    ("he_fan_out", "tanh"): ("normal", lambda i, o: (2 / o) ** 0.5),
    ("he_fan_out", "prelu"): ("normal", lambda i, o: (2 / (1.0625 * o)) ** 0.5),
    ("glorot", "relu"): ("uniform", lambda i, o: (6 / (i + o)) ** 0.5),
    ("lecun1998", "relu"): ("uniform", lambda i, o: 2.4 / i),
    ("xavier_fan_in", "relu"): ("uniform", lambda i, o: (3 / i) ** 0.5),
}


def check(values, kind, size):
    """Mean, deviation and support of N(0, size^2) or U(-size, size)."""
    values = np.asarray(values, np.float64).ravel() / size
    count = len(values)
    assert count >= 10_000
    if kind == "uniform":
        assert np.abs(values).max() <= 1 + 1e-6
        assert np.abs(values).max() > 0.99
        values = values * 3**0.5
    else:
        # Neither cut off nor spread out: 4.55 % are beyond two deviations.
        assert (np.abs(values) > 2).mean() == pytest.approx(0.0455, abs=5 * 0.21 / count**0.5)
        assert 3.5 < np.abs(values).max() < 7
    assert abs(values.mean()) < 5 / count**0.5
    assert values.std() == pytest.approx(1, abs=5 / count**0.5)


class OneConv(layers.Net):
    """A convolution as networks have them."""

    features: int = 1
    size: int = 1
    groups: int = 1

    @nn.compact
    def __call__(self, x):
        build = self.builder(train=False)
        return build.conv(x, self.features, self.size, "conv", groups=self.groups)


def draws(module, shape, count):
    """Parameters under `count` keys. Compiled, so that XLA leaves out the computation."""
    images = jnp.zeros((1, *shape))
    keys = jax.random.split(jax.random.key(7), count)
    return jax.jit(jax.vmap(lambda key: module.init(key, images)["params"]))(keys)


@pytest.mark.parametrize(("rule", "activation"), EXPECTED, ids=str)
def test_rules_use_the_fans_of_each_layer(rule, activation):
    kind, size = EXPECTED[rule, activation]
    options = {"initializer": rule, "initializer_scale": 0.03, "activation": activation}
    init = OneConv(**options).builder(train=False).init
    for module, shape, fan_in, fan_out in (
        (OneConv(features=40, size=5, **options), (5, 5, 6), 5 * 5 * 6, 5 * 5 * 40),
        # Two groups of 16 maps, each seen by 32 of the 64.
        (OneConv(features=64, size=3, groups=2, **options), (3, 3, 32), 3 * 3 * 16, 3 * 3 * 32),
        (layers.FullyConnected(80, initializer=init), (10, 10, 3), 300, 80),
        # The same unit and fans, seen as a window.
        (layers.FullyConnected(64, 5, initializer=init), (5, 5, 8), 200, 64),
        (layers.LocalConv(16, (3, 3), 1, initializer=init), (6, 6, 8), 72, 3 * 3 * 16),
        (layers.DropConnect(80, initializer=init), (300,), 300, 80),
    ):
        call = {"train": False} if isinstance(module, layers.DropConnect) else {}
        keys = jax.random.split(jax.random.key(7), 5)
        images = jnp.zeros((1, *shape))
        params = jax.vmap(lambda k, m=module, x=images, c=call: m.init(k, x, **c)["params"])(keys)
        params = params.get("conv", params)
        check(params["kernel"], kind, size(fan_in, fan_out))
        np.testing.assert_array_equal(params["bias"], 0)


@pytest.mark.parametrize(("rule", "activation"), EXPECTED, ids=str)
def test_rules_use_the_fans_of_the_units_of_lenet5(rule, activation):
    kind, size = EXPECTED[rule, activation]
    net = OneConv(initializer=rule, initializer_scale=0.03, activation=activation)
    init = net.builder(train=False).init
    c3 = layers.TableConv(lenet.C3_TABLE, (5, 5), initializer=init)
    kernels = draws(c3, (14, 14, 6), 20 * 25)["kernel"]
    # Six maps see three maps each, nine see four, one sees six; ten maps see each.
    for pairs, fan_in in ((slice(0, 18), 75), (slice(18, 54), 100), (slice(54, 60), 150)):
        check(kernels[..., pairs], kind, size(fan_in, 250))
    # A coefficient has four inputs, and each of them one unit behind it.
    s2 = layers.Subsampling(initializer=init)
    check(draws(s2, (28, 28, 6), 5000)["coefficient"], kind, size(4, 1))


def started(name, shape, classes=10, kind=None, **options):
    """Initial parameters; with a kind, only the leaves of that name are drawn."""
    module = registry.create({"name": name, "dtype": "float32", **options}, classes)

    def init(images):
        params = module.init(jax.random.key(0), images)["params"]
        return leaves(params, kind) if kind else params

    return jax.tree.map(np.asarray, jax.jit(init)(jnp.zeros((1, *shape))))


def leaves(params, kind):
    """Path of the layer -> its leaf called `kind`."""
    return {
        "/".join(part.key for part in path[:-1]): leaf
        for path, leaf in jax.tree.leaves_with_path(params)
        if path[-1].key == kind
    }


@pytest.mark.slow
def test_alexnet():
    # Krizhevsky 2012, sec. 5.
    params = started("alexnet", IMAGENET)
    assert set(params) == {*(f"conv{n}" for n in range(1, 6)), "fc6", "fc7", "fc8"}
    for name, layer in params.items():
        check(layer["kernel"], "normal", 0.01)
        one = name in ("conv2", "conv4", "conv5", "fc6", "fc7")
        np.testing.assert_array_equal(layer["bias"], float(one))


# `initW` of cuda-convnet's files.
CUDA_CONVNETS = {
    "26pct": {"conv1": 1e-4, "conv2": 0.01, "conv3": 0.01, "fc64": 0.1, "fc10": 0.1},
    "18pct": {"conv1": 1e-4, "conv2": 0.01, "conv3": 0.01, "fc10": 0.01},
    "13pct": {"conv1": 1e-4, "conv2": 0.01, "local3": 0.04, "local4": 0.04, "fc10": 0.01},
    "11pct": {"conv1": 1e-4, "conv2": 0.01, "local3": 0.04, "local4": 0.04, "fc10": 0.01},
}


@pytest.mark.parametrize("variant", CUDA_CONVNETS)
@pytest.mark.slow
def test_cuda_convnet(variant):
    module = registry.create({"name": "cuda_convnet", "dtype": "float32", "variant": variant}, 10)
    params = draws(module, (12, 12, 3), 30)  # at 12x12 each layer has 320 weights or more
    assert set(params) == set(CUDA_CONVNETS[variant])
    for name, deviation in CUDA_CONVNETS[variant].items():
        check(params[name]["kernel"], "normal", deviation)
        np.testing.assert_array_equal(params[name]["bias"], 0)


@pytest.mark.slow
def test_cuda_convnet_takes_another_rule_for_all_layers():
    module = registry.create(
        {"name": "cuda_convnet", "dtype": "float32", "variant": "13pct", "initializer": "he"}, 10
    )
    params = draws(module, (12, 12, 3), 30)
    fans = {"conv1": 75, "conv2": 1600, "local3": 576, "local4": 288, "fc10": 3 * 3 * 32}
    for name, fan_in in fans.items():
        check(params[name]["kernel"], "normal", (2 / fan_in) ** 0.5)


def test_maxout_net():
    # irange of the authors' files.
    conv = started("maxout", (28, 28, 1), variant="mnist_conv")
    check(np.concatenate([k.ravel() for k in leaves(conv, "kernel").values()]), "uniform", 0.005)
    dense = started("maxout", (28, 28, 1), variant="mnist_dense")
    check(dense["h0"]["kernel"], "uniform", 0.005)
    for params in (conv, dense):
        assert all((bias == 0).all() for bias in leaves(params, "bias").values())


@pytest.mark.slow
def test_googlenet():
    # Caffe's bvlc_googlenet: "xavier" weights, biases 0.2, but 0 in the three classifiers.
    biases = started("googlenet", (96, 96, 3), kind="bias")
    fans = {
        "conv2": 9 * 64,
        "inception_5b/5x5": 25 * 48,
        "fc": 1024,
        "aux1/fc1": 128,  # one 1x1 map of 128 at this size
        "aux2/fc2": 1024,
    }
    module = registry.create({"name": "googlenet", "dtype": "float32"}, 10)

    @jax.jit
    def drawn():
        """Only the kernels that are checked."""
        params = module.init(jax.random.key(0), jnp.zeros((1, 96, 96, 3)))["params"]
        kernels = leaves(params, "kernel")
        assert len(kernels) == len(biases) == 3 + 9 * 6 + 1 + 2 * 3
        return {name: kernels[name] for name in fans}

    kernels = drawn()
    for name, fan_in in fans.items():
        check(kernels[name], "uniform", (3 / fan_in) ** 0.5)
    for name, bias in biases.items():
        last = name in ("fc", "aux1/fc2", "aux2/fc2")
        np.testing.assert_array_equal(bias, np.float32(0.0 if last else 0.2))


@pytest.mark.parametrize("zero_gamma", [False, True])
def test_resnet(zero_gamma):
    # He 2015, sec. 3.4, with fan-in; the classifier's 0.01 is the project's choice.
    params = started("resnet", (32, 32, 3), 1000, depth=18, zero_gamma=zero_gamma)
    kernels = leaves(params, "kernel")
    check(kernels.pop("fc"), "normal", 0.01)
    check(kernels["conv2_1/conv1"], "normal", (2 / (9 * 64)) ** 0.5)
    check(kernels["conv3_1/conv1"], "normal", (2 / (9 * 64)) ** 0.5)
    check(kernels["conv3_1/conv2"], "normal", (2 / (9 * 128)) ** 0.5)
    check(kernels["conv5_1/projection"], "normal", (2 / 256) ** 0.5)
    gammas = leaves(params, "scale")
    assert len(gammas) == 20  # 17 convolutions and three projections
    for name, gamma in gammas.items():
        # Goyal 2017: the last of each block, not the projection's.
        zero = zero_gamma and name.endswith("/bn2")
        np.testing.assert_array_equal(gamma, 0.0 if zero else 1.0)
    assert all((bias == 0).all() for bias in leaves(params, "bias").values())


@pytest.mark.slow
def test_zero_gamma_is_that_of_the_third_batch_norm_of_bottlenecks():
    gammas = started("resnet", (32, 32, 3), kind="scale", depth=50, zero_gamma=True)
    zero = {name for name, gamma in gammas.items() if not gamma.any()}
    assert len(zero) == 16
    assert all(name.endswith("/bn3") for name in zero)


@pytest.mark.slow
def test_gradients_of_vgg_b_shrink_with_a_constant_deviation():
    # He 2015, "Delving Deep", sec. 2.2: deviations of 0.01 shrink the gradient from conv10 to
    # conv2 by 1.7e4 against those of eq. 14. With one key and ReLU the nets are scaled copies of
    # each other, so that the ratio is the product of nine layers' factors.
    # The size of the image does not enter.
    images = np.random.default_rng(0).normal(size=(1, 64, 64, 3)).astype(np.float32)
    functional = np.random.default_rng(1).normal(size=10).astype(np.float32)

    def measure(rule):
        module = registry.create(
            {
                "name": "vgg",
                "dtype": "float32",
                "variant": "B",
                "image_size": 64,
                "initializer": rule,
                "regulariser": "none",
            },
            10,
        )

        params = module.init(jax.random.key(0), images)["params"]
        names = ("conv1_1", "conv5_2")

        def output(biases):
            of = {n: params[n] | {"bias": b} for n, b in zip(names, biases, strict=True)}
            return (module.apply({"params": params | of}, images) @ functional).sum()

        deviations = {name: layer["kernel"].std() for name, layer in params.items()}
        return jax.grad(output)([params[name]["bias"] for name in names]), deviations

    # In one program, which draws the numbers once.
    both = jax.jit(lambda: (measure("he_fan_out"), measure("gaussian")))()
    ((he_first, he_last), he), ((first, last), gaussian) = jax.tree.map(np.asarray, both)
    for name, deviation in gaussian.items():
        assert deviation == pytest.approx(0.01, rel=0.02), name
    by_block = (0.058926, 0.041667, 0.029463, 0.020833, 0.020833)
    for block, deviation in enumerate(by_block, 1):
        for name in (f"conv{block}_1", f"conv{block}_2"):
            ratio = he[name] / gaussian[name]
            assert ratio == pytest.approx(deviation / 0.01, rel=1e-4), name

    assert first.all()
    grows = (he_first / first) / (np.linalg.norm(he_last) / np.linalg.norm(last))
    assert np.median(grows) == pytest.approx(16729, rel=1e-3)
    # Single maps come out up to 3 % apart, the median within 0.1 %.
    np.testing.assert_allclose(grows, 16729, rtol=0.06)
