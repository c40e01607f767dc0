"""Reads weight files, from a folder or the hub, as {name: array}. No code in a file is run."""

import json
import pathlib
import re
from typing import Any

import numpy as np

from errors import UserError, reported
from models.pretrained import caffemodel, hdf5

SUFFIXES = (".safetensors", ".pth", ".pt", ".caffemodel", ".h5", ".hdf5")
HDF5 = (".h5", ".hdf5")
HUB = "hub:"
_HUB_FILE = "model.safetensors"
_CANON_KEY = "canon"  # in the metadata of the files that --mode=export writes


def is_pretrained(path: pathlib.Path) -> bool:
    """Whether a path has the suffix of a weight file and is not a file that Canon exported.

    False for folders, and for a .safetensors file that cannot be opened: the reader of Canon's
    files then says what is wrong with it.
    """
    path = pathlib.Path(path)
    if path.suffix.lower() not in SUFFIXES or path.is_dir():
        return False
    try:
        return _CANON_KEY not in _texts(path)
    except Exception:  # of safetensors, and of the system
        return False


def _texts(path: pathlib.Path) -> dict[str, str]:
    """The metadata of a .safetensors file; {} for other files."""
    if path.suffix.lower() != ".safetensors":
        return {}
    import safetensors

    with safetensors.safe_open(path, framework="numpy") as file:
        return file.metadata() or {}


def read(path: pathlib.Path) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The tensors of a file, and the names of its layers in order (Caffe; otherwise ()).

    Raises UserError, one line, for a file that is missing, damaged, of another kind or contains
    code, and if the package that reads it is not installed.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path} is not a weight file: give one of {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise UserError(f"no weight file {path}: check the path")
    suffix = path.suffix.lower()
    advice = f"it is damaged, or is not a {suffix} file of weights"
    with reported(f"cannot read the weights in {path}", advice):
        if suffix == ".caffemodel":
            return caffemodel.read(path)
        if suffix in HDF5:
            return hdf5.read(path), ()
        return (_safetensors if suffix == ".safetensors" else _torch)(path), ()


def metadata(path: pathlib.Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The settings and class names in a file that Canon exported with torchvision's names.

    ({}, ()) for any other file. Raises UserError for metadata that Canon does not write.
    """
    texts = _texts(path)
    if "settings" not in texts or "class_names" not in texts:
        return {}, ()
    advice = "write the file again with --mode=export --format=torchvision"
    damage = (ValueError, TypeError, AttributeError, RecursionError)
    with reported(f"cannot read the settings in {path}", advice, *damage):
        settings, names = (json.loads(texts[key]) for key in ("settings", "class_names"))
        known = all(name.startswith(("preprocess.", "view.")) for name in settings)
        if not known or not all(isinstance(name, str) for name in names):
            raise ValueError("Canon did not write them")
        return dict(settings), tuple(names)


def _safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    import ml_dtypes  # noqa: F401  (so that NumPy knows bfloat16)
    import safetensors.numpy

    tensors = safetensors.numpy.load_file(path)
    return {name: _widened(name, array) for name, array in tensors.items()}


def _widened(name: str, array: np.ndarray) -> np.ndarray:
    """The array; as float32 if it has half precision, which float32 represents exactly."""
    if array.dtype.kind == "c":
        raise ValueError(f"{name} holds complex numbers")
    is_small = array.dtype.itemsize < 4 and array.dtype.kind not in "iub"
    return array.astype(np.float32) if is_small else array


def _torch(path: pathlib.Path) -> dict[str, np.ndarray]:
    """A state dict, alone or as "state_dict" or "model" of a checkpoint.

    The prefix "module." of all names is removed.
    """
    try:
        import torch
    except ImportError:
        raise UserError(
            f"{path} needs torch: python -m pip install torch, or convert it to .safetensors"
            " on a machine that has torch"
        ) from None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        if type(error).__name__ != "UnpicklingError":
            raise
        raise UserError(
            f"{path} is damaged, or holds more than tensors, which Canon does not read: save only"
            " the tensors, with torch.save(model.state_dict(), FILE)"
        ) from error
    for wrapper in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
            break
    if not isinstance(content, dict) or not content:
        raise ValueError("it has no dict of tensors")
    tensors = {name: _from_torch(torch, name, value) for name, value in content.items()}
    prefix = "module." if all(name.startswith("module.") for name in tensors) else ""
    return {name.removeprefix(prefix): value for name, value in tensors.items()}


def _from_torch(torch, name: Any, value: Any) -> np.ndarray:
    if not isinstance(name, str) or not isinstance(value, torch.Tensor):
        raise ValueError(f"{str(name)[:40]} is not a tensor")
    value = value.detach()
    if value.dtype == torch.bfloat16:  # NumPy does not have bfloat16; float32 represents it exactly
        value = value.float()
    return _widened(name, value.numpy())


def locate(name: str) -> pathlib.Path:
    """The path of a weight file.

    name: a path, or "hub:ORG/NAME" or "hub:ORG/NAME@REVISION": the model.safetensors of a model on
    the hub, which is downloaded once. Raises UserError, one line, for another name with "hub:", if
    huggingface_hub is not installed, and if the download fails.
    """
    if not name.startswith(HUB):
        return pathlib.Path(name)
    match = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", name.removeprefix(HUB))
    if not match:
        raise UserError(
            f"{name} is not the name of a model on the hub: write {HUB}ORG/NAME or"
            f" {HUB}ORG/NAME@REVISION"
        )
    try:
        import huggingface_hub
    except ImportError:
        raise UserError(
            f"{name} needs huggingface_hub: python -m pip install huggingface_hub, or give a file"
        ) from None
    repository, revision = match.groups()
    advice = "download it by other means, and give the path of the file"
    with reported(f"cannot get {_HUB_FILE} of {name}", advice):
        file = huggingface_hub.hf_hub_download(repository, _HUB_FILE, revision=revision)
        return pathlib.Path(file)
