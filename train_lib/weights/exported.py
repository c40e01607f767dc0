"""A network in one safetensors file, with everything that is needed to use it. It has no code.

Tensors: "params/conv1/kernel", "batch_stats/bn1/mean", ..., as in `TrainState.variables` (for a run
that averages its parameters, the averages), and "statistics/..." of the training set if the
preprocessing needs them. Metadata: the config, the class names, the data set's name, the step, and
a checksum of everything, which reveals damage.
"""

import dataclasses
import hashlib
import json
import pathlib
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from errors import UserError, reported
from input_pipeline.split import Info
from input_pipeline.statistics import Statistics, from_arrays
from models import sound
from train_lib import state as state_lib
from train_lib import workdir as workdir_lib

SUFFIX = ".safetensors"
VERSION = "2"  # 1 had no checksum
_CHECKSUM = "sha256"


@dataclasses.dataclass(frozen=True)
class Weights:
    """The content of a file.

    info: of the data set that the network was trained on; its image_shape may be None, unknown.
    variables: {"params": ..., "batch_stats": ...}, NumPy arrays (or their shapes, see `load`).
    """

    config: ConfigDict
    info: Info
    step: int
    variables: dict[str, Any]
    statistics: Statistics | None = None

    @property
    def class_names(self) -> list[str]:
        return list(self.info.class_names)


def with_checksum(metadata: dict[str, str], tensors: dict[str, np.ndarray]) -> dict[str, str]:
    """The metadata with a SHA-256 of themselves and of the tensors: names, shapes and values.

    The tensors' memory must be in C order.
    """
    metadata = {key: value for key, value in metadata.items() if key != _CHECKSUM}
    arrays = dict(sorted(tensors.items()))
    types = [(name, array.dtype.str, array.shape) for name, array in arrays.items()]
    digest = hashlib.sha256(json.dumps([sorted(metadata.items()), types]).encode())
    for array in arrays.values():
        digest.update(array.reshape(-1).view(np.uint8))
    return metadata | {_CHECKSUM: digest.hexdigest()}


def save(path: pathlib.Path, weights: Weights) -> None:
    """Writes a file completely or not at all. Raises OSError."""
    import safetensors.numpy

    tensors = flatten_dict(weights.variables, sep="/")
    if weights.statistics:
        tensors |= {f"statistics/{k}": v for k, v in vars(weights.statistics).items()}
    metadata = {
        "canon": VERSION,
        "config": json.dumps(weights.config.to_dict()),
        "class_names": json.dumps(weights.class_names),
        "dataset": weights.info.name,
        "step": str(weights.step),
        "image_shape": json.dumps(weights.info.image_shape),
        "train_examples": str(weights.info.train_examples),
    }
    arrays = {name: np.asarray(value, order="C") for name, value in tensors.items()}
    content = safetensors.numpy.save(arrays, with_checksum(metadata, arrays))
    workdir_lib.write_bytes(path, content)


def load(path: pathlib.Path, shapes_only: bool = False) -> Weights:
    """The content of a file that `save` wrote.

    shapes_only: True to get the shapes of the variables instead of their values. The tensors are
    then not read, so the checksum is not compared.
    Raises UserError for a missing or damaged file, and for one that Canon did not write.
    """
    import safetensors

    if not path.is_file():
        raise UserError(f"no weight file {path}: write one with --mode=export")
    # safetensors, JSON and flax raise many types of exceptions.
    with reported(f"cannot read the weight file {path}", "write it again with --mode=export"):
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("canon") != VERSION:
                raise UserError(
                    f"{path} is not a weight file of this version of Canon: write one"
                    " with --mode=export"
                )
            tensors = {
                name: tuple(file.get_slice(name).get_shape())
                if shapes_only and not name.startswith("statistics/")
                else file.get_tensor(name)
                for name in file.keys()  # noqa: SIM118
            }
        if not shapes_only and with_checksum(metadata, tensors) != metadata:
            raise ValueError("its checksum is wrong")
        weights = _read(metadata, tensors)
        if not shapes_only:
            sound.check(flatten_dict(weights.variables))
        return weights


def shapes_of(variables) -> dict[tuple, tuple[int, ...]]:
    """{path: shape} of a tree of arrays, or of shapes."""
    leaves = flatten_dict(variables).items()
    return {path: leaf if isinstance(leaf, tuple) else leaf.shape for path, leaf in leaves}


def check_fits(stored: Weights, exp, path: pathlib.Path) -> None:
    """Raises UserError unless the variables (or shapes) are those of the `Experiment`'s module."""
    expected = state_lib.variable_shapes(exp.module, exp.input_shape)
    if shapes_of(stored.variables) != shapes_of(expected):
        raise UserError(
            f"the weight file {path} does not fit the model in its config: write it again with"
            " --mode=export"
        )


def _read(metadata: dict[str, str], tensors: dict[str, Any]) -> Weights:
    """Raises ValueError, KeyError or TypeError for content that `save` does not write."""
    prefix = "statistics/"
    statistics = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    variables = {k: v for k, v in tensors.items() if not k.startswith(prefix)}
    step = int(metadata["step"])
    if not 0 <= step < 2**31:
        raise ValueError(f"its step is {step}")
    info = workdir_lib.checked_info(
        metadata["dataset"],
        json.loads(metadata.get("image_shape", "null")),
        json.loads(metadata["class_names"]),
        json.loads(metadata.get("train_examples", "0")),
    )
    config = workdir_lib.config_from_json(metadata["config"])
    statistics = from_arrays(statistics) if statistics else None
    return Weights(config, info, step, unflatten_dict(variables, sep="/"), statistics)
