"""Weights to and from torchvision's state dicts, without torch. timm's ResNets have the same names.

`name_map` gives the name and the layout of each tensor of a network in torchvision.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from errors import UserError
from models import alexnet, googlenet, resnet, vgg
from models.pretrained import config_fields
from models.pretrained.entries import (
    Entry,
    Network,
    batch_norm,
    dump,
    entries_of,
    layer,
    load,
    refuse,
)

# Mean and deviation of the colours in ImageNet's training set, in 0..1 (torchvision's presets).
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _batch_norm(path, name) -> Iterator[Entry]:
    roles = ("weight", "bias", "running_mean", "running_var")
    yield from batch_norm(path, *(f"{name}.{role}" for role in roles))
    yield Entry(None, f"{name}.num_batches_tracked")


def _alexnet(module) -> Iterator[Entry]:
    for number, place in enumerate((0, 3, 6, 8, 10), 1):
        yield from layer((f"conv{number}",), f"features.{place}")
    for name, place, side in (("fc6", 1, 6), ("fc7", 4, 1), ("fc8", 6, 1)):
        yield from layer((name,), f"classifier.{place}", "linear", side)


def _vgg(module) -> Iterator[Entry]:
    place = 0
    for block, sizes in enumerate(vgg.VARIANTS[module.variant], 1):
        for number in range(1, len(sizes) + 1):
            yield from layer((f"conv{block}_{number}",), f"features.{place}")
            place += 2  # the convolution and a ReLU
        place += 1  # the pooling
    for name, place, side in (("fc6", 0, 7), ("fc7", 3, 1), ("fc8", 6, 1)):
        yield from layer((name,), f"classifier.{place}", "linear", side)


def _googlenet(module) -> Iterator[Entry]:
    def unit(path, name):
        yield from layer(path, f"{name}.conv", bias=False)
        yield from _batch_norm((*path[:-1], f"{path[-1]}_bn"), f"{name}.bn")

    for number, name in enumerate(("conv1", "conv2_reduce", "conv2"), 1):
        yield from unit((name,), f"conv{number}")
    branches = {
        "1x1": "branch1",
        "3x3_reduce": "branch2.0",
        "3x3": "branch2.1",
        "5x5_reduce": "branch3.0",
        "5x5": "branch3.1",
        "pool_proj": "branch4.1",
    }
    for row in googlenet.MODULES:
        for name, branch in branches.items():
            yield from unit((f"inception_{row}", name), f"inception{row}.{branch}")
    for head in ("aux1", "aux2") if module.auxiliary_heads else ():
        yield from unit((head, "conv"), f"{head}.conv")
        yield from layer((head, "fc1"), f"{head}.fc1", "linear", side=4)
        yield from layer((head, "fc2"), f"{head}.fc2", "linear")
    yield from layer(("fc",), "fc", "linear")


def _resnet(module) -> Iterator[Entry]:
    stages, bottleneck = resnet.DEPTHS[module.depth]
    yield from layer(("conv1",), "conv1", bias=False)
    yield from _batch_norm(("bn1",), "bn1")
    for stage, blocks in enumerate(stages):
        for block in range(blocks):
            path, name = f"conv{stage + 2}_{block + 1}", f"layer{stage + 1}.{block}"
            for n in range(1, 4 if bottleneck else 3):
                yield from layer((path, f"conv{n}"), f"{name}.conv{n}", bias=False)
                yield from _batch_norm((path, f"bn{n}"), f"{name}.bn{n}")
            if block == 0 and (stage > 0 or bottleneck):
                yield from layer((path, "projection"), f"{name}.downsample.0", bias=False)
                yield from _batch_norm((path, "projection_bn"), f"{name}.downsample.1")
    yield from layer(("fc",), "fc", "linear")


# torchvision's networks, and the options with which ours compute the same.
_NO_LRN = {"lrn": ["published", "none"]}  # published is none in these networks
_ALEXNET = {"variant": ["one_tower"], "image_size": [224], **_NO_LRN}
VGG_OPTIONS = {"variant": ["A", "B", "D", "E"], "image_size": [224], **_NO_LRN}
_NETWORKS = {
    alexnet.AlexNet: Network(_alexnet, _ALEXNET),
    vgg.VGG: Network(_vgg, VGG_OPTIONS),
    googlenet.GoogLeNet: Network(_googlenet, {"normalisation": ["batch_norm"], **_NO_LRN}),
    resnet.ResNet: Network(_resnet, {"shortcut": ["B"], "pool1_padding": [1]}),
}


def name_map(module: nn.Module, tensors: Mapping[str, np.ndarray] | None = None) -> list[Entry]:
    """Every tensor of `module` with its name and layout in torchvision's network of that kind.

    Raises UserError if torchvision has no such network: another model, variant, activation or
    regulariser, or dropout scaled at test time.
    """
    networks = _NETWORKS
    if isinstance(module, resnet.ResNet) and resnet.DEPTHS[module.depth][1]:
        entries, options = networks[resnet.ResNet]
        networks = {**networks, resnet.ResNet: Network(entries, {**options, "stride": ["v1.5"]})}
    return entries_of("torchvision", module, networks)


def settings(model: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The config fields that belong to torchvision's weights of the model in a config's section.

    GoogLeNet's were trained with its authors' preprocessing, (u - 0.5) / 0.5, to which torchvision
    converts its common input (`transform_input`). Raises UserError for a model that torchvision
    does not have, and for VGG with BatchNorm, which Canon does not have.
    """
    name = model["name"]
    if name == "googlenet":
        heads = config_fields.auxiliary(any(key.startswith("aux") for key in tensors))
        view = config_fields.view((0.5,) * 3, (0.5,) * 3)
        return view | {"model.dropout_scaling": "train"} | heads
    fields = {
        "alexnet": {"model.lrn": "none", "model.image_size": 224, "model.dropout_scaling": "train"},
        "vgg": {"model.image_size": 224, "model.dropout_scaling": "train"},
        "resnet": {"model.pool1_padding": 1},
    }
    if name not in fields:
        raise refuse("torchvision", name, ["googlenet", *fields])
    no_batch_norm(name, tensors)
    # `registry.create` refuses an unknown depth.
    if name == "resnet" and resnet.DEPTHS.get(model["depth"], ((), False))[1]:
        fields[name]["model.stride"] = "v1.5"
    return config_fields.view(MEAN, DEVIATION) | fields[name]


def no_batch_norm(name: str, tensors: Mapping[str, np.ndarray]) -> None:
    """Raises UserError for tensors of a VGG with BatchNorm."""
    if name == "vgg" and any(re.fullmatch(r"features\.\d+\.running_mean", key) for key in tensors):
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
    return load(module, name_map(module), state_dict, input_shape)


def to_torchvision(
    module: nn.Module, variables: Mapping[str, Any], input_shape=(224, 224, 3)
) -> dict[str, np.ndarray]:
    """The state dict of torchvision's network with `module`'s variables; it loads with strict=True.

    Errors as in `from_torchvision`, with Canon's names of the tensors.
    """
    return dump(module, name_map(module), variables, input_shape)
