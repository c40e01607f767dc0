"""Weights from keras.applications: VGG16, VGG19, and ResNet-50, -101, -152 with the stride in v1.

Their networks take blue, green, red in 0..255 less a mean ("caffe" mode). The input maps of the
first kernel are reversed. Convolutions before BatchNorm have biases, which are merged into its
mean. BatchNorm's epsilon is 1.001e-5 there and 1e-5 here, which hardly matters in float32.

The first file of ResNet50 was converted from its authors' Caffe file, and has the names of that
file. It is read as that network.
"""

import functools
from collections.abc import Mapping

import numpy as np

from models import resnet, vgg
from models.pretrained.caffe import VGG_VIEW, resnet_layer
from models.pretrained.frameworks import Framework, Network


def _vgg_layer(module, layer: str) -> str:
    names = {"fc6": "fc1", "fc7": "fc2", "fc8": "predictions"}
    return names.get(layer) or layer.replace("conv", "block").replace("_", "_conv")


def _resnet_layer(module, layer: str, last: str) -> str:
    """last: the name of the last layer."""
    fixed = {"conv1": "conv1_conv", "bn1": "conv1_bn", "fc": last}
    if layer in fixed:
        return fixed[layer]
    block, name = layer.split("/")
    number = 0 if name.startswith("projection") else name[-1]
    return f"{block.replace('_', '_block')}_{number}_{'bn' if 'bn' in name else 'conv'}"


def framework(tensors: Mapping[str, np.ndarray]) -> Framework:
    """Keras's networks. tensors: those of the file, which show how old it is."""
    is_first = "bn_conv1.gamma" in tensors  # the first file of ResNet50
    # The last layer has been called "probs", too.
    last = "probs" if "probs.kernel" in tensors else "predictions"
    networks = {
        vgg.VGG: Network(
            _vgg_layer,
            VGG_VIEW,
            {"image_size": 224},
            {"variant": ["D", "E"], "lrn": ["published", "none"]},
        ),
        resnet.ResNet: Network(
            resnet_layer if is_first else functools.partial(_resnet_layer, last=last),
            VGG_VIEW,
            {"stride": "v1", "pool1_padding": 0 if is_first else 1},
            {"depth": [50, 101, 152], "shortcut": ["B"]},
        ),
    }
    return Framework("Keras", networks, "{}.{}".format, layouts=("same", "rows"))
