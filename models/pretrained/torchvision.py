"""Weights to and from torchvision's state dicts, without torch."""

import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from errors import UserError
from models import alexnet, googlenet, resnet, vgg
from models.pretrained.entries import dump, load
from models.pretrained.frameworks import Framework, Network, view

# Mean and deviation of the colours in ImageNet's training set, in 0..1 (torchvision's presets).
VIEW = view((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# Its authors' preprocessing, (u - 0.5) / 0.5, to which torchvision's GoogLeNet converts its common
# input (`transform_input`).
_GOOGLENET_VIEW = view((0.5,) * 3, (0.5,) * 3)
_ROLES = {
    **{"kernel": "weight", "gamma": "weight", "beta": "bias"},
    **{"mean": "running_mean", "variance": "running_var", "count": "num_batches_tracked"},
}
_ALEXNET_LAYERS = {
    **{"conv1": "features.0", "conv2": "features.3", "conv3": "features.6"},
    **{"conv4": "features.8", "conv5": "features.10"},
    **{"fc6": "classifier.1", "fc7": "classifier.4", "fc8": "classifier.6"},
}
_BRANCHES = {
    "1x1": "branch1",
    **{"3x3_reduce": "branch2.0", "3x3": "branch2.1"},
    **{"5x5_reduce": "branch3.0", "5x5": "branch3.1"},
    "pool_proj": "branch4.1",
}


def vgg_layer(module: vgg.VGG, layer: str) -> str:
    """The name of a layer of a VGG."""
    if layer.startswith("fc"):
        return f"classifier.{3 * (int(layer[-1]) - 6)}"
    block, number = map(int, layer.removeprefix("conv").split("_"))
    # A ReLU follows each convolution, a pooling each block.
    before = sum(2 * len(sizes) + 1 for sizes in vgg.VARIANTS[module.variant][: block - 1])
    return f"features.{before + 2 * (number - 1)}"


def _googlenet_layer(module, layer: str) -> str:
    block, _, name = layer.removesuffix("_bn").rpartition("/")
    if name.startswith("fc"):
        return layer.replace("/", ".")
    if not block:
        unit = {"conv2_reduce": "conv2", "conv2": "conv3"}.get(name, name)
    elif block.startswith("inception"):
        unit = f"{block.replace('_', '')}.{_BRANCHES[name]}"
    else:
        unit = f"{block}.{name}"
    return f"{unit}.{'bn' if layer.endswith('_bn') else 'conv'}"


def _resnet_layer(module, layer: str) -> str:
    block, _, name = layer.rpartition("/")
    if not block:
        return name
    stage, number = map(int, block.removeprefix("conv").split("_"))
    name = {"projection": "downsample.0", "projection_bn": "downsample.1"}.get(name, name)
    return f"layer{stage - 1}.{number - 1}.{name}"


_NO_LRN = {"lrn": ["published", "none"]}  # published is none in these networks
VGG = Network(vgg_layer, VIEW, {"image_size": 224}, {"variant": ["A", "B", "D", "E"], **_NO_LRN})
_NETWORKS = {
    alexnet.AlexNet: Network(
        lambda module, layer: _ALEXNET_LAYERS[layer],
        VIEW,
        {"lrn": "none", "image_size": 224},
        {"variant": ["one_tower"], **_NO_LRN},
    ),
    vgg.VGG: VGG,
    googlenet.GoogLeNet: Network(
        _googlenet_layer,
        _GOOGLENET_VIEW,
        allowed={"normalisation": ["batch_norm"], **_NO_LRN},
    ),
    resnet.ResNet: Network(
        _resnet_layer, VIEW, {"pool1_padding": 1, "stride": "v1.5"}, {"shortcut": ["B"]}
    ),
}


def key(layer: str, role: str) -> str:
    """The name of a layer's tensor: see `entries.Framework`."""
    return f"{layer}.{_ROLES.get(role, role)}"


FRAMEWORK = Framework("torchvision", _NETWORKS, key, counts=True)


def refuse_batch_norm(tensors: Mapping[str, np.ndarray]) -> None:
    """Raises UserError for tensors of a VGG with BatchNorm."""
    if any(re.fullmatch(r"features\.\d+\.running_mean", name) for name in tensors):
        raise UserError(
            "the weights are of a VGG with BatchNorm, which neither Canon nor the paper has: use"
            " weights of the VGG without BatchNorm"
        )


def from_torchvision(
    module: nn.Module, state_dict: Mapping[str, np.ndarray], input_shape=(224, 224, 3)
) -> dict[str, Any]:
    """`module`'s variables {"params": ..., "batch_stats": ...} with torchvision's weights.

    state_dict: name -> array, all of torchvision's network of the same kind. input_shape: (height,
    width, channels) of an image. Raises UserError for a network that torchvision does not have,
    and, naming them, for tensors that are missing, unexpected or of another shape.
    """
    return load(module, FRAMEWORK.entries(module), state_dict, input_shape)


def to_torchvision(
    module: nn.Module, variables: Mapping[str, Any], input_shape=(224, 224, 3)
) -> dict[str, np.ndarray]:
    """The state dict of torchvision's network with `module`'s variables; it loads with strict=True.

    Errors as in `from_torchvision`, with Canon's names of the tensors.
    """
    return dump(module, FRAMEWORK.entries(module), variables, input_shape)
