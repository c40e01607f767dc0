"""`models.inspection` against networks computed by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from errors import UserError
from models import inspection
from models.alexnet import AlexNet
from models.googlenet import GoogLeNet
from models.lenet import LeNet5
from models.mlp import MLP
from models.resnet import CifarResNet


def draw(module, shape):
    images = jax.random.normal(jax.random.key(1), (2, *shape))
    return jax.jit(module.init)(jax.random.key(0), images), images


def test_layers_of_lenet5_in_order_with_their_outputs():
    module = LeNet5()
    variables, images = draw(module, (32, 32, 1))
    actual = inspection.activations(module, variables, images)
    squashing = ("c1", "s2", "c3", "s4", "c5", "f6")
    names = [name for layer in squashing for name in (layer, f"{layer}_scaled_tanh")]
    assert list(actual) == [*names, "output"]
    kernel, bias = (variables["params"]["c1"][name] for name in ("kernel", "bias"))
    patch = images[1, 3:8, 4:9]
    by_hand = jnp.tensordot(patch, kernel, 3) + bias
    np.testing.assert_allclose(actual["c1"][1, 3, 4], by_hand, rtol=1e-4, atol=1e-6)
    squashed = 1.7159 * np.tanh(by_hand * 2 / 3)
    np.testing.assert_allclose(actual["c1_scaled_tanh"][1, 3, 4], squashed, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(actual["output"], module.apply(variables, images), rtol=1e-5)


@pytest.mark.parametrize(("padding", "zeros"), [("after", (0, 16)), ("both_sides", (8, 8))])
def test_a_block_and_its_layers(padding, zeros):
    module = CifarResNet(depth=20, shortcut_padding=padding)
    variables, images = draw(module, (8, 8, 3))
    actual = inspection.activations(module, variables, images)
    block = actual["conv3_1"]
    np.testing.assert_array_equal(block, actual["conv3_1/conv2_relu"])
    before = actual["conv2_3"]
    shortcut = np.pad(before[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), zeros))
    added = np.maximum(actual["conv3_1/bn2"] + shortcut, 0)
    np.testing.assert_allclose(block, added, rtol=1e-5, atol=1e-5)


def test_training_drops_and_uses_the_statistics_of_the_batch():
    module = MLP(hidden=(50,), num_classes=3, activation="relu", regulariser="dropout")
    variables, images = draw(module, (4, 4, 1))
    quiet, one, again, other = (
        inspection.activations(module, variables, images, train=train, seed=seed)
        for train, seed in ((False, 0), (True, 0), (True, 0), (True, 1))
    )
    dropped = np.asarray(one["h1_dropout"] == 0) & np.asarray(quiet["h1_relu"] > 0)
    assert 0.2 < dropped.sum() / np.sum(quiet["h1_relu"] > 0) < 0.8
    np.testing.assert_array_equal(one["h1_dropout"], again["h1_dropout"])
    assert np.any(one["h1_dropout"] != other["h1_dropout"])


def test_names_of_activations():
    names = dict.fromkeys(("conv1", "conv1_prelu", "pool1", "3a/1x1", "3a/1x1_relu", "fc"))
    assert inspection.activated(names, "conv1") == "conv1_prelu"
    assert inspection.activated(names, "3a/1x1") == "3a/1x1_relu"
    assert inspection.activated(names, "pool1") == "pool1"
    with pytest.raises(UserError, match="no layer conv9: the network has conv1, "):
        inspection.activated(names, "conv9")


@pytest.mark.parametrize(
    ("module", "shape", "expected"),
    [
        (AlexNet(variant="two_tower"), (224, 224, 3), ("norm2", "conv5_relu", "fc7_dropout")),
        (GoogLeNet(), (224, 224, 3), ("inception_4e/5x5_relu", "inception_5b", "pool5")),
    ],
)
def test_names_of_layers_of_large_networks(module, shape, expected):
    images = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), images)
    actual = jax.eval_shape(lambda v, x: inspection.activations(module, v, x), variables, images)
    assert set(expected) <= actual.keys()


def test_a_network_that_normalises_across_devices_is_inspected_on_one():
    module = CifarResNet(depth=20, batch_norm="across_devices")
    variables, images = draw(inspection.on_one_device(module), (8, 8, 3))
    actual = inspection.activations(module, variables, images, train=True)
    mean = np.asarray(actual["bn1"]).mean(axis=(0, 1, 2))
    np.testing.assert_allclose(mean, 0, atol=1e-5)  # of this batch
