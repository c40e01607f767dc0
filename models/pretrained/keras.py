"""Weights from keras.applications: VGG16, VGG19, and ResNet-50, -101, -152 with the stride in v1.

Their nets take blue, green, red in 0..255 less a mean ("caffe" mode): the first kernel's input maps
are turned round on the way in. Convolutions before BatchNorm have biases, which go into its mean.
BatchNorm's epsilon is 1.001e-5 there and 1e-5 here, which float32 hardly shows.

ResNet50's first file has the names of its authors' Caffe file, from which it was converted, and
is read as that net.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from models import resnet, vgg
from models.pretrained import config_fields
from models.pretrained.caffe import VGG_MEAN, reverse_colours, units, without_biases
from models.pretrained.entries import Entry, layer, load, refuse, require

_ROLES = ("kernel", "bias")
_NO_LRN = {"lrn": ["published", "none"]}


def _vgg(module) -> Iterator[Entry]:
    for block, sizes in enumerate(vgg.VARIANTS[module.variant], 1):
        for number in range(1, len(sizes) + 1):
            name = f"block{block}_conv{number}"
            yield from layer((f"conv{block}_{number}",), name, "same", roles=_ROLES)
    for ours, theirs in (("fc6", "fc1"), ("fc7", "fc2"), ("fc8", "predictions")):
        yield from layer((ours,), theirs, "rows", roles=_ROLES)


def _is_old(tensors: Mapping[str, np.ndarray]) -> bool:
    """Whether the names are those of ResNet50's first file."""
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
        yield Entry(("params", *bn_path, "scale"), f"{bn}.gamma")
        yield Entry(("params", *bn_path, "bias"), f"{bn}.beta")
        yield Entry(("batch_stats", *bn_path, "mean"), f"{bn}.mean")
        yield Entry(("batch_stats", *bn_path, "var"), f"{bn}.variance")
    # The last layer has been called "probs", too.
    last = "fc1000" if old else "probs" if "probs.kernel" in tensors else "predictions"
    yield from layer(("fc",), last, "rows", roles=_ROLES)


def name_map(module: nn.Module, tensors: Mapping[str, np.ndarray]) -> list[Entry]:
    """Every tensor of `module` with its name in the Keras file of that net (`hdf5.read`).

    tensors: of the file, by which its generation is told. Raises UserError where there is no such
    file: another model, or options with which ours computes something else.
    """
    if isinstance(module, vgg.VGG):
        require("Keras", module, {"variant": ["D", "E"], "image_size": [224], **_NO_LRN})
        return list(_vgg(module))
    if isinstance(module, resnet.ResNet):
        options = {"depth": [50, 101, 152], "stride": ["v1"], "shortcut": ["B"], **_NO_LRN}
        require("Keras", module, {**options, "pool1_padding": [_pool1_padding(tensors)]})
        return list(_resnet(module, tensors))
    raise refuse("Keras", type(module).__name__, ["VGG", "ResNet"])


def _pool1_padding(tensors) -> int:
    return 0 if _is_old(tensors) else 1


def variables(module: nn.Module, tensors: Mapping[str, np.ndarray], input_shape) -> dict[str, Any]:
    """`module`'s variables with a Keras file's weights. Raises UserError as `name_map`, and, naming
    them, for tensors that do not fit."""
    entries = name_map(module, tensors)
    first = entries[0].key
    tensors = reverse_colours(tensors, first, axis=2)
    if isinstance(module, resnet.ResNet):
        pairs = [(name, bn) for _, _, name, bn in _units(module, _is_old(tensors))]
        tensors = without_biases(tensors, pairs)
    return load(module, entries, tensors, input_shape)


def settings(model: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The config fields that belong to the Keras weights of the model in a config's section.

    Raises UserError for a model without such a file.
    """
    if model["name"] == "vgg":
        own = {"model.image_size": 224, "model.dropout_scaling": "train"}
    elif model["name"] == "resnet":
        own = {"model.stride": "v1", "model.pool1_padding": _pool1_padding(tensors)}
    else:
        raise refuse("Keras", model["name"], ["vgg", "resnet"])
    return config_fields.view(VGG_MEAN, high=255.0) | own
