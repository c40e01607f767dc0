"""Writes small weight files of Caffe and Keras, for tests, without Canon's readers.

Caffe's by hand, byte by byte: field numbers are those of its public schema, caffe.proto, and the
wire format that of protocol buffers. Keras's with h5py.
"""

import collections
import io
import zipfile

import numpy as np

V1_TYPES = {"Convolution": 4, "InnerProduct": 14, "ReLU": 18, "Pooling": 17, "LRN": 15}


def varint(number: int) -> bytes:
    out = b""
    while number >= 128:
        out, number = out + bytes([number % 128 + 128]), number // 128
    return out + bytes([number])


def whole(field: int, number: int) -> bytes:
    return varint(field * 8) + varint(number)


def block(field: int, content: bytes | str) -> bytes:
    content = content.encode() if isinstance(content, str) else content
    return varint(field * 8 + 2) + varint(len(content)) + content


def blob(array: np.ndarray, four: bool = False) -> bytes:
    """A BlobProto. four: with its shape as in old files, filled up to four numbers."""
    array = np.asarray(array)
    double = array.dtype == np.float64
    data = block(8 if double else 5, array.astype("<f8" if double else "<f4").tobytes())
    if four:
        sizes = (1,) * (4 - array.ndim) + array.shape
        return b"".join(whole(n, size) for n, size in enumerate(sizes, 1)) + data
    return data + block(7, block(1, b"".join(map(varint, array.shape))))


def caffemodel(layers, v1: bool = False) -> bytes:
    """A NetParameter. layers: (name, type, arrays) in order. v1: the older kind of layers."""
    out = block(1, "a net") + block(3, "data") + whole(4, 1) + whole(4, 3)
    for name, kind, arrays in layers:
        if v1:
            content = block(2, "below") + block(3, "above") + block(4, name)
            content += whole(5, V1_TYPES[kind])
            content += b"".join(block(6, blob(array, four=True)) for array in arrays)
            out += block(2, content)
        else:
            content = block(1, name) + block(2, kind) + block(3, "below") + block(4, "above")
            content += b"".join(block(7, blob(array)) for array in arrays)
            out += block(100, content)
    return out


def write_keras(path, layers, group: str = "", style: str = "{layer}/{weight}:0"):
    """A weight file with lists of names. layers: {layer: {weight: array}}. group: above them."""
    import h5py

    with h5py.File(path, "w") as file:
        top = file.create_group(group) if group else file
        top.attrs["layer_names"] = [name.encode() for name in layers]
        for layer, weights in layers.items():
            inner = top.create_group(layer)
            names = [style.format(layer=layer, weight=weight) for weight in weights]
            inner.attrs["weight_names"] = np.array([name.encode() for name in names], dtype="S")
            for name, array in zip(names, weights.values(), strict=True):
                inner[name] = array


def write_keras_3(path, layers, with_names: bool = True):
    """A file of Keras 3: of weights or, with the suffix .keras, a whole model.

    layers: (class, name, arrays) in order. Keras numbers the layers of each class. It stored their
    names only from some version on.
    """
    import h5py

    content, counts = io.BytesIO(), collections.Counter()
    with h5py.File(content, "w") as file:
        for kind, name, arrays in layers:
            number, counts[kind] = counts[kind], counts[kind] + 1
            group = file.create_group(f"layers/{kind}{f'_{number}' if number else ''}/vars")
            if with_names:
                group.attrs["name"] = name
            for index, array in enumerate(arrays):
                group[str(index)] = array
        file["layers/dropout/seed_generator/vars/0"] = np.zeros(2, np.uint32)
        file["optimizer/vars/0"] = np.int64(3)
    if path.suffix == ".keras":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("config.json", "{}")
            archive.writestr("model.weights.h5", content.getvalue())
    else:
        path.write_bytes(content.getvalue())
