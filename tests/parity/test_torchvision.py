"""Canon's networks compute what torchvision's do; weights are exchanged exactly, in and out."""

import numpy as np
import pytest
from against import (
    arrays,
    assert_same_logits,
    assert_same_training_step,
    images,
    random_net,
    torch,
)
from against import torchvision as tv
from torchvision.models.googlenet import BasicConv2d, Inception, InceptionAux

from input_pipeline import imagenet
from models.alexnet import AlexNet
from models.googlenet import GoogLeNet
from models.pretrained import from_torchvision, to_torchvision
from models.pretrained import torchvision as names
from models.pretrained.entries import load
from models.resnet import ResNet
from models.vgg import VGG

ALEXNET = AlexNet(variant="one_tower", lrn="none", regulariser="none")
BARE = {"init_weights": False}


def googlenet(heads):
    return GoogLeNet(normalisation="batch_norm", auxiliary_heads=heads, regulariser="none")


NETS = {
    "alexnet": (tv.models.alexnet, {}, ALEXNET),
    "vgg11": (tv.models.vgg11, BARE, VGG(variant="A", regulariser="none")),
    "vgg13": (tv.models.vgg13, BARE, VGG(variant="B")),
    "vgg16": (tv.models.vgg16, BARE, VGG(variant="D")),
    "vgg19": (tv.models.vgg19, BARE, VGG(variant="E")),
    "googlenet": (tv.models.googlenet, {**BARE, "aux_logits": False}, googlenet(False)),
    "googlenet_auxiliary": (tv.models.googlenet, BARE, googlenet(True)),
    "resnet18": (tv.models.resnet18, {}, ResNet(depth=18)),
    "resnet34": (tv.models.resnet34, {}, ResNet(depth=34)),
    "resnet50": (tv.models.resnet50, {}, ResNet(depth=50, stride="v1.5")),
    "resnet101": (tv.models.resnet101, {}, ResNet(depth=101, stride="v1.5")),
    "resnet152": (tv.models.resnet152, {}, ResNet(depth=152, stride="v1.5")),
}


@pytest.mark.parametrize("name", NETS)
def test_logits_and_round_trip(name):
    constructor, options, module = NETS[name]
    net = random_net(constructor, **options)
    state_dict = arrays(net)
    variables = from_torchvision(module, state_dict, (224, 224, 3))
    assert_same_logits(module, variables, net, images(2, 224))

    back = to_torchvision(module, variables)
    assert back.keys() == state_dict.keys()
    assert all(np.array_equal(back[key], state_dict[key]) for key in back)
    assert all(back[key].dtype == state_dict[key].dtype for key in back)
    net.load_state_dict({key: torch.from_numpy(x) for key, x in back.items()}, strict=True)


class PaperAuxiliary(InceptionAux):
    """torchvision's auxiliary head with the paper's pooling, 5x5 of stride 3 (sec. 5).

    torchvision has adaptive pooling there, which takes 4x4 windows of a 14x14 map.
    """

    def forward(self, x):
        x = torch.nn.functional.avg_pool2d(x, 5, 3)
        x = torch.flatten(self.conv(x), 1)
        return self.fc2(torch.relu(self.fc1(x)))


BLOCKS = [BasicConv2d, Inception, PaperAuxiliary]


def vgg11_of_64_pixels(**options):
    """torchvision's VGG-11 whose first fully connected layer sees the 2x2 map of such images."""
    net = tv.models.vgg11(**options)
    net.avgpool = torch.nn.Identity()
    net.classifier[0] = torch.nn.Linear(512 * 2 * 2, 4096)
    return net


# In float64 at 224 pixels, XLA's convolutions of VGG take a minute.
TRAINED = NETS | {
    "vgg11": (vgg11_of_64_pixels, BARE, VGG(variant="A", regulariser="none", image_size=64))
}


@pytest.mark.parametrize(
    ("name", "options", "batch", "side"),
    [
        ("alexnet", {}, 2, 224),
        ("vgg11", {}, 1, 64),
        pytest.param(
            "googlenet_auxiliary",
            {"blocks": BLOCKS, "aux_logits": True},
            1,
            224,
        ),
        ("resnet18", {}, 4, 96),
    ],
)
def test_training_step(name, options, batch, side):
    constructor, more, module = TRAINED[name]
    constructor = tv.models.GoogLeNet if "blocks" in options else constructor
    net = random_net(constructor, **more, **options)
    entries, shape = names.FRAMEWORK.entries(NETS[name][2]), (224, 224, 3)
    if name == "vgg11":
        shape = (64, 64, 3)
        entries = [e._replace(side=2) if e.side == 7 else e for e in entries]
    variables = load(module, entries, arrays(net), shape)
    assert_same_training_step(module, variables, entries, net, images(batch, side))


def test_names_of_the_classes_of_imagenet():
    theirs = tv.models.ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
    assert list(imagenet.class_names().values()) == theirs
