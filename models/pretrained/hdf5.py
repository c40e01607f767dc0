"""Reads the HDF5 weight files of Keras, with h5py, which only these files need."""

import itertools
import pathlib
import re
from collections.abc import Iterator

import numpy as np

from errors import UserError

# Names of a layer's weights in the versions of Keras -> their names here. running_std, of Keras 1,
# holds the variance in spite of its name.
_ROLES = {
    "kernel": "kernel",
    "W": "kernel",
    "bias": "bias",
    "b": "bias",
    "gamma": "gamma",
    "beta": "beta",
    "moving_mean": "mean",
    "running_mean": "mean",
    "moving_variance": "variance",
    "running_std": "variance",
}
# Compression of a file's numbers hardly reaches this.
_LARGEST_RATIO = 1000


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The tensors of a Keras weight file, or of a saved model (`model_weights`).

    Names: "conv1.kernel" [k, k, in, out], "fc.kernel" [in, out], "conv1.bias", "bn.gamma",
    "bn.beta", "bn.mean", "bn.variance". Other weights, and those of a layer in which two have the
    same name, keep their names in the file, "layer/weight". In a file without Keras's lists of
    names the arrays are named by their places, "group/array". Raises UserError if h5py is not
    installed, and h5py's errors, ValueError or KeyError for another or a damaged file.
    """
    try:
        import h5py
    except ImportError:
        raise UserError(
            f"{path} needs h5py: python -m pip install h5py (or '.[weights]')"
        ) from None
    with h5py.File(path, "r") as file:
        limit = _LARGEST_RATIO * path.stat().st_size
        top = file.get("model_weights", file)
        layers = _names(top, "layer_names")
        arrays = dict(_by_layer(h5py, top, layers) if layers else _by_place(h5py, top))
        if not arrays:
            raise ValueError("it holds no arrays")
        for name, dataset in arrays.items():
            # Virtual and external data sets, as links, would read other files.
            if dataset.is_virtual or dataset.external:
                raise ValueError(f"{name} is stored in another file")
            if dataset.nbytes > limit:
                raise ValueError(
                    f"{name} claims to have {dataset.nbytes} bytes, more than the file can hold"
                )
            if dataset.dtype.kind not in "fiu":
                raise ValueError(f"{name} is not an array of numbers")
        return {name: np.asarray(dataset[()]) for name, dataset in arrays.items()}


def _by_layer(h5py, top, layers: list[str]) -> Iterator[tuple[str, object]]:
    for layer in layers:
        group = _inside(h5py, top, layer)
        names = _names(group, "weight_names")
        keys = [_key(layer, name) for name in names]
        if len(set(keys)) < len(keys):  # a layer that holds layers
            keys = [f"{layer}/{name}" for name in names]
        for key, name in zip(keys, names, strict=True):
            dataset = _inside(h5py, group, name)
            if not isinstance(dataset, h5py.Dataset):
                raise ValueError(f"{layer}/{name} is not an array")
            yield key, dataset


def _by_place(h5py, top) -> list[tuple[str, object]]:
    members = []
    # `visititems` does not follow links to other files.
    top.visititems(lambda name, item: members.append((name, item)))
    return [(name, item) for name, item in members if isinstance(item, h5py.Dataset)]


def _inside(h5py, group, name: str):
    """The member of a group, by its path. Raises ValueError for a link to another file."""
    for part in name.split("/"):
        if isinstance(group.get(part, getlink=True), h5py.ExternalLink):
            raise ValueError(f"{name} is stored in another file")
        group = group[part]
    return group


def _names(group, attribute: str) -> list[str]:
    """A list of names among a group's attributes. Keras splits a long list into numbered pieces."""
    numbered = (f"{attribute}{number}" for number in itertools.count())
    pieces = itertools.takewhile(group.attrs.__contains__, numbered)
    pieces = [attribute] if attribute in group.attrs else pieces
    names = [name for piece in pieces for name in group.attrs[piece]]
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]


def _key(layer: str, name: str) -> str:
    """ "conv1.kernel" of "conv1/kernel:0" or "conv1_W_1:0"; else "layer/name"."""
    last = name.split("/")[-1].split(":")[0].removeprefix(f"{layer}_")
    role = _ROLES.get(last) or _ROLES.get(re.sub(r"_\d+$", "", last))
    return f"{layer}.{role}" if role else f"{layer}/{name}"
