"""Reads .caffemodel files, with the few fields of Caffe's public schema that weights need.

The schema is BVLC/caffe's src/caffe/proto/caffe.proto; other fields are skipped. Packed numbers are
declared as bytes, which have the same encoding, so that Python does not decode half a gigabyte of
numbers one by one.
"""

import functools
import math
import pathlib

import numpy as np

# Values of the enumeration in V1LayerParameter, the older form of a layer.
_V1_TYPES = {4: "Convolution", 14: "InnerProduct"}
# Names of a layer's blobs, in their order.
_ROLES = {
    "Convolution": ("weight", "bias"),
    "InnerProduct": ("weight", "bias"),
    "BatchNorm": ("mean", "variance", "factor"),
    "Scale": ("weight", "bias"),
}
# message -> fields: (name, number, type of FieldDescriptorProto or another message). A repeated
# field has a list around its type.
_SCHEMA = {
    "BlobShape": [("dim", 1, ["INT64"])],
    "BlobProto": [
        *((name, n, "INT64") for n, name in enumerate(("num", "channels", "height", "width"), 1)),
        *(("data", 5, ["BYTES"]), ("shape", 7, "BlobShape"), ("double_data", 8, ["BYTES"])),
    ],
    "V1LayerParameter": [("name", 4, "STRING"), ("type", 5, "INT32"), ("blobs", 6, ["BlobProto"])],
    "LayerParameter": [("name", 1, "STRING"), ("type", 2, "STRING"), ("blobs", 7, ["BlobProto"])],
    "NetParameter": [("layers", 2, ["V1LayerParameter"]), ("layer", 100, ["LayerParameter"])],
}


@functools.cache
def schema(message: str = "NetParameter"):
    """The protobuf class of a message of `_SCHEMA`."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(
        name="canon_caffe.proto", package="canon_caffe", syntax="proto2"
    )
    field_type = descriptor_pb2.FieldDescriptorProto
    for name, rows in _SCHEMA.items():
        declared = file.message_type.add(name=name)
        for field, number, kind in rows:
            label = field_type.LABEL_OPTIONAL
            if isinstance(kind, list):
                (kind,), label = kind, field_type.LABEL_REPEATED
            added = declared.field.add(name=field, number=number, label=label)
            if kind in _SCHEMA:
                added.type, added.type_name = field_type.TYPE_MESSAGE, f".canon_caffe.{kind}"
            else:
                added.type = getattr(field_type, f"TYPE_{kind}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"canon_caffe.{message}"))


def read(path: pathlib.Path) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The tensors of a .caffemodel, and the names of all its layers in order.

    Names: "conv1.weight" [out, in, k, k] (linear: [out, in]), "conv1.bias"; "bn.mean",
    "bn.variance", already divided by BatchNorm's third blob, the number of updates of which they
    are sums; "scale.weight", "scale.bias"; "NAME.0", "NAME.1" in other layers.
    Raises ValueError or protobuf's errors for another or a damaged file.
    """
    network = schema()()
    network.ParseFromString(path.read_bytes())
    layers = [*network.layers, *network.layer]
    tensors = {}
    for layer in layers:
        kind = _V1_TYPES.get(layer.type, "") if isinstance(layer.type, int) else layer.type
        roles = _ROLES.get(kind, ())
        blobs = {}
        for number, blob in enumerate(layer.blobs):
            role = roles[number] if number < len(roles) else str(number)
            blobs[role] = _squeezed(_array(blob, layer.name), kind, role)
        if kind == "BatchNorm":
            blobs = _averaged(blobs, layer.name)
        for role, array in blobs.items():
            name = f"{layer.name}.{role}"
            if name in tensors:
                raise ValueError(f"it has two layers {layer.name}")
            tensors[name] = array
    if not tensors:
        raise ValueError("it has no layers with weights")
    return tensors, tuple(layer.name for layer in layers)


def _array(blob, layer: str) -> np.ndarray:
    """A blob's numbers in its shape, which is a list of sizes or, in old files, four numbers."""
    data = np.frombuffer(b"".join(blob.data), "<f4")
    if not data.size:
        data = np.frombuffer(b"".join(blob.double_data), "<f8")
    old = (blob.num, blob.channels, blob.height, blob.width)
    sizes = tuple(blob.shape.dim) if blob.HasField("shape") else old
    if min(sizes, default=1) < 0 or math.prod(sizes) != data.size:
        raise ValueError(f"layer {layer} has {data.size} numbers in the shape {list(sizes)}")
    return data.reshape(sizes)


def _squeezed(array: np.ndarray, kind: str, role: str) -> np.ndarray:
    """The array without the leading axes of length 1 that old files add up to four axes."""
    axes = {"Convolution": 4, "InnerProduct": 2}.get(kind, 1) if role == "weight" else 1
    while array.ndim > axes and array.shape[0] == 1:
        array = array[0]
    return array


def _averaged(blobs: dict[str, np.ndarray], layer: str) -> dict[str, np.ndarray]:
    """BatchNorm's statistics: the sums in the file by the third blob (0: no updates)."""
    factor = blobs.pop("factor", None)
    if factor is None or factor.size != 1 or not np.isfinite(factor).all():
        raise ValueError(f"BatchNorm layer {layer} has no factor for its statistics")
    scale = 0.0 if factor.item() == 0 else 1 / factor.item()
    return {role: (array * scale).astype(array.dtype) for role, array in blobs.items()}
