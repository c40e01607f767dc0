"""Weights from Caffe and Keras files, and by names: Canon's networks compute what theirs do.

The nets are written down in torch (`transcriptions`), and their random weights to files as the
frameworks have them (`foreign_files`): no published file was at hand.
"""

import json

import numpy as np
import pytest
import safetensors.numpy
from against import arrays, assert_same_logits, images, random_net, torch
from foreign_files import caffemodel, write_keras
from transcriptions import (
    CifarResNet,
    PaperGoogLeNet,
    PlainVGG,
    ReleasedResNet,
    TwoTowerAlexNet,
    caffes_lrn,
)

from models import alexnet, pretrained, registry, resnet, vgg
from models.pretrained.entries import shapes
from models.resnet import CifarResNet as OurCifarResNet

nn = torch.nn
# Names and maps of the blocks of a small net, under the naming of 50 layers and of 101.
SMALL = {
    50: [("2a", 64), ("2b", 64), ("3a", 128), ("3b", 128), ("4a", 256), ("5a", 512)],
    101: [("2a", 64), ("3a", 128), ("3b1", 128), ("3b2", 128), ("4a", 256), ("5a", 512)],
}
STAGES = {50: (2, 2, 1, 1), 101: (1, 3, 1, 1)}


def reversed_colours(net):
    """A network for blue, green, red, applied to red, green, blue."""
    return lambda x: net(x.flip(1))


def pixels(batch, side):
    return 20 * images(batch, side)


def caffe_layers(net, name=lambda name: name, factor=999.98):
    """A network's layers in the form of Caffe. factor: of BatchNorm's statistics."""
    layers = []
    for key, layer in net.named_modules():
        numbers = [p.detach().numpy() for p in layer.parameters(recurse=False)]
        if isinstance(layer, nn.Conv2d):
            layers.append((name(key), "Convolution", numbers))
        elif isinstance(layer, nn.Linear):
            layers.append((name(key), "InnerProduct", numbers))
        elif isinstance(layer, nn.BatchNorm2d):
            sums = [(x * factor).numpy() for x in (layer.running_mean, layer.running_var)]
            layers.append((name(key), "BatchNorm", [*sums, np.array([factor], np.float32)]))
            layers.append((name(key).replace("bn", "scale", 1), "Scale", numbers))
    return layers


def loaded(file, section, side, classes):
    """Our module with a file's settings, and its variables."""
    section = {"dtype": "float32", **section}
    fields = file.settings(section)
    options = {field.removeprefix("model."): v for field, v in fields.items() if "model." in field}
    module = registry.create(section | options, classes)
    return module, file.variables(module, (side, side, 3))


@pytest.mark.parametrize("v1", [False, True])
def test_alexnet_of_caffe(tmp_path, monkeypatch, v1):
    maps, groups = (16, 32, 48, 48, 32), alexnet.VARIANTS["two_tower"][1]
    monkeypatch.setitem(alexnet.VARIANTS, "two_tower", (maps, groups))  # a smaller file
    net = random_net(TwoTowerAlexNet, norm=caffes_lrn, sizes=(*maps, 4096), classes=7)
    path = tmp_path / "bvlc_alexnet.caffemodel"
    layers = caffe_layers(net)
    path.write_bytes(caffemodel([*layers, ("norm1", "LRN", []), ("pool1", "Pooling", [])], v1))
    section = {"name": "alexnet", "variant": "two_tower", "regulariser": "dropout"}
    module, variables = loaded(pretrained.read(path), section, 227, 7)
    assert_same_logits(module, variables, reversed_colours(net), pixels(2, 227))


def test_googlenet_of_caffe(tmp_path):
    def name(ours):
        fixed = {
            "conv1": "conv1/7x7_s2",
            "conv2_reduce": "conv2/3x3_reduce",
            "conv2": "conv2/3x3",
            "fc": "loss3/classifier",
        }
        if ours in fixed:
            return fixed[ours]
        block, layer = ours.split(".")
        if block.startswith("aux"):
            layer = {"conv": "conv", "fc1": "fc", "fc2": "classifier"}[layer]
            return f"loss{block[-1]}/{layer}"
        return f"{block}/{layer}"

    net = random_net(PaperGoogLeNet, norm=caffes_lrn)
    path = tmp_path / "bvlc_googlenet.caffemodel"
    path.write_bytes(caffemodel(caffe_layers(net, name)))
    section = {"name": "googlenet", "normalisation": "lrn", "regulariser": "dropout"}
    module, variables = loaded(pretrained.read(path), section, 224, 1000)
    assert module.auxiliary_heads and {"aux1", "aux2"} <= variables["params"].keys()
    assert_same_logits(module, variables, reversed_colours(net), pixels(2, 224))


@pytest.mark.parametrize("framework", ["caffe", "keras"])
def test_vgg(tmp_path, monkeypatch, framework):
    maps = (4, 4, 8, 8, 8)
    monkeypatch.setattr(vgg, "MAPS", maps)  # a smaller file
    net = random_net(PlainVGG, maps=maps, counts=(2, 2, 3, 3, 3), classes=7)
    if framework == "caffe":
        path = tmp_path / "VGG_ILSVRC_16_layers.caffemodel"
        path.write_bytes(caffemodel(caffe_layers(net), v1=True))
    else:
        path = tmp_path / "vgg16.h5"
        fixed = {"fc6": "fc1", "fc7": "fc2", "fc8": "predictions"}
        layers = keras_layers(
            net, lambda n: fixed.get(n) or n.replace("conv", "block").replace("_", "_conv")
        )
        # Keras flattens the last map pixel by pixel.
        by_channel = layers["fc1"]["kernel"].reshape(8, 7, 7, 4096)
        layers["fc1"]["kernel"] = by_channel.transpose(1, 2, 0, 3).reshape(-1, 4096)
        write_keras(path, layers)
    section = {"name": "vgg", "variant": "D", "regulariser": "dropout"}
    module, variables = loaded(pretrained.read(path), section, 224, 7)
    assert_same_logits(module, variables, reversed_colours(net), pixels(2, 224))


@pytest.mark.parametrize(("depth", "side"), [(50, 66), (101, 64)])
def test_resnets_of_the_authors(tmp_path, monkeypatch, depth, side):
    monkeypatch.setitem(resnet.DEPTHS, depth, (STAGES[depth], True))
    net = random_net(ReleasedResNet, blocks=SMALL[depth], classes=7)
    path = tmp_path / "ResNet.caffemodel"
    path.write_bytes(caffemodel(caffe_layers(net)))
    module, variables = loaded(pretrained.read(path), {"name": "resnet", "depth": depth}, side, 7)
    assert_same_logits(module, variables, reversed_colours(net), pixels(2, side))


def keras_layers(net, name):
    """A network's layers in the form of Keras. name: the Keras name of a torch layer."""
    layers = {}
    for key, layer in net.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            axes = (2, 3, 1, 0) if isinstance(layer, nn.Conv2d) else (1, 0)
            kernel = layer.weight.detach().numpy().transpose(axes)
            layers[name(key)] = {"kernel": kernel, "bias": layer.bias.detach().numpy()}
        elif isinstance(layer, nn.BatchNorm2d):
            layers[name(key)] = {
                "gamma": layer.weight.detach().numpy(),
                "beta": layer.bias.detach().numpy(),
                "moving_mean": layer.running_mean.numpy(),
                "moving_variance": layer.running_var.numpy(),
            }
    return layers


KERAS_BLOCKS = {
    **{"2a": "conv2_block1", "2b": "conv2_block2", "3a": "conv3_block1"},
    **{"3b": "conv3_block2", "4a": "conv4_block1", "5a": "conv5_block1"},
}
KERAS_BRANCHES = {"branch1": "0", "branch2a": "1", "branch2b": "2", "branch2c": "3"}


def keras_name(theirs):
    fixed = {"conv1": "conv1_conv", "bn_conv1": "conv1_bn", "fc1000": "predictions"}
    if theirs in fixed:
        return fixed[theirs]
    kind = "bn" if theirs.startswith("bn") else "conv"
    block, branch = theirs.removeprefix("bn").removeprefix("res").split("_")
    return f"{KERAS_BLOCKS[block]}_{KERAS_BRANCHES[branch]}_{kind}"


@pytest.mark.parametrize(
    ("name", "padding"), [(keras_name, 1), (lambda name: name, 0)], ids=["now", "first"]
)
def test_keras_resnets(tmp_path, monkeypatch, name, padding):
    monkeypatch.setitem(resnet.DEPTHS, 50, (STAGES[50], True))
    options = dict(blocks=SMALL[50], classes=7, biases="all", padding=padding)
    net = random_net(ReleasedResNet, **options, epsilon=1.001e-5)
    path = tmp_path / "resnet50.h5"
    write_keras(path, keras_layers(net, name))
    module, variables = loaded(pretrained.read(path), {"name": "resnet", "depth": 50}, 66, 7)
    assert module.pool1_padding == padding
    assert_same_logits(module, variables, reversed_colours(net), pixels(2, 66))


@pytest.mark.parametrize("padding", ["after", "both_sides"])
def test_a_network_by_a_list_of_names(tmp_path, padding):
    """ResNet-20 with names as in a file from elsewhere: layer1.0.conv1.weight, linear.weight."""

    def theirs(ours):
        """Of our path "conv2_1/conv1/kernel", or torch's "conv2_1.conv1.weight"."""
        ours = ours.replace("/", ".").replace("fc.", "linear.")
        if ours.startswith("conv") and ours.count(".") == 2:
            block, layer, leaf = ours.split(".")
            stage, number = block.removeprefix("conv").split("_")
            return f"layer{int(stage) - 1}.{int(number) - 1}.{layer}.{leaf}"
        return ours

    net = random_net(CifarResNet, depth=20, padding=padding)
    tensors = {theirs(name): array for name, array in arrays(net).items()}
    assert {"layer1.0.conv1.weight", "layer3.2.bn2.num_batches_tracked", "linear.weight"} <= set(
        tensors
    )
    safetensors.numpy.save_file(tensors, tmp_path / "resnet20.safetensors")
    module = OurCifarResNet(depth=20, shortcut_padding=padding)
    leaves = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
    names = {}
    for path in shapes(module, (32, 32, 3)):
        ours = "/".join(path[1:])
        layer, leaf = theirs(ours).rsplit(".", 1)
        names[ours] = f"{layer}.{leaves.get(leaf, leaf)}"
    (tmp_path / "names.json").write_text(json.dumps(names))
    file = pretrained.read(tmp_path / "resnet20.safetensors", tmp_path / "names.json")
    variables = file.variables(module, (32, 32, 3))
    assert_same_logits(module, variables, net, images(2, 32))
    with pytest.raises(AssertionError, match="logits"):  # with the other padding
        other = {"after": "both_sides", "both_sides": "after"}[padding]
        assert_same_logits(module.clone(shortcut_padding=other), variables, net, images(2, 32))
