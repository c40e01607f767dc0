"""The diagonal of second derivatives against NumPy, Gauss-Newton matrices and dense Jacobians."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import curvature, layers, registry
from models.lenet import C3_TABLE, LeNet5, rbf_codes
from train_lib import losses
from train_lib.state import variable_shapes

MAP = functools.partial(losses.map_criterion, j=0.1)


def diagonal(module, loss, params, *batch):
    run = jax.jit(
        lambda params, *batch: curvature.diagonal(module, loss, {"params": params}, *batch)
    )
    return run(params, *batch)


def f(a):
    return 1.7159 * np.tanh(2 / 3 * a)


def squared_slope(a):
    return (1.7159 * 2 / 3 * (1 - np.tanh(2 / 3 * a) ** 2)) ** 2


def lenet(scale):
    """LeNet-5 with weights `scale` times the usual ones, three images and their labels."""
    module, rng = LeNet5(), np.random.default_rng(0)
    shapes = variable_shapes(module, (32, 32, 1))["params"]
    bounds = {"c1": 2.4 / 25, "s2": 0.6, "c3": 2.4 / 100, "s4": 0.6, "c5": 2.4 / 400, "f6": 0.02}
    params = {
        layer: {k: rng.uniform(-1, 1, v.shape) * scale * bounds[layer] for k, v in leaves.items()}
        for layer, leaves in shapes.items()
    }
    params = jax.tree.map(np.float32, params)
    images = rng.uniform(-0.1, 1.175, (3, 32, 32, 1)).astype(np.float32)
    return module, params, images, np.array([3, 7, 9])


def lenet_by_hand(params, images, labels, j):
    """The paper's recursion for LeNet-5 in float64: {(layer, parameter): values}."""
    p = jax.tree.map(np.float64, params)
    codes, total = rbf_codes().astype(np.float64), {}

    def windows(x, size):  # [b, h', w', c, size, size]
        return np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))

    def spread(h, squares, size):  # h [b, i, j, m], squares [k, l, c, m] -> h of the input
        out = np.zeros((len(h), h.shape[1] + size - 1, h.shape[2] + size - 1, squares.shape[2]))
        for k in range(size):
            for n in range(size):
                out[:, k : k + h.shape[1], n : n + h.shape[2]] += h @ squares[k, n].T
        return out

    c3 = np.zeros((5, 5, 6, 16))
    pairs = [(i, m) for m, inputs in enumerate(C3_TABLE) for i in inputs]
    for number, (i, m) in enumerate(pairs):
        c3[:, :, i, m] = p["c3"]["kernel"][:, :, number]
    kernels = {"c1": p["c1"]["kernel"], "c3": c3, "c5": p["c5"]["kernel"]}
    x, inputs, before = np.float64(images), {}, {}
    for conv, sub in (("c1", "s2"), ("c3", "s4"), ("c5", None)):
        inputs[conv] = x
        before[conv] = np.einsum("bijckl,klcm->bijm", windows(x, 5), kernels[conv])
        before[conv] += p[conv]["bias"]
        x = f(before[conv])
        if sub:
            four = windows(x, 2)[:, ::2, ::2]
            inputs[sub] = (four**2).sum(axis=(-1, -2))  # four connections share the coefficient
            before[sub] = p[sub]["coefficient"] * four.sum(axis=(-1, -2)) + p[sub]["bias"]
            x = f(before[sub])
    x = x[:, 0, 0]
    before["f6"] = x @ p["f6"]["kernel"] + p["f6"]["bias"]
    out = f(before["f6"])

    d = 2 * (out[:, None] - codes)  # derivatives of the RBF outputs by F6's
    y = (d**2).sum(axis=-1) / 4
    probability = np.exp(-y) / (np.exp(-j) + np.exp(-y).sum(axis=1, keepdims=True))
    mean = (probability[:, :, None] * d).sum(axis=1)
    h = 2 - 2 * probability.sum(axis=1, keepdims=True)
    h = h + (probability[:, :, None] * d**2).sum(axis=1) - mean**2

    h = h * squared_slope(before["f6"])
    total["f6", "kernel"], total["f6", "bias"] = (x**2).T @ h, h.sum(axis=0)
    h = (h @ (p["f6"]["kernel"] ** 2).T)[:, None, None]
    for conv, sub in (("c5", None), ("c3", "s4"), ("c1", "s2")):
        if sub:
            h = h * squared_slope(before[sub])
            total[sub, "coefficient"] = (h * inputs[sub]).sum(axis=(0, 1, 2))
            total[sub, "bias"] = h.sum(axis=(0, 1, 2))
            h = (h * p[sub]["coefficient"] ** 2).repeat(2, axis=1).repeat(2, axis=2)
        h = h * squared_slope(before[conv])
        kernel = np.einsum("bijckl,bijm->klcm", windows(inputs[conv], 5) ** 2, h)
        if conv == "c3":
            kernel = np.stack([kernel[:, :, i, m] for i, m in pairs], axis=-1)
        total[conv, "kernel"], total[conv, "bias"] = kernel, h.sum(axis=(0, 1, 2))
        h = spread(h, kernels[conv] ** 2, 5)
    return total


@pytest.mark.parametrize("scale", [1.0, 8.0])  # far from all codes, and near some
def test_lenet_5_equals_the_recursion_by_hand(scale):
    module, params, images, labels = lenet(scale)
    values = diagonal(module, MAP, params, images, labels)
    expected = lenet_by_hand(params, images, labels, 0.1)
    assert len(expected) == 12
    for (layer, name), by_hand in expected.items():
        atol = 1e-6 * by_hand.max()  # float32: the smallest are squares of small sums
        np.testing.assert_allclose(values[layer][name], by_hand, rtol=1e-5, atol=atol)


def gauss_newton(apply, params, images, hessian_of_loss):
    """The diagonal of the sum of J^T H J over the images, by whole Jacobians."""

    def outputs(params):
        return apply({"params": params}, images)

    jacobian = jax.jit(jax.jacrev(outputs))(params)  # leaves [b, k, *parameter]
    return jax.tree.map(
        lambda j: np.einsum("bk...,bkl,bl...->...", j, hessian_of_loss, j, optimize=True), jacobian
    )


def test_it_is_the_gauss_newton_diagonal_of_the_last_two_layers_of_lenet_5():
    """Each weight of C5 and F6 has one connection, and eq. 8 is a sum over F6's units."""
    module, params, images, labels = lenet(3.0)
    values = diagonal(module, losses.mse, params, images, labels)
    to_f6 = LeNet5(output="softmax", num_classes=84)  # whose classifier returns F6
    last = {"output": {"kernel": np.eye(84, dtype=np.float32), "bias": np.zeros(84, np.float32)}}

    def f6(variables, images):
        params_of_f6 = {**params, **variables["params"], **last}
        return to_f6.apply({"params": params_of_f6}, images)

    trained = {layer: params[layer] for layer in ("s4", "c5", "f6")}
    exact = gauss_newton(f6, trained, images, 2 * np.stack([np.eye(84)] * 3))
    for layer in ("c5", "f6"):
        for name in ("kernel", "bias"):
            a, b = values[layer][name], exact[layer][name]
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6 * b.max())
    assert not np.allclose(values["s4"]["bias"], exact["s4"]["bias"], rtol=0.1)  # shared


def test_it_is_the_gauss_newton_diagonal_of_a_linear_classifier():
    module = registry.MODELS["mlp"](num_classes=5, hidden=())
    rng = np.random.default_rng(0)
    images = rng.normal(size=(4, 3, 3, 1)).astype(np.float32)
    params = module.init(jax.random.key(1), images)["params"]
    loss = losses.make_loss({"name": "softmax"})
    values = diagonal(module, loss, params, images, jnp.arange(4))
    p = jax.nn.softmax(module.apply({"params": params}, images))
    hessian = jax.vmap(jnp.diag)(p) - p[:, :, None] * p[:, None]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5),
        values,
        gauss_newton(module.apply, params, images, hessian),
    )


class Shifted(nn.Module):
    """One layer. The value of the parameter `shift` is that of the layer's input."""

    layer: nn.Module

    @nn.compact
    def __call__(self, x, train=False):
        shift = self.param("shift", nn.initializers.zeros, x.shape)
        arguments = (train,) if isinstance(self.layer, layers.Dropout) else ()
        return self.layer(x + shift, *arguments).reshape(len(x), -1)


@pytest.mark.parametrize(
    "layer",
    [
        layers.Conv(4, (3, 3), strides=(2, 2), padding=1, feature_group_count=2),
        layers.TableConv(((0, 1), (1, 2, 3)), (2, 2)),
        layers.LocalConv(2, (2, 2), padding=1),
        layers.FullyConnected(3),
        layers.FullyConnected(3, window=4),
        layers.Subsampling(),
        *(layers.Activation(kind) for kind in layers.ACTIVATIONS),
        layers.Dropout(0.3, "test"),
        layers.Pool("max", 3, 2),
        layers.Pool("average", 3, 2, ceil=True),
        layers.Pool("average", 3, 2, padding=1),
        layers.Pool("average"),
        layers.GlobalAveragePool(),
    ],
    ids=lambda layer: f"{type(layer).__name__} {getattr(layer, 'kind', '')}",
)
def test_a_layer_propagates_the_squares_of_its_jacobian(layer):
    """For the input, and for biases and slopes; the values of shared weights: see LeNet-5."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 4, 5, 4)).astype(np.float32)
    module = Shifted(layer)
    params = jax.jit(module.init)(jax.random.key(0), x)["params"]

    def apply(params):
        return module.apply({"params": params}, x)

    y = jax.eval_shape(apply, params)
    weights = rng.uniform(0.5, 2, y.shape).astype(np.float32)

    def loss(y, labels):
        return (weights * y**2).sum(axis=1) / 2

    values = diagonal(module, loss, params, x, jnp.zeros(2, int))
    jacobian = jax.jit(jax.jacrev(apply))(params)
    expected = jnp.einsum("bk,bk...->...", weights, jacobian["shift"] ** 2)
    np.testing.assert_allclose(values["shift"], expected, rtol=1e-5, atol=1e-7)
    slope = values.get("layer", {}).get("slope")
    if slope is not None and slope.ndim:  # one slope per channel: a sum over positions
        by_output = (weights * jnp.minimum(x, 0).reshape(2, -1) ** 2).reshape(-1, 4)
        np.testing.assert_allclose(slope, by_output.sum(axis=0), rtol=1e-5)


def test_masked_examples_do_not_count():
    module = registry.MODELS["mlp"](num_classes=5, hidden=(3,))
    images = np.random.default_rng(0).normal(size=(3, 2, 2, 1)).astype(np.float32)
    params, labels = module.init(jax.random.key(1), images)["params"], np.arange(3)
    loss = losses.make_loss({"name": "softmax"})
    masked = diagonal(module, loss, params, images, labels, jnp.array([1.0, 0.0, 1.0]))
    two = diagonal(module, loss, params, images[::2], labels[::2])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), masked, two)


def test_normalisation_is_refused_by_name():
    module = registry.MODELS["resnet_cifar10"](num_classes=10)
    with pytest.raises(ValueError, match=r"do not propagate through BatchNorm \(.*bn"):
        shapes = variable_shapes(module, (32, 32, 3))
        images, labels = jnp.zeros((1, 32, 32, 3)), jnp.zeros(1, int)
        loss = losses.make_loss({"name": "softmax"})
        jax.eval_shape(lambda v: curvature.diagonal(module, loss, v, images, labels), shapes)
