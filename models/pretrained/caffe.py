"""Weights from the Caffe files of bvlc_alexnet, VGG's authors, bvlc_googlenet and ResNet's authors.

Their networks take blue, green, red. The input maps of the first kernel are reversed, so that ours
takes red, green, blue. BatchNorm is two layers there: one with the statistics, one with gamma and
beta.
"""

import string
from collections.abc import Mapping, Sequence

import flax.linen as nn
import numpy as np

from errors import UserError
from models import alexnet, googlenet, resnet, vgg
from models.pretrained.entries import Entry
from models.pretrained.frameworks import Framework, Network, view


def _view(*mean: float, size: int = 224) -> dict:
    """`view` of images whose values are in 0..255. mean: of red, green, blue."""
    return view(tuple(value / 255 for value in mean), high=255.0, size=size)


# VGG: from its authors' page. BVLC: from the training file of bvlc_googlenet; bvlc_alexnet has a
# mean image, whose channels have these means when rounded. ResNet: its authors subtract a mean
# image, too. These are the means of its channels, as converters of the networks use them; unlike
# the image, they serve images of other sizes.
_BVLC_MEAN = (123.0, 117.0, 104.0)
VGG_VIEW = _view(123.68, 116.779, 103.939)
_RESNET_VIEW = _view(123.151630838, 115.902882574, 103.062623801)

_GOOGLENET_LAYERS = {
    **{"conv1": "conv1/7x7_s2", "conv2_reduce": "conv2/3x3_reduce", "conv2": "conv2/3x3"},
    **{"aux1/conv": "loss1/conv", "aux1/fc1": "loss1/fc", "aux1/fc2": "loss1/classifier"},
    **{"aux2/conv": "loss2/conv", "aux2/fc1": "loss2/fc", "aux2/fc2": "loss2/classifier"},
    "fc": "loss3/classifier",
}


def resnet_layer(module, layer: str) -> str:
    """For example, "res2a_branch2b" of "conv2_1/conv2", and "bn2a_branch2b" of "conv2_1/bn2"."""
    fixed = {"conv1": "conv1", "bn1": "bn_conv1", "fc": "fc1000"}
    if layer in fixed:
        return fixed[layer]
    block, name = layer.split("/")
    stage, number = map(int, block.removeprefix("conv").split("_"))
    # The deeper networks count the blocks of their long stages: 3a, 3b1, 3b2, ...
    counted = module.depth > 50 and stage in (3, 4) and number > 1
    place = f"b{number - 1}" if counted else string.ascii_lowercase[number - 1]
    branch = "1" if name.startswith("projection") else f"2{'abc'[int(name[-1]) - 1]}"
    return f"{'bn' if 'bn' in name else 'res'}{stage}{place}_branch{branch}"


_NETWORKS = {
    alexnet.AlexNet: Network(
        lambda module, layer: layer,
        _view(*_BVLC_MEAN, size=227),
        {"lrn": "caffe", "lrn_over": "all_maps", "image_size": 227},
        {"variant": ["two_tower"]},
    ),
    vgg.VGG: Network(
        lambda module, layer: layer,
        VGG_VIEW,
        {"image_size": 224},
        {"variant": list("ABCDE"), "lrn": ["published", "none"]},
    ),
    googlenet.GoogLeNet: Network(
        lambda module, layer: _GOOGLENET_LAYERS.get(layer, layer),
        _view(*_BVLC_MEAN),
        {"lrn": "caffe"},
        {"normalisation": ["lrn"]},
    ),
    resnet.ResNet: Network(
        resnet_layer,
        _RESNET_VIEW,
        {"stride": "v1", "pool1_padding": 0},
        {"depth": [50, 101, 152], "shortcut": ["B"]},
    ),
}


_ROLES = {"kernel": "weight", "gamma": "weight", "beta": "bias"}


def _key(layer: str, role: str) -> str:
    if role in ("gamma", "beta"):  # a layer "Scale" has these
        layer = layer.replace("bn", "scale", 1)
    return f"{layer}.{_ROLES.get(role, role)}"


FRAMEWORK = Framework("Caffe", _NETWORKS, _key)


def refuse_caffenet(module: nn.Module, layers: Sequence[str]) -> None:
    """Raises UserError for the layers of a CaffeNet, an AlexNet that pools before it normalises.

    layers: names in the order of the file. Only this order shows the difference.
    """
    known = isinstance(module, alexnet.AlexNet) and {"norm1", "pool1"} <= set(layers)
    if known and layers.index("pool1") < layers.index("norm1"):
        raise UserError(
            "the weights are of CaffeNet, which pools before it normalises: use those of"
            " bvlc_alexnet"
        )


def converted(entries: Sequence[Entry], tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors for a network that takes red, green, blue and has no biases before BatchNorm.

    Biases of convolutions are merged into the means of their BatchNorms: (y + b) - m = y - (m - b),
    so the outputs are the same, in training and in evaluation. `entries.load` refuses tensors of a
    wrong shape, which stay here.
    """
    tensors = dict(tensors)
    by_leaf = {entry.path[1:]: entry for entry in entries}
    first = by_leaf.get(("conv1", "kernel")) or by_leaf["conv1_1", "kernel"]
    kernel = tensors.get(first.key)
    if kernel is not None and kernel.ndim == 4:
        tensors[first.key] = np.flip(kernel, axis=1 if first.layout == "conv" else 2)
    for (*block, layer, leaf), entry in by_leaf.items():
        if leaf != "mean":
            continue
        name = "projection" if layer == "projection_bn" else layer.replace("bn", "conv")
        convolution = by_leaf[*block, name, "kernel"].key.rsplit(".", 1)[0]
        bias, mean = tensors.get(f"{convolution}.bias"), tensors.get(entry.key)
        if bias is not None and mean is not None and bias.shape == mean.shape:
            tensors[entry.key] = mean - bias
            del tensors[f"{convolution}.bias"]
    return tensors
