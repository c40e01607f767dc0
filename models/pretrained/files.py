"""Weight files of other frameworks, from a folder or the hub, to {name: array}; none is run."""

import json
import pathlib
import re
from typing import Any

import numpy as np

from errors import UserError, one_line
from models.pretrained import caffemodel, hdf5

SUFFIXES = (".safetensors", ".pth", ".pt", ".caffemodel", ".h5", ".hdf5")
HDF5 = (".h5", ".hdf5")
HUB = "hub:"
_HUB_FILE = "model.safetensors"
_OWN_KEY = "canon"  # in the metadata of the files that --mode=export writes


def is_foreign(path: pathlib.Path) -> bool:
    """Whether a file is of another framework, by its suffix and, for .safetensors, its metadata.

    False for folders, for Canon's own files, and for a .safetensors file that cannot be opened: the
    reader of Canon's own says what is wrong with it.
    """
    path = pathlib.Path(path)
    if path.suffix.lower() not in SUFFIXES or path.is_dir():
        return False
    if path.suffix.lower() != ".safetensors":
        return True
    import safetensors

    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return _OWN_KEY not in (file.metadata() or {})
    except Exception:  # safetensors' own kinds, and the system's
        return False


def read(path: pathlib.Path) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The tensors of a file, and the order of its layers where the file has one (Caffe's).

    Raises UserError, one line, for a missing, damaged or foreign file, for one that holds code, and
    where the package that reads it is not installed.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path} is no weight file: give one of {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise UserError(f"no weight file {path}: give an existing one")
    try:
        if path.suffix.lower() == ".caffemodel":
            return caffemodel.read(path)
        if path.suffix.lower() in HDF5:
            return hdf5.read(path), ()
        if path.suffix.lower() == ".safetensors":
            return _safetensors(path), ()
        return _torch(path), ()
    except UserError:
        raise
    except Exception as error:  # the many kinds of five readers
        raise UserError(
            f"cannot read the weights in {path} ({one_line(error)}): it is damaged, or no"
            f" {path.suffix.lower()} file of weights"
        ) from error


def about(path: pathlib.Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The settings and class names in the metadata of a file that Canon wrote for torchvision.

    ({}, ()) for any other file. Raises UserError for metadata that Canon does not write.
    """
    if path.suffix.lower() != ".safetensors":
        return {}, ()
    import safetensors

    with safetensors.safe_open(path, framework="numpy") as file:
        metadata = file.metadata() or {}
    if "settings" not in metadata or "class_names" not in metadata:
        return {}, ()
    try:
        settings, names = (json.loads(metadata[key]) for key in ("settings", "class_names"))
        fields = all(name.startswith(("preprocess.", "view.")) for name in settings)
        if not fields or not all(isinstance(name, str) for name in names):
            raise ValueError("they are none of Canon's")
        return dict(settings), tuple(names)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"cannot read the settings in {path} ({one_line(error)}): write the file again with"
            " --mode=export --format=torchvision"
        ) from error


def _safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    import ml_dtypes  # noqa: F401  (so that NumPy knows bfloat16)
    import safetensors.numpy

    tensors = safetensors.numpy.load_file(path)
    return {name: _widened(name, array) for name, array in tensors.items()}


def _widened(name: str, array: np.ndarray) -> np.ndarray:
    """Half precision as float32, which holds it exactly."""
    if array.dtype.kind == "c":
        raise ValueError(f"{name} holds complex numbers")
    is_small = array.dtype.itemsize < 4 and array.dtype.kind not in "iub"
    return array.astype(np.float32) if is_small else array


def _torch(path: pathlib.Path) -> dict[str, np.ndarray]:
    """A state dict, bare or as "state_dict" or "model" of a checkpoint, without "module."."""
    try:
        import torch
    except ImportError:
        raise UserError(
            f"{path} needs torch: python -m pip install torch, or convert it to .safetensors"
            " where torch is"
        ) from None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        if type(error).__name__ != "UnpicklingError":
            raise
        raise UserError(
            f"{path} is damaged or holds more than tensors, which may be code and is not run: where"
            " it comes from, torch.save(model.state_dict(), ...)"
        ) from error
    for wrapper in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
            break
    if not isinstance(content, dict) or not content:
        raise ValueError("it holds no dict of tensors")
    tensors = {name: _from_torch(torch, name, value) for name, value in content.items()}
    prefix = "module."
    if all(name.startswith(prefix) for name in tensors):
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def _from_torch(torch, name: Any, value: Any) -> np.ndarray:
    if not isinstance(name, str) or not isinstance(value, torch.Tensor):
        raise ValueError(f"{str(name)[:40]} is no tensor")
    value = value.detach()
    if value.dtype == torch.bfloat16:  # which NumPy lacks, and float32 holds exactly
        value = value.float()
    return _widened(name, value.numpy())


def locate(name: str) -> pathlib.Path:
    """The file of a name: a path or, for "hub:ORG/NAME" or "hub:ORG/NAME@REVISION", a hub model's
    model.safetensors, which is downloaded once.

    Raises UserError, one line, for a name that is none, without huggingface_hub, and where the
    download fails.
    """
    if not name.startswith(HUB):
        return pathlib.Path(name)
    match = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", name.removeprefix(HUB))
    if not match:
        raise UserError(f"{name} names no model of the hub: write {HUB}ORG/NAME or with @REVISION")
    try:
        import huggingface_hub
    except ImportError:
        raise UserError(
            f"{name} needs huggingface_hub: python -m pip install huggingface_hub, or give a file"
        ) from None
    repository, revision = match.groups()
    try:
        return pathlib.Path(
            huggingface_hub.hf_hub_download(repository, _HUB_FILE, revision=revision)
        )
    except Exception as error:  # the network's, the system's and the hub's many kinds
        raise UserError(
            f"cannot get {_HUB_FILE} of {name} ({one_line(error)}): download it elsewhere, and give"
            " the file"
        ) from error
