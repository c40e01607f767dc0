"""Weights from keras.applications: VGG16, VGG19, and ResNet-50, -101, -152 with the stride in v1.

Their networks take blue, green, red in 0..255 less a mean ("caffe" mode). The input maps of the
first kernel are reversed. Convolutions before BatchNorm have biases, which are merged into its
mean. BatchNorm's epsilon is 1.001e-5 there and 1e-5 here, which hardly matters in float32.

The first file of ResNet50 was converted from its authors' Caffe file, and has the names of that
file. It is read as that network.
"""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from models import resnet, vgg
from models.pretrained import config_fields
from models.pretrained.caffe import VGG_MEAN, reverse_colours, units, without_biases
from models.pretrained.entries import Entry, Network, batch_norm, entries_of, layer, refuse

_ROLES = ("kernel", "bias")


def _vgg(module) -> Iterator[Entry]:
    for block, sizes in enumerate(vgg.VARIANTS[module.variant], 1):
        for number in range(1, len(sizes) + 1):
            name = f"block{block}_conv{number}"
            yield from layer((f"conv{block}_{number}",), name, "same", roles=_ROLES)
    for ours, theirs in (("fc6", "fc1"), ("fc7", "fc2"), ("fc8", "predictions")):
        yield from layer((ours,), theirs, "rows", roles=_ROLES)


def _is_old(tensors: Mapping[str, np.ndarray]) -> bool:
    """Whether the names are those of the first file of ResNet50."""
    return "bn_conv1.gamma" in tensors


def _units(module, old: bool) -> Iterator[tuple[tuple, tuple, str, str]]:
    """Path of each convolution and of its BatchNorm, and the names of both."""
    if old:
        yield ("conv1",), ("bn1",), "conv1", "bn_conv1"
        for path, bn_path, name in units(module.depth):
            yield path, bn_path, f"res{name}", f"bn{name}"
        return
    yield ("conv1",), ("bn1",), "conv1_conv", "conv1_bn"
    numbers = {"conv1": 1, "conv2": 2, "conv3": 3, "projection": 0}
    for path, bn_path, _ in units(module.depth):
        stage, block = path[0].removeprefix("conv").split("_")
        name = f"conv{stage}_block{block}_{numbers[path[1]]}"
        yield path, bn_path, f"{name}_conv", f"{name}_bn"


def _resnet(module, tensors) -> Iterator[Entry]:
    old = _is_old(tensors)
    for path, bn_path, name, bn in _units(module, old):
        yield from layer(path, name, "same", bias=False, roles=_ROLES)
        roles = ("gamma", "beta", "mean", "variance")
        yield from batch_norm(bn_path, *(f"{bn}.{role}" for role in roles))
    # The last layer has been called "probs", too.
    last = "fc1000" if old else "probs" if "probs.kernel" in tensors else "predictions"
    yield from layer(("fc",), last, "rows", roles=_ROLES)


def name_map(module: nn.Module, tensors: Mapping[str, np.ndarray]) -> list[Entry]:
    """Every tensor of `module` with its name in the Keras file of that network (`hdf5.read`).

    tensors: those of the file, which show how old it is. Raises UserError if there is no such file:
    another model, or options with which ours computes something else.
    """
    vgg_options = {"variant": ["D", "E"], "image_size": [224], "lrn": ["published", "none"]}
    resnet_options = {"depth": [50, 101, 152], "stride": ["v1"], "shortcut": ["B"]}
    resnet_options["pool1_padding"] = [_pool1_padding(tensors)]
    networks = {
        vgg.VGG: Network(_vgg, vgg_options),
        resnet.ResNet: Network(functools.partial(_resnet, tensors=tensors), resnet_options),
    }
    return entries_of("Keras", module, networks)


def _pool1_padding(tensors) -> int:
    return 0 if _is_old(tensors) else 1


def converted(module: nn.Module, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors for a network that takes red, green, blue and has no biases before BatchNorm."""
    first = name_map(module, tensors)[0].key
    tensors = reverse_colours(tensors, first, axis=2)
    if isinstance(module, resnet.ResNet):
        pairs = [(name, bn) for _, _, name, bn in _units(module, _is_old(tensors))]
        tensors = without_biases(tensors, pairs)
    return tensors


def settings(model: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The config fields that belong to the Keras weights of the model in a config's section.

    Raises UserError for a model without such a file.
    """
    if model["name"] == "vgg":
        fields = {"model.image_size": 224, "model.dropout_scaling": "train"}
    elif model["name"] == "resnet":
        fields = {"model.stride": "v1", "model.pool1_padding": _pool1_padding(tensors)}
    else:
        raise refuse("Keras", model["name"], ["vgg", "resnet"])
    return config_fields.view(VGG_MEAN, high=255.0) | fields
