"""Weights from the Caffe files of bvlc_alexnet, VGG's authors, bvlc_googlenet and ResNet's authors.

Their networks take blue, green, red. The input maps of the first kernel are reversed, so that ours
takes red, green, blue. BatchNorm is two layers there: one with the statistics, one with gamma and
beta.
"""

import string
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import numpy as np

from errors import UserError
from models import alexnet, googlenet, resnet, vgg
from models.pretrained import config_fields
from models.pretrained.entries import Entry, Network, batch_norm, entries_of, layer, refuse

# Means of red, green, blue in 0..255. VGG: from its authors' page. BVLC: from the training file of
# bvlc_googlenet; bvlc_alexnet has a mean image, whose channels have these means when rounded.
# ResNet: its authors subtract a mean image, too. These are the means of its channels, as converters
# of the networks use them; unlike the image, they serve images of other sizes.
BVLC_MEAN = config_fields.from_255(123.0, 117.0, 104.0)
VGG_MEAN = config_fields.from_255(123.68, 116.779, 103.939)
RESNET_MEAN = config_fields.from_255(123.151630838, 115.902882574, 103.062623801)


def _alexnet(module) -> Iterator[Entry]:
    for number in range(1, 6):
        yield from layer((f"conv{number}",), f"conv{number}")
    yield from _classifiers(side=6)


def _vgg(module) -> Iterator[Entry]:
    for block, sizes in enumerate(vgg.VARIANTS[module.variant], 1):
        for number in range(1, len(sizes) + 1):
            yield from layer((f"conv{block}_{number}",), f"conv{block}_{number}")
    yield from _classifiers(side=7)


def _classifiers(side) -> Iterator[Entry]:
    for name, seen in (("fc6", side), ("fc7", 1), ("fc8", 1)):
        yield from layer((name,), name, "linear", seen)


def _googlenet(module) -> Iterator[Entry]:
    yield from layer(("conv1",), "conv1/7x7_s2")
    yield from layer(("conv2_reduce",), "conv2/3x3_reduce")
    yield from layer(("conv2",), "conv2/3x3")
    for row in googlenet.MODULES:
        for name in ("1x1", "3x3_reduce", "3x3", "5x5_reduce", "5x5", "pool_proj"):
            yield from layer((f"inception_{row}", name), f"inception_{row}/{name}")
    for number in (1, 2) if module.auxiliary_heads else ():
        yield from layer((f"aux{number}", "conv"), f"loss{number}/conv")
        yield from layer((f"aux{number}", "fc1"), f"loss{number}/fc", "linear", side=4)
        yield from layer((f"aux{number}", "fc2"), f"loss{number}/classifier", "linear")
    yield from layer(("fc",), "loss3/classifier", "linear")


def units(depth: int) -> Iterator[tuple[tuple[str, ...], tuple[str, ...], str]]:
    """Each convolution of a bottleneck network except the first.

    Gives its path, the path of its BatchNorm, and the part of the authors' names that follows
    "res", "bn" and "scale": "2a_branch2a".
    """
    for stage, blocks in enumerate(resnet.DEPTHS[depth][0], 2):
        # The deeper networks count the blocks of their long stages: 3a, 3b1, 3b2, ...
        counted = depth > 50 and stage in (3, 4)
        names = [f"b{n}" if counted and n else string.ascii_lowercase[n] for n in range(blocks)]
        for number, name in enumerate(names, 1):
            path = f"conv{stage}_{number}"
            for n, letter in enumerate("abc", 1):
                yield (path, f"conv{n}"), (path, f"bn{n}"), f"{stage}{name}_branch2{letter}"
            if number == 1:
                yield (path, "projection"), (path, "projection_bn"), f"{stage}{name}_branch1"


def _resnet(module) -> Iterator[Entry]:
    def unit(path, bn_path, name, bn, scale):
        yield from layer(path, name, bias=False)
        names = (f"{scale}.weight", f"{scale}.bias", f"{bn}.mean", f"{bn}.variance")
        yield from batch_norm(bn_path, *names)

    yield from unit(("conv1",), ("bn1",), "conv1", "bn_conv1", "scale_conv1")
    for path, bn_path, name in units(module.depth):
        yield from unit(path, bn_path, f"res{name}", f"bn{name}", f"scale{name}")
    yield from layer(("fc",), "fc1000", "linear")


_ALEXNET = {"variant": ["two_tower"], "image_size": [227], "lrn_over": ["all_maps"]}
_VGG = {"variant": list("ABCDE"), "image_size": [224], "lrn": ["published", "none"]}
_RESNET = {"depth": [50, 101, 152], "stride": ["v1"], "shortcut": ["B"], "pool1_padding": [0]}
_NETWORKS = {
    alexnet.AlexNet: Network(_alexnet, {**_ALEXNET, "lrn": ["caffe"]}),
    vgg.VGG: Network(_vgg, _VGG),
    googlenet.GoogLeNet: Network(_googlenet, {"normalisation": ["lrn"], "lrn": ["caffe"]}),
    resnet.ResNet: Network(_resnet, _RESNET),
}
_FIRST = {alexnet.AlexNet: "conv1", vgg.VGG: "conv1_1", googlenet.GoogLeNet: "conv1/7x7_s2"}


def name_map(module: nn.Module, tensors: Mapping[str, np.ndarray] | None = None) -> list[Entry]:
    """Every tensor of `module` with its name in the Caffe file of that network (`caffemodel.read`).

    Raises UserError if there is no such file: another model, or options with which ours computes
    something else.
    """
    return entries_of("Caffe", module, _NETWORKS)


def converted(
    module: nn.Module, tensors: Mapping[str, np.ndarray], layers: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """The tensors for a network that takes red, green, blue and has no biases before BatchNorm.

    layers: names of the layers in the order of the file. Only this order shows an AlexNet that
    pools before it normalises (CaffeNet), for which it raises UserError.
    """
    if isinstance(module, alexnet.AlexNet) and _pools_first(layers):
        raise UserError(
            "the weights are of CaffeNet, which pools before it normalises: use those of"
            " bvlc_alexnet"
        )
    tensors = reverse_colours(tensors, f"{_FIRST.get(type(module), 'conv1')}.weight", axis=1)
    if isinstance(module, resnet.ResNet):
        pairs = [("conv1", "bn_conv1")]
        pairs += [(f"res{name}", f"bn{name}") for _, _, name in units(module.depth)]
        tensors = without_biases(tensors, pairs)
    return tensors


def _pools_first(layers: Sequence[str]) -> bool:
    return {"norm1", "pool1"} <= set(layers) and layers.index("pool1") < layers.index("norm1")


def reverse_colours(tensors: Mapping[str, np.ndarray], key: str, axis: int) -> dict:
    """The tensors with the input maps of the first kernel, on `axis`, in reverse order."""
    kernel = tensors.get(key)
    if kernel is None or kernel.ndim != 4:  # `entries.load` refuses it
        return dict(tensors)
    return {**tensors, key: np.flip(kernel, axis)}


def without_biases(tensors: Mapping[str, np.ndarray], pairs) -> dict[str, np.ndarray]:
    """The tensors with the biases of convolutions merged into the means of their BatchNorms.

    pairs: names of a convolution and of its BatchNorm. (y + b) - m = y - (m - b), so the outputs
    are the same, in training and in evaluation.
    """
    tensors = dict(tensors)
    for name, bn in pairs:
        bias, mean = tensors.get(f"{name}.bias"), tensors.get(f"{bn}.mean")
        if bias is not None and mean is not None and bias.shape == mean.shape:
            tensors[f"{bn}.mean"] = mean - bias
            del tensors[f"{name}.bias"]
    return tensors


def settings(model: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The config fields that belong to the Caffe weights of the model in a config's section.

    Raises UserError for a model without such a file.
    """
    scaling = {"model.dropout_scaling": "train"}
    if model["name"] == "alexnet":
        fields = {"model.lrn": "caffe", "model.lrn_over": "all_maps", "model.image_size": 227}
        return config_fields.view(BVLC_MEAN, high=255.0, size=227) | scaling | fields
    if model["name"] == "vgg":
        fields = {"model.image_size": 224}
        return config_fields.view(VGG_MEAN, high=255.0) | scaling | fields
    if model["name"] == "googlenet":
        fields = config_fields.auxiliary(any(key.startswith("loss1/") for key in tensors))
        return config_fields.view(BVLC_MEAN, high=255.0) | scaling | {"model.lrn": "caffe"} | fields
    if model["name"] == "resnet":
        fields = {"model.stride": "v1", "model.pool1_padding": 0}
        return config_fields.view(RESNET_MEAN, high=255.0) | fields
    raise refuse("Caffe", model["name"], ["alexnet", "vgg", "googlenet", "resnet"])
