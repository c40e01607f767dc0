"""The networks of other frameworks: the names of their tensors, and what the weights need."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn

from errors import UserError
from models import resnet
from models.pretrained.entries import Entry, shapes
from models.registry import MODELS


def view(
    mean: tuple[float, ...],
    deviation: tuple[float, ...] = (),
    high: float = 1.0,
    size: int = 224,
) -> dict[str, Any]:
    """The config fields for an input high * (u - mean) / deviation of images u in 0..1.

    The input is the central square of `size` pixels of an image whose shorter side is 256. mean,
    deviation: of red, green and blue, in 0..1; deviation (): no division. Images are resized
    bilinearly: so do torchvision's presets for the first weights of all its networks here, and
    OpenCV by default, with which Caffe's tools made their images.
    """
    return {
        "preprocess.mean": "given",
        "preprocess.given_mean": mean,
        "preprocess.deviation": deviation,
        "preprocess.low": 0.0,
        "preprocess.high": high,
        "view.size": size,
        "view.test_scale": 256,
        "view.interpolation": "bilinear",
    }


class Network(NamedTuple):
    """A network of another framework.

    layer_name: a function of our module and a layer's path, such as "conv2_1/bn1": the layer's name
        in the other framework.
    view: the config fields for its images, from `view`.
    needed: our options that the tensors do not show, with the value that the weights need.
    allowed: allowed values of further options; for an option of `needed`, in place of that value.
    convolutions: fully connected layers that are convolutions there.
    """

    layer_name: Callable[[nn.Module, str], str]
    view: Mapping[str, Any]
    needed: Mapping[str, Any] = {}
    allowed: Mapping[str, Sequence] = {}
    convolutions: tuple[str, ...] = ()


class Framework(NamedTuple):
    """The networks of another framework, by our classes.

    key: a function of the name of a layer there and a role: the name of the tensor. The roles are
        "kernel", "bias", BatchNorm's "gamma", "beta", "mean", "variance", and "count".
    layouts: of convolutions and of linear layers, see `Entry`.
    counts: whether BatchNorm counts its updates.
    """

    name: str
    networks: Mapping[type, Network]
    key: Callable[[str, str], str]
    layouts: tuple[str, str] = ("conv", "linear")
    counts: bool = False

    def entries(self, module: nn.Module) -> list[Entry]:
        """The tensors of `module` in the files of the framework.

        Raises UserError unless one of its networks computes what `module` computes. All need ReLU,
        the published width, stem and pooling, and no regulariser or dropout, scaled in training
        (weights for the other scaling are larger by 1 / (1 - rate)).
        """
        network = self._network(type(module), type(module).__name__)
        _check_options(self.name, network, module)
        entries = []
        for path, shape in shapes(module, (module.image_size, module.image_size, 3)).items():
            layer, leaf = "/".join(path[1:-1]), path[-1]
            name = network.layer_name(module, layer)
            role = _BATCH_NORM_ROLES.get(leaf, leaf) if "bn" in layer else leaf
            layout, side = "same", 1
            if leaf == "kernel":
                layout, side = self._layout(layer, shape, layer in network.convolutions)
            entries.append(Entry(path, self.key(name, role), layout, side))
            if role == "mean" and self.counts:
                entries.append(Entry(None, self.key(name, "count")))
        return entries

    def _layout(self, layer: str, shape: tuple[int, ...], is_convolution: bool) -> tuple[str, int]:
        """Layout and side of a kernel, see `Entry`."""
        convolution, linear = self.layouts
        if is_convolution or not layer.split("/")[-1].startswith("fc"):
            return convolution, 1
        if len(shape) == 4:
            return linear, shape[0]
        return linear, 4 if layer.endswith("/fc1") else 1  # of GoogLeNet's auxiliary heads

    def settings(self, model: Mapping[str, Any], tensors) -> dict[str, Any]:
        """The config fields that belong to the weights of a model in a config's section.

        tensors: those of the file, whose names show GoogLeNet's auxiliary heads. Raises UserError
        for a model that the framework does not have.
        """
        network_class = MODELS.get(model["name"])
        network = self._network(network_class, model["name"])
        needed = _needed(network, model.get("depth"))
        fields = {f"model.{option}": value for option, value in needed.items()}
        if network_class.regulariser == "dropout":
            fields["model.dropout_scaling"] = "train"
        if model["name"] == "googlenet":
            heads = any(key.startswith(("aux", "loss1/")) for key in tensors)
            fields["model.auxiliary_heads"] = heads
            fields |= {} if heads else {"loss.auxiliary_weight": 0.0}
        return {**network.view, **fields}

    def _network(self, network_class: type | None, name: str) -> Network:
        if network_class not in self.networks:
            names = ", ".join(known.__name__ for known in self.networks)
            raise UserError(
                f"{self.name} has no {name}: weights are exchanged for {names}; for others give the"
                " names of the tensors in a JSON file (docs/weights.md)"
            )
        return self.networks[network_class]


_BATCH_NORM_ROLES = {"scale": "gamma", "bias": "beta", "var": "variance"}


def _needed(network: Network, depth: int | None) -> dict[str, Any]:
    """`network.needed`, without the stride for a ResNet that has no bottlenecks."""
    # `registry.create` refuses an unknown depth.
    bottlenecks = resnet.DEPTHS.get(depth, ((), False))[1]
    return {key: v for key, v in network.needed.items() if key != "stride" or bottlenecks}


def _check_options(framework: str, network: Network, module: nn.Module) -> None:
    needed = _needed(network, getattr(module, "depth", None))
    allowed = {option: [value] for option, value in needed.items()} | {
        **network.allowed,
        "activation": ["relu"],
        "regulariser": ["none", "dropout"],
        "pooling": ["published"],
        "stem": ["published"],
        "width": [1.0],
    }
    if module.regulariser == "dropout":
        allowed["dropout_scaling"] = ["train"]
    for option, values in allowed.items():
        value = getattr(module, option, None)
        if value is not None and value not in values:
            raise UserError(
                f"model.{option}={value}: {framework}'s {type(module).__name__} needs"
                f" {' or '.join(map(str, values))}"
            )
