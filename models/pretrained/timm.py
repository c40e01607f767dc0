"""Weights from timm's VGG, whose fully connected layers are convolutions with other names.

timm's ResNets have torchvision's names, and are read as those.
"""

import pathlib
import re
from collections.abc import Mapping

import numpy as np

from errors import UserError
from models import vgg
from models.pretrained import torchvision
from models.pretrained.frameworks import Framework


def recognises(tensors: Mapping[str, np.ndarray]) -> bool:
    """Whether the names are timm's and not torchvision's."""
    return any(key.startswith("pre_logits.") for key in tensors)


def refuse_other_pooling(path: pathlib.Path) -> None:
    """Raises UserError for a file, or a model of the hub, that is named like timm's resnetblur50.

    timm's resnetaa and resnetblur have the tensors of ResNets, but pool (with a blur) where those
    have a stride. Only their name shows the difference.
    """
    for part in path.parts:
        if match := re.search(r"(?:^|--)(resnet(?:aa|blur)\d+)", part):
            raise UserError(
                f"{path}: {match[1]} pools where a ResNet has a stride, and Canon has no such"
                " network: use weights of a ResNet"
            )


def _vgg_layer(module, layer: str) -> str:
    names = {"fc6": "pre_logits.fc1", "fc7": "pre_logits.fc2", "fc8": "head.fc"}
    return names.get(layer) or torchvision.vgg_layer(module, layer)


_VGG = torchvision.VGG._replace(layer_name=_vgg_layer, convolutions=("fc6", "fc7"))
FRAMEWORK = Framework("timm", {vgg.VGG: _VGG}, torchvision.key)
