"""Pretrained weights: files of torchvision, timm, Caffe and Keras, or any other by a list of names.

`read` gives a `WeightFile`. Its `settings` are the config fields that belong to the weights, its
`variables` are the weights. docs/weights.md lists the networks, and what is not exact.
"""
# ruff: noqa: F401  (the names are for the users of the package)

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from models.pretrained import caffe, files, keras, timm, torchvision
from models.pretrained import names as names_lib
from models.pretrained.entries import class_bias, load
from models.pretrained.files import HUB, is_pretrained, locate
from models.pretrained.formats import SUFFIXES
from models.pretrained.frameworks import Framework
from models.pretrained.torchvision import from_torchvision, to_torchvision

_FRAMEWORKS = {
    "torchvision": torchvision.FRAMEWORK,
    "timm": timm.FRAMEWORK,
    "caffe": caffe.FRAMEWORK,
}


@dataclasses.dataclass(frozen=True, eq=False)
class WeightFile:
    """The content of a weight file.

    format: a value of `SUFFIXES`, or "index".
    source: "torchvision" (also for timm's ResNets), "timm", "caffe", "keras", or "names" with a
        list of names.
    tensors: the file's arrays by their names there.
    names: the user's list of names, if there is one: {our name: name in the file}.
    layers: names of the layers of a Caffe file in their order, else ().
    stored_settings, class_names: of a file that Canon exported with torchvision's names.
    """

    path: pathlib.Path
    format: str
    source: str
    tensors: dict[str, np.ndarray]
    names: dict[str, str] | None = None
    layers: tuple[str, ...] = ()
    stored_settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    class_names: tuple[str, ...] = ()

    def settings(self, model: Mapping[str, Any]) -> dict[str, Any]:
        """The config fields that belong to the weights, flat: {"view.size": 224, ...}.

        model: the config's `model` section. What the names and shapes of the tensors show (depth,
        variant, classes) is not among the fields: `variables` checks it. With a list of names the
        fields are {}. Raises UserError for a model that the source does not have.
        """
        if self.source == "names":
            return {}
        if model["name"] == "vgg" and self.source in ("torchvision", "timm"):
            torchvision.refuse_batch_norm(self.tensors)
        return self._framework.settings(model, self.tensors) | self.stored_settings

    @property
    def _framework(self) -> Framework:
        return _FRAMEWORKS.get(self.source) or keras.framework(self.tensors)

    def num_classes(self, module: nn.Module, input_shape: tuple[int, int, int]) -> int:
        """The number of classes of the file's network; the module's where the file shows none.

        Raises UserError as `variables` does, except for tensors that do not fit.
        """
        if self.source == "names":
            keys = {("params", *name.split("/")): key for name, key in self.names.items()}
        else:
            entries = self._framework.entries(module)
            keys = {entry.path: entry.key for entry in entries if entry.path}
        bias = self.tensors.get(keys.get(class_bias(module, input_shape), ""))
        return module.num_classes if bias is None else bias.size

    def variables(self, module: nn.Module, input_shape: tuple[int, int, int]) -> dict[str, Any]:
        """`module`'s variables {"params": ..., "batch_stats": ...} with the weights, float32.

        input_shape: (height, width, channels) of an image. Raises UserError, one line, for a module
        that the source does not have or that computes something else, and for tensors that do not
        fit.
        """
        if self.source == "names":
            channels_last = self.format == "Keras"
            return names_lib.variables(module, self.tensors, input_shape, self.names, channels_last)
        entries, tensors = self._framework.entries(module), self.tensors
        if self.source in ("caffe", "keras"):
            caffe.refuse_caffenet(module, self.layers)
            tensors = caffe.converted(entries, tensors)
        return load(module, entries, tensors, input_shape)


def read(path: pathlib.Path, names: pathlib.Path | None = None) -> WeightFile:
    """A weight file in one of the formats of `SUFFIXES`. names: a JSON file of its tensors' names.

    Raises UserError, one line, for a file that is missing, damaged or of another kind.
    """
    path = pathlib.Path(path)
    timm.refuse_other_pooling(path)
    given = names_lib.read(pathlib.Path(names)) if names else None
    kind = files.kind_of(path)
    tensors, layers = files.read(path)
    is_of_torch = kind not in ("Caffe", "Keras")
    if given is not None:
        source = "names"
        if is_of_torch:
            given = dict(zip(given, files.without_prefixes(given.values()), strict=True))
    elif not is_of_torch:
        source = kind.lower()
    else:
        source = "timm" if timm.recognises(tensors) else "torchvision"
    settings, class_names = files.metadata(path)
    return WeightFile(path, kind, source, tensors, given, layers, settings, class_names)
