"""Reads weight files, from a folder or the hub, as {name: array}. No code in a file is run."""

import json
import pathlib
import re
import zipfile
from collections.abc import Iterable
from typing import Any

import numpy as np

from errors import UserError, reported
from models.pretrained import caffemodel, formats, hdf5

HUB = "hub:"
_HUB_FILE = "model.safetensors"
_WRAPPERS = ("state_dict", "model", "model_state_dict", "net")  # of a state dict in a checkpoint
# What DataParallel, torch.compile and Lightning put before the name of every tensor.
_PREFIXES = ("module.", "_orig_mod.", "model.")
# Counts that torch's AveragedModel and thop's profile leave in state dicts. They are ignored.
_COUNTS = ("n_averaged", "total_ops", "total_params")
_CANON_KEY = "canon"  # in the metadata of the files that --mode=export writes


def is_pretrained(path: pathlib.Path) -> bool:
    """Whether a path is that of a weight file, and not of a file that Canon exported.

    A missing file is one if its suffix says so. False for folders, and for a .safetensors file that
    cannot be opened: the reader of Canon's files then says what is wrong with it.
    """
    path = pathlib.Path(path)
    try:
        is_known = not path.is_dir() and bool(formats.format_of(path))
        return is_known and _CANON_KEY not in _texts(path)
    except Exception:  # of safetensors, of damaged archives, and of the system
        return False


def _texts(path: pathlib.Path) -> dict[str, str]:
    """The metadata of a file in the format safetensors; {} for other files."""
    if formats.format_of(path) != "safetensors":
        return {}
    import safetensors

    with safetensors.safe_open(path, framework="numpy") as file:
        return file.metadata() or {}


def kind_of(path: pathlib.Path) -> str:
    """The format of a weight file, see `formats`.

    Raises UserError, one line, for a file that is missing or of another kind.
    """
    with reported(f"cannot read {path}", "check the file", OSError, zipfile.BadZipFile):
        kind = formats.format_of(path)
    if not kind:
        known = ", ".join(formats.SUFFIXES)
        raise UserError(f"{path} is not a weight file: give one of {known}")
    if not path.is_file():
        raise UserError(f"no weight file {path}: check the path")
    return kind


def read(path: pathlib.Path) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The tensors of a file, and the names of its layers in order (Caffe; otherwise ()).

    Raises UserError, one line, for a file that is missing, damaged, of another kind or contains
    code, and if the package that reads it is not installed.
    """
    kind = kind_of(path)
    advice = f"it is damaged, or is not a file of weights ({kind})"
    with reported(f"cannot read the weights in {path}", advice):
        if kind == "Caffe":
            return caffemodel.read(path)
        if kind == "Keras":
            return hdf5.read(path), ()
        readers = {"safetensors": _safetensors, "torch": _torch, formats.INDEX: _indexed}
        tensors = readers[kind](path)
        tensors = {n: array for n, array in tensors.items() if n.split(".")[-1] not in _COUNTS}
        return dict(zip(without_prefixes(tensors), tensors.values(), strict=True)), ()


def without_prefixes(names: Iterable[str]) -> list[str]:
    """Names of tensors without the prefixes that torch's wrappers add to all of them."""
    names = list(names)
    for prefix in _PREFIXES * len(_PREFIXES):  # in any order
        if all(name.startswith(prefix) for name in names):
            names = [name.removeprefix(prefix) for name in names]
    return names


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


def _indexed(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The tensors of the files that an index names; they are in its folder."""
    tensors, places = {}, shards(path)
    for shard in sorted(set(places.values())):
        file = path.with_name(shard)
        content = _safetensors(file) if kind_of(file) == "safetensors" else _torch(file)
        names = [name for name, place in places.items() if place == shard]
        missing = [name for name in names if name not in content]
        if missing:
            raise ValueError(f"{missing[0]} is not in {shard}")
        tensors |= {name: content[name] for name in names}
    return tensors


def shards(path: pathlib.Path) -> dict[str, str]:
    """{name of a tensor: name of its file} from an index. Raises ValueError for another text."""
    content = json.loads(path.read_text(encoding="utf-8"))
    files = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(files, dict) or not files:
        raise ValueError("it has no weight_map")
    for name in files.values():
        if not isinstance(name, str) or pathlib.PurePath(name).name != name:
            raise ValueError(f"{str(name)[:40]!r} is not the name of a file beside it")
    return files


def _widened(name: str, array: np.ndarray) -> np.ndarray:
    """The array; as float32 if it has half precision, which float32 represents exactly."""
    if array.dtype.kind == "c":
        raise ValueError(f"{name} holds complex numbers")
    is_small = array.dtype.itemsize < 4 and array.dtype.kind not in "iub"
    return array.astype(np.float32) if is_small else array


def _torch(path: pathlib.Path) -> dict[str, np.ndarray]:
    """A state dict, alone or in a checkpoint."""
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
    if isinstance(content, dict):
        wrapped = (content[name] for name in _WRAPPERS if isinstance(content.get(name), dict))
        content = next(wrapped, content)
    if not isinstance(content, dict) or not content:
        raise ValueError("it has no dict of tensors")
    return {name: _from_torch(torch, name, value) for name, value in content.items()}


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
    the hub, or its index and the files that it names. They are downloaded once. Raises
    UserError, one line, for another name with "hub:", if huggingface_hub is not installed, and if
    the download fails.
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

    def download(file: str) -> pathlib.Path:
        return pathlib.Path(huggingface_hub.hf_hub_download(repository, file, revision=revision))

    with reported(f"cannot get {_HUB_FILE} of {name}", advice):
        try:
            return download(_HUB_FILE)
        except Exception as error:
            if type(error).__name__ != "EntryNotFoundError":
                raise
            missing = error
        try:
            index = download(_HUB_FILE + formats.INDEX_END)
        except Exception:
            raise missing from None
        for file in sorted(set(shards(index).values())):
            download(file)
        return index
