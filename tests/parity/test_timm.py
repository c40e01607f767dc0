"""Canon's networks compute what timm's do with the same random weights, also by way of files."""

import importlib

import pytest
import safetensors.numpy
from against import arrays, assert_same_logits, images, random_net, torch

from errors import UserError
from models import pretrained
from models.pretrained import timm as names
from models.pretrained import torchvision
from models.pretrained.entries import shapes
from models.resnet import ResNet
from models.vgg import VGG

pytest.importorskip("timm", reason="compares with timm, which is not installed: make parity")
SHAPE = (224, 224, 3)


def constructor(name):
    family = importlib.import_module(f"timm.models.{'vgg' if 'vgg' in name else 'resnet'}")
    return getattr(family, name)


@pytest.mark.parametrize(
    ("name", "module", "suffix"),
    [
        ("resnet18", ResNet(depth=18), ".pth"),
        ("resnet34", ResNet(depth=34), ".safetensors"),
        ("resnet50", ResNet(depth=50, stride="v1.5"), ".safetensors"),
    ],
)
def test_resnets_through_a_file(tmp_path, name, module, suffix):
    net = random_net(constructor(name))
    path = tmp_path / f"net{suffix}"
    if suffix == ".pth":
        torch.save(net.state_dict(), path)
    else:
        safetensors.numpy.save_file(arrays(net), path)
    variables = pretrained.read(path).variables(module, SHAPE)
    assert_same_logits(module, variables, net, images(2, 224))


def test_vgg11(tmp_path):
    net = random_net(constructor("vgg11"))
    small = {name: array for name, array in arrays(net).items() if name.endswith("bias")}
    safetensors.numpy.save_file(small, tmp_path / "net.safetensors")
    file = pretrained.read(tmp_path / "net.safetensors")
    assert file.source == "timm"
    # Half a gigabyte, which is not written.
    file = pretrained.WeightFile(file.path, file.format, file.source, arrays(net))
    module = VGG(variant="A")
    assert_same_logits(module, file.variables(module, SHAPE), net, images(2, 224))


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("resnet101", ResNet(depth=101, stride="v1.5")),
        ("resnet152", ResNet(depth=152, stride="v1.5")),
        ("vgg13", VGG(variant="B")),
        ("vgg16", VGG(variant="D")),
        ("vgg19", VGG(variant="E")),
    ],
)
def test_names_of_larger_networks(name, module):
    with torch.device("meta"):
        net = constructor(name)()
    source = names if "vgg" in name else torchvision
    ours = shapes(module, SHAPE)
    expected = {
        e.key: e.their_shape(ours[e.path]) if e.path else ()
        for e in source.FRAMEWORK.entries(module)
    }
    actual = {key: tuple(tensor.shape) for key, tensor in net.state_dict().items()}
    assert actual == expected


def test_a_deep_stem_is_refused(tmp_path):
    net = random_net(constructor("resnet50d"))
    file = pretrained.WeightFile(tmp_path / "net.pth", "torch", "torchvision", arrays(net))
    with pytest.raises(UserError, match=r"missing .*unexpected \(conv1\.0\.weight"):
        file.variables(ResNet(depth=50, stride="v1.5"), SHAPE)
