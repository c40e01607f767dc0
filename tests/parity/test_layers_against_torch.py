"""Layers that torchvision's networks do not have, or use in one way only: values and gradients."""

import itertools

import jax
import numpy as np
import pytest
from against import assert_close, assert_same_function, jit, torch

from models import layers

F = torch.nn.functional


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def nchw(function):
    """`function` of [b, c, h, w] as one of [b, h, w, c]; further arguments go through."""
    return lambda x, *more: function(x.permute(0, 3, 1, 2), *more).permute(0, 2, 3, 1)


@pytest.mark.parametrize(("groups", "stride", "padding"), [(1, 2, 3), (2, 1, 2), (3, 2, 0)])
def test_grouped_convolution(groups, stride, padding):
    module = layers.Conv(12, (5, 5), strides=stride, padding=padding, feature_group_count=groups)

    def ours(x, kernel, bias):
        return module.apply({"params": {"kernel": kernel, "bias": bias}}, x)

    @nchw
    def theirs(x, kernel, bias):
        return F.conv2d(x, kernel.permute(3, 2, 0, 1), bias, stride, padding, groups=groups)

    x, kernel = normal(2, 11, 9, 6), normal(5, 5, 6 // groups, 12)
    assert_same_function(ours, theirs, x, kernel, normal(12))


@pytest.mark.parametrize("name", layers.LRN_VARIANTS)
@pytest.mark.parametrize("groups", [1, 2])
def test_local_response_normalisation(name, groups):
    k, alpha = layers.LRN_VARIANTS[name]
    alpha *= 1000  # so that the sum of squares matters beside k
    reference = torch.nn.LocalResponseNorm(5, alpha=5 * alpha, beta=0.75, k=k)
    module = layers.LocalResponseNorm(5, alpha, k=k, groups=groups)

    @nchw
    def towers(x):
        return torch.cat([reference(part) for part in x.chunk(groups, dim=1)], dim=1)

    assert_same_function(lambda x: module.apply({}, x), towers, 3 * normal(2, 4, 3, 16))


def test_caffe_lrn_has_the_constants_of_torch():
    module = layers.LocalResponseNorm(5, layers.LRN_VARIANTS["caffe"][1], k=1.0)
    reference = torch.nn.LocalResponseNorm(5)  # alpha 1e-4, beta 0.75, k 1
    assert_same_function(lambda x: module.apply({}, x), nchw(reference), 100 * normal(2, 4, 3, 16))


@pytest.mark.parametrize("beta", [0.75, 0.5])
def test_response_normalisation_within_maps(beta):
    module = layers.LocalResponseNormWithinMap(3, 0.05, beta=beta)

    @nchw
    def theirs(x):
        total = 9 * F.avg_pool2d(x.square(), 3, stride=1, padding=1)
        return x / (1 + 0.05 * total) ** beta

    assert_same_function(lambda x: module.apply({}, x), theirs, 3 * normal(2, 6, 5, 4))


@pytest.mark.parametrize("shared", [False, True])
def test_prelu(shared):
    module = layers.Activation("prelu_shared" if shared else "prelu")
    slope = np.float32(0.25).reshape(()) if shared else normal(6)

    @nchw
    def theirs(x, slope):
        return F.prelu(x, slope.reshape(-1))

    def ours(x, slope):
        return module.apply({"params": {"slope": slope}}, x)

    assert_same_function(ours, theirs, normal(3, 4, 5, 6), np.asarray(slope))
    start = module.init(jax.random.key(0), normal(3, 4, 5, 6))["params"]["slope"]
    assert np.unique(start) == torch.nn.PReLU().weight.detach().numpy()


def test_leaky_relu_and_maxout():
    x = normal(3, 4, 5, 12)
    assert_same_function(layers.leaky_relu, torch.nn.LeakyReLU(), x)
    assert_same_function(
        lambda x: layers.maxout(x, 3), lambda x: x.reshape(3, 4, 5, 4, 3).amax(-1), x
    )


# (window, stride, padding): the nets' windows, and some that leave pixels over or reach beyond.
WINDOWS = [(3, 2, 0), (4, 2, 0), (2, 2, 0), (3, 2, 1), (3, 1, 1), (5, 3, 0), (5, 3, 2), (2, 3, 1)]
SIZES = [(7, 6), (8, 13)]


@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("size", SIZES)
def test_max_pooling(size, window, ceil):
    module = layers.Pool("max", *window, ceil)
    reference = torch.nn.MaxPool2d(*window, ceil_mode=ceil)
    assert_same_function(lambda x: module.apply({}, x), nchw(reference), normal(2, *size, 3))


def test_average_pooling():
    for window, size, ceil in itertools.product(WINDOWS, SIZES, (False, True)):
        module = layers.Pool("average", *window, ceil)
        reference = nchw(torch.nn.AvgPool2d(*window, ceil, count_include_pad=True))
        x = normal(2, *size, 3)
        assert_close(jit(module.apply)({}, x), reference(torch.from_numpy(x)), f"{window}", 1e-5)
        assert_same_function(lambda x, m=module: m.apply({}, x), reference, x)


def test_pooled_sizes():
    for size, window, stride, ceil in itertools.product(
        range(1, 14), range(1, 6), range(1, 5), (False, True)
    ):
        for padding in range(window // 2 + 1):
            if size + 2 * padding < window:
                continue
            x = torch.zeros(1, 1, size, size)
            expected = F.max_pool2d(x, window, stride, padding, ceil_mode=ceil).shape[-1]
            actual = layers.Pool("max", window, stride, padding, ceil).output_size(size)
            assert actual == expected, (size, window, stride, padding, ceil)


@pytest.mark.parametrize("padding", [0, 1])
def test_locally_connected_layer(padding):
    module = layers.LocalConv(4, (3, 2), padding)
    height, width = 7 + 2 * padding - 2, 6 + 2 * padding - 1

    def ours(x, kernel, bias):
        return module.apply({"params": {"kernel": kernel, "bias": bias}}, x)

    def theirs(x, kernel, bias):
        # unfold: [b, channels * 3 * 2, positions], the channels outermost
        patches = F.unfold(x.permute(0, 3, 1, 2), (3, 2), padding=padding)
        weights = kernel.permute(0, 1, 4, 2, 3, 5).reshape(height * width, -1, 4)
        y = torch.einsum("bkp,pkf->bpf", patches, weights)
        return y.reshape(-1, height, width, 4) + bias

    kernel, bias = normal(height, width, 3, 2, 5, 4), normal(height, width, 4)
    assert_same_function(ours, theirs, normal(2, 7, 6, 5), kernel, bias)


@pytest.mark.parametrize("train", [True, False])
def test_batch_normalisation(train):
    module = layers.BatchNorm(use_running_average=not train)
    mean, var = normal(6), np.square(normal(6, seed=1)) + 0.5
    x, scale, bias = 2 * normal(4, 5, 3, 6) + 1, normal(6, seed=2), normal(6, seed=3)

    def variables(scale, bias):
        return {
            "params": {"scale": scale, "bias": bias},
            "batch_stats": {"mean": mean, "var": var},
        }

    def ours(x, scale, bias):
        return module.apply(variables(scale, bias), x, mutable=["batch_stats"])[0]

    @nchw
    def theirs(x, scale, bias):
        statistics = torch.from_numpy(mean.copy()), torch.from_numpy(var.copy())
        return F.batch_norm(x, *statistics, scale, bias, training=train)

    assert_same_function(ours, theirs, x, scale, bias)

    _, state = jit(lambda x: module.apply(variables(scale, bias), x, mutable=["batch_stats"]))(x)
    new_mean, new_var = torch.from_numpy(mean.copy()), torch.from_numpy(var.copy())
    F.batch_norm(torch.from_numpy(x).permute(0, 3, 1, 2), new_mean, new_var, training=train)
    if train:  # torch averages the unbiased variance, and we the biased one
        n = x[..., 0].size
        new_var = 0.9 * var + (new_var.numpy() - 0.9 * var) * (n - 1) / n
    assert_close(state["batch_stats"]["mean"], new_mean, "mean", 1e-6)
    assert_close(state["batch_stats"]["var"], new_var, "var", 1e-6)
