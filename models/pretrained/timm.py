"""Weights from timm's VGG, whose fully connected layers are convolutions with other names.

timm's ResNets have torchvision's names, and are read as those.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from models import vgg
from models.pretrained import config_fields, torchvision
from models.pretrained.entries import Entry, Network, entries_of, layer, refuse


def recognises(tensors: Mapping[str, np.ndarray]) -> bool:
    """Whether the names are timm's and not torchvision's."""
    return any(key.startswith("pre_logits.") for key in tensors)


def name_map(module: nn.Module, tensors: Mapping[str, np.ndarray] | None = None) -> list[Entry]:
    """Every tensor of a VGG with its name in timm's vgg11, vgg13, vgg16 or vgg19.

    Raises UserError for another model, and for options with which ours computes something else.
    """
    if not isinstance(module, vgg.VGG):
        raise refuse("timm", type(module).__name__, ["VGG", "ResNet"])
    return entries_of("timm", module, {vgg.VGG: Network(_vgg, torchvision.VGG_OPTIONS)})


def _vgg(module) -> Iterator[Entry]:
    convolutions = torchvision.name_map(module)
    yield from (entry for entry in convolutions if entry.key.startswith("features."))
    yield from layer(("fc6",), "pre_logits.fc1")
    yield from layer(("fc7",), "pre_logits.fc2")
    yield from layer(("fc8",), "head.fc", "linear")


def settings(model: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The config fields that belong to timm's VGG weights, which are torchvision's."""
    if model["name"] != "vgg":
        raise refuse("timm", model["name"], ["vgg", "resnet"])
    torchvision.no_batch_norm("vgg", tensors)
    fields = {"model.image_size": 224, "model.dropout_scaling": "train"}
    return config_fields.view(torchvision.MEAN, torchvision.DEVIATION) | fields
