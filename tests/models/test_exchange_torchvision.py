"""The exchange of weights, tested without torch; tests/parity tests it with torch."""

import re

import numpy as np
import pytest

from errors import UserError
from models.alexnet import AlexNet
from models.googlenet import GoogLeNet
from models.mlp import MLP
from models.pretrained import from_torchvision, to_torchvision, torchvision
from models.pretrained.entries import Entry, shapes
from models.resnet import ResNet
from models.vgg import VGG

SHAPE = (224, 224, 3)


@pytest.fixture(scope="module")
def module():
    return ResNet(depth=18)


@pytest.fixture(scope="module")
def state_dict(module):
    rng = np.random.default_rng(0)
    ours = shapes(module, SHAPE)
    return {
        e.key: rng.random(e.their_shape(ours[e.path]), np.float32)  # variances are positive
        for e in torchvision.FRAMEWORK.entries(module)
        if e.path
    }


@pytest.mark.parametrize("ours", [(2, 2, 3, 5), (12, 5)])
def test_a_linear_layer_sees_its_map_channel_by_channel(ours):
    rng = np.random.default_rng(0)
    image, weight = rng.normal(size=(2, 2, 3)), rng.normal(size=(5, 12)).astype(np.float32)
    expected = weight @ image.transpose(2, 0, 1).ravel()  # as torch flattens
    entry = Entry(("params", "fc", "kernel"), "fc.weight", "linear", side=2)
    kernel = entry.from_theirs(weight, ours)
    np.testing.assert_allclose(image.ravel() @ kernel.reshape(12, 5), expected, rtol=1e-5)
    np.testing.assert_array_equal(entry.to_theirs(kernel), weight)


def test_axes_of_a_convolution_kernel():
    weight = np.random.default_rng(0).normal(size=(5, 4, 3, 3)).astype(np.float32)
    entry = Entry(("params", "conv", "kernel"), "conv.weight", "conv")
    kernel = entry.from_theirs(weight, (3, 3, 4, 5))
    assert kernel[0, 2, 1, 4] == weight[4, 1, 0, 2]
    np.testing.assert_array_equal(entry.to_theirs(kernel), weight)


@pytest.mark.parametrize(
    ("net", "tensors"),
    [  # Lengths of torchvision's state dicts.
        (AlexNet(variant="one_tower", lrn="none", regulariser="none"), 16),
        (VGG(variant="E"), 38),
        (GoogLeNet(normalisation="batch_norm"), 57 * 6 + 2 + 2 * (6 + 4)),
        (ResNet(depth=50, stride="v1.5"), 320),
    ],
)
def test_the_list_names_every_tensor_once(net, tensors):
    entries = torchvision.FRAMEWORK.entries(net)
    paths = [e.path for e in entries if e.path]
    assert len({e.key for e in entries}) == len(entries) == tensors
    assert sorted(paths) == sorted(shapes(net, SHAPE))


def test_imported_weights_are_copies(module, state_dict):
    variables = from_torchvision(module, state_dict, SHAPE)
    assert not any(
        np.shares_memory(variables["params"]["fc"][ours], state_dict[f"fc.{theirs}"])
        for ours, theirs in (("kernel", "weight"), ("bias", "bias"))
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("conv1.weight", np.nan),
        ("bn1.running_var", np.nan),
        ("layer4.1.bn2.running_var", -1.0),
        ("layer4.1.bn2.running_mean", -np.inf),
        ("fc.weight", np.inf),
        ("fc.bias", 1e300),  # a float64 that float32 does not have
    ],
)
def test_values_that_no_network_has_are_refused_with_their_name(module, state_dict, name, value):
    wrong = dict(state_dict)
    wrong[name] = wrong[name].astype(np.float64)
    wrong[name].flat[-1] = value
    with pytest.raises(UserError, match=f"^{re.escape(name)} is not finite"):
        from_torchvision(module, wrong, SHAPE)
    wrong[name].flat[-1] = 1.0
    from_torchvision(module, wrong, SHAPE)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, bool])
def test_whole_numbers_are_refused_with_their_name(module, state_dict, dtype):
    wrong = {**state_dict, "conv1.weight": state_dict["conv1.weight"].astype(dtype)}
    with pytest.raises(UserError, match=r"^conv1\.weight holds whole numbers"):
        from_torchvision(module, wrong, SHAPE)


def test_every_tensor_that_does_not_fit_is_named_in_one_line(module, state_dict):
    wrong = dict(state_dict)
    del wrong["bn1.running_var"]
    wrong["aux.weight"] = np.zeros(3)
    wrong["fc.weight"] = wrong["fc.weight"].T
    for n in (1, 2, 3, 4):
        del wrong[f"layer{n}.1.conv2.weight"]
    wrong["bn1.num_batches_tracked"] = np.array(7)  # this one is known, and needs no counterpart
    with pytest.raises(UserError) as error:
        from_torchvision(module, wrong, SHAPE)
    assert str(error.value) == (
        "the weights do not fit the model: "
        "5 missing (bn1.running_var; layer1.1.conv2.weight; layer2.1.conv2.weight; ...), "
        "1 unexpected (aux.weight), "
        "1 misshapen (fc.weight [512, 1000], not [1000, 512])"
    )
    variables = from_torchvision(module, state_dict, SHAPE)
    del variables["batch_stats"]["conv2_1"]
    with pytest.raises(UserError, match=r"4 missing \(batch_stats/conv2_1/bn1/mean; "):
        to_torchvision(module, variables)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (MLP(), "torchvision has no MLP"),
        (AlexNet(variant="two_tower"), "model.variant=two_tower"),
        (AlexNet(variant="one_tower", lrn="paper"), "model.lrn=paper"),
        (AlexNet(variant="one_tower"), "model.dropout_scaling=test"),
        (VGG(variant="C"), "model.variant=C: torchvision's VGG needs A or B or D or E"),
        (GoogLeNet(), "model.normalisation=lrn"),
        (ResNet(depth=50), "model.stride=v1"),
        (ResNet(depth=18, shortcut="A"), "model.shortcut=A"),
        (ResNet(depth=18, pool1_padding=0), "model.pool1_padding=0"),
        (ResNet(depth=18, activation="prelu"), "model.activation=prelu"),
    ],
)
def test_networks_that_torchvision_lacks_are_refused(net, message):
    with pytest.raises(UserError, match=message):
        torchvision.FRAMEWORK.entries(net)
