"""Reads the HDF5 weight files of Keras, with h5py, which only these files need."""

import collections
import io
import itertools
import pathlib
import re
import zipfile
from collections.abc import Iterator

import numpy as np

from errors import UserError
from models.pretrained.formats import KERAS_MEMBER

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
# Of the variables of a layer in Keras 3, by the layer's class and by their number. BatchNorm with
# three variables lacks gamma or beta; which one is unknown.
_WITH_KERNEL = {1: ("kernel",), 2: ("kernel", "bias")}
_ROLES_OF_KERAS_3 = {
    "conv2d": _WITH_KERNEL,
    "dense": _WITH_KERNEL,
    "batch_normalization": {4: ("gamma", "beta", "mean", "variance")},
}
# Compression of a file's numbers hardly reaches this.
_LARGEST_RATIO = 1000


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The tensors of a Keras weight file, or of a saved model (`model_weights`, or an archive).

    Names: "conv1.kernel" [k, k, in, out], "fc.kernel" [in, out], "conv1.bias", "bn.gamma",
    "bn.beta", "bn.mean", "bn.variance". Other weights, and those of a layer in which two have the
    same name, keep their names in the file, "layer/weight". In a file without the names of layers
    the arrays are named by their places, "group/array". Raises UserError if h5py is not installed,
    and h5py's errors, ValueError or KeyError for another or a damaged file.
    """
    try:
        import h5py
    except ImportError:
        raise UserError(
            f"{path} needs h5py: python -m pip install h5py (or '.[weights]')"
        ) from None
    limit = _LARGEST_RATIO * path.stat().st_size
    with h5py.File(_content(path, limit), "r") as file:
        top = file.get("model_weights", file)
        layers = _names(top, "layer_names")
        arrays = dict(_by_layer(h5py, top, layers) if layers else _by_place(h5py, top))
        arrays = arrays if layers else _renamed(top, arrays)
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


def _content(path: pathlib.Path, limit: int) -> pathlib.Path | io.BytesIO:
    """The HDF5 file at a path: the file itself, or a member of Keras's archive."""
    if not zipfile.is_zipfile(path):
        return path
    with zipfile.ZipFile(path) as archive:
        if archive.getinfo(KERAS_MEMBER).file_size > limit:
            raise ValueError(f"{KERAS_MEMBER} claims to be larger than the file can hold")
        return io.BytesIO(archive.read(KERAS_MEMBER))


def _renamed(top, arrays: dict[str, object]) -> dict[str, object]:
    """The arrays of Keras 3 by the names of their layers, without the state of its optimizer.

    arrays: by their places, such as "layers/conv2d_3/vars/0". A name stays where the file has no
    name of the layer, where its variables are not known, and where two layers have one name.
    """
    weights = {
        place: array
        for place, array in arrays.items()
        if not place.startswith("optimizer/") and "/seed_generator/" not in place
    }
    keys = {place: _key_of_keras_3(top, place) for place in weights}
    counts = collections.Counter(keys.values())
    return {
        keys[place] if counts[keys[place]] == 1 else place: array
        for place, array in weights.items()
    }


def _key_of_keras_3(top, place: str) -> str:
    """For example, "conv1.kernel" of "layers/conv2d_3/vars/0"; the place if it has no name."""
    layer, _, number = place.rpartition("/vars/")
    roles = _ROLES_OF_KERAS_3.get(re.sub(r"_\d+$", "", layer.split("/")[-1]), ())
    variables = top[f"{layer}/vars"] if roles else None
    if not roles or "name" not in variables.attrs or len(variables) not in roles:
        return place
    return f"{variables.attrs['name']}.{roles[len(variables)][int(number)]}"


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
