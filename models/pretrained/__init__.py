"""Weights of other frameworks: torchvision, timm, Caffe, Keras, or any by a list of names.

`read` a file, then `Foreign.settings` for the config that its weights belong to, and
`Foreign.variables` for the weights. docs/weights.md says what is known, and what is not exact.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from models.pretrained import caffe, files, keras, timm, torchvision
from models.pretrained import names as names_lib
from models.pretrained.entries import class_bias, load
from models.pretrained.files import HUB, SUFFIXES, is_foreign, locate
from models.pretrained.torchvision import from_torchvision, to_torchvision

__all__ = [
    "HUB",
    "SUFFIXES",
    "Foreign",
    "from_torchvision",
    "is_foreign",
    "locate",
    "read",
    "to_torchvision",
]

_BY_NAMES = "names"
_SETTINGS = {
    "torchvision": torchvision.settings,
    "timm": timm.settings,
    "caffe": caffe.settings,
    "keras": keras.settings,
}


@dataclasses.dataclass(frozen=True, eq=False)
class Foreign:
    """A file that was read.

    source: "torchvision" (timm's ResNets, too), "timm", "caffe", "keras", or "names" where the user
        gave a list of names. tensors: theirs, by their names. names: that list, else None. layers:
        the names of a Caffe file's layers in order, else (). own_settings, class_names: of a file
        that Canon wrote in torchvision's names.
    """

    path: pathlib.Path
    source: str
    tensors: dict[str, np.ndarray]
    names: dict[str, str] | None = None
    layers: tuple[str, ...] = ()
    own_settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    class_names: tuple[str, ...] = ()

    def settings(self, model: Mapping[str, Any]) -> dict[str, Any]:
        """The config fields that belong to the weights, flat: {"view.size": 224, ...}.

        model: the config's `model` section. What the names and shapes of the tensors show (depth,
        variant, classes) is not among them: it is checked by `variables`. {} by a list of names:
        nothing is known of such weights. Raises UserError for a model that the source lacks.
        """
        if self.source == _BY_NAMES:
            return {}
        return _SETTINGS[self.source](model, self.tensors) | self.own_settings

    def num_classes(self, module: nn.Module, input_shape: tuple[int, int, int]) -> int:
        """How many classes the file's net knows; the module's number if the file does not say.

        Raises UserError as `variables`, but for tensors that do not fit.
        """
        path = class_bias(module, input_shape)
        bias = self.tensors.get(self._names(module).get(path, ""))
        return module.num_classes if bias is None else bias.size

    def _names(self, module: nn.Module) -> dict[tuple[str, ...], str]:
        """Their name of each leaf of the module's variables; by a list of names, of params only."""
        if self.source == _BY_NAMES:
            return {("params", *name.split("/")): key for name, key in self.names.items()}
        if self.source == "keras":
            entries = keras.name_map(module, self.tensors)
        else:
            sources = {"caffe": caffe, "timm": timm, "torchvision": torchvision}
            entries = sources[self.source].name_map(module)
        return {entry.path: entry.key for entry in entries if entry.path}

    def variables(self, module: nn.Module, input_shape: tuple[int, int, int]) -> dict[str, Any]:
        """`module`'s variables {"params": ..., "batch_stats": ...} with the weights, float32.

        input_shape: (height, width, channels) of an image. Raises UserError, one line, for a module
        that the source lacks or that computes something else, and for tensors that do not fit.
        """
        if self.source == _BY_NAMES:
            last = self.path.suffix.lower() in files.HDF5
            return names_lib.variables(module, self.tensors, input_shape, self.names, last)
        if self.source == "caffe":
            return caffe.variables(module, self.tensors, input_shape, self.layers)
        if self.source == "keras":
            return keras.variables(module, self.tensors, input_shape)
        source = timm if self.source == "timm" else torchvision
        return load(module, source.name_map(module), self.tensors, input_shape)


def read(path: pathlib.Path, names: pathlib.Path | None = None) -> Foreign:
    """A weight file with one of `SUFFIXES`; names: a JSON file that says what its tensors are.

    Raises UserError, one line, for a file that is missing, damaged or of another kind.
    """
    path = pathlib.Path(path)
    given = names_lib.read(pathlib.Path(names)) if names else None
    tensors, layers = files.read(path)
    if given is not None:
        source = _BY_NAMES
    elif path.suffix.lower() == ".caffemodel":
        source = "caffe"
    elif path.suffix.lower() in files.HDF5:
        source = "keras"
    else:
        source = "timm" if timm.recognises(tensors) else "torchvision"
    settings, class_names = files.about(path)
    return Foreign(path, source, tensors, given, layers, settings, class_names)
