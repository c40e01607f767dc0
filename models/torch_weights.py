"""Weights to and from torchvision's state dicts, without torch: names, layouts, and both checked.

`name_map` says which tensor of a net is called what by torchvision, and how its axes lie there;
both directions go through that list, so that a round trip is exact to the bit.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from errors import UserError
from models import alexnet, googlenet, resnet, vgg


class Entry(NamedTuple):
    """A tensor in both worlds.

    path: of the leaf in our variables, collection first: ("params", "conv1", "kernel"). None for
        torch's count of BatchNorm's updates, which has no counterpart here: ignored on the way in,
        0 on the way out.
    key: in torch's state dict.
    layout: "vector" (the same in both); "conv": ours [k, k, in, out], torch's [out, in, k, k];
        "linear": ours [side, side, c, out], or that flattened to [side * side * c, out], torch's
        [out, c * side * side].
    side: of the map that a linear layer sees; 1 where it sees a vector.
    """

    path: tuple[str, ...] | None
    key: str
    layout: str = "vector"
    side: int = 1

    def torch_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """torch's shape of a tensor that has `shape` here."""
        if self.layout == "vector":
            return shape
        if self.layout == "conv":
            return (shape[3], shape[2], *shape[:2])
        return (shape[-1], math.prod(shape[:-1]))

    def to_torch(self, leaf) -> np.ndarray:
        """A copy of our tensor in torch's layout."""
        if self.layout == "vector":
            return np.array(leaf)
        shape = leaf.shape
        spread = np.asarray(leaf).reshape(*self._sides(shape), -1, shape[-1])
        return np.array(spread.transpose(3, 2, 0, 1), order="C").reshape(self.torch_shape(shape))

    def from_torch(self, tensor, shape: tuple[int, ...]) -> np.ndarray:
        """A copy of torch's tensor, float32, in our layout, where it has `shape`."""
        if self.layout == "vector":
            return np.array(tensor, np.float32)
        spread = np.asarray(tensor).reshape(shape[-1], -1, *self._sides(shape))
        return np.array(spread.transpose(2, 3, 1, 0), np.float32, order="C").reshape(shape)

    def _sides(self, shape) -> tuple[int, int]:
        return shape[:2] if self.layout == "conv" else (self.side, self.side)


def _layer(path, name, layout="conv", side=1, bias=True) -> Iterator[Entry]:
    yield Entry(("params", *path, "kernel"), f"{name}.weight", layout, side)
    if bias:
        yield Entry(("params", *path, "bias"), f"{name}.bias")


def _batch_norm(path, name) -> Iterator[Entry]:
    yield Entry(("params", *path, "scale"), f"{name}.weight")
    yield Entry(("params", *path, "bias"), f"{name}.bias")
    yield Entry(("batch_stats", *path, "mean"), f"{name}.running_mean")
    yield Entry(("batch_stats", *path, "var"), f"{name}.running_var")
    yield Entry(None, f"{name}.num_batches_tracked")


def _alexnet(module) -> Iterator[Entry]:
    for number, place in enumerate((0, 3, 6, 8, 10), 1):
        yield from _layer((f"conv{number}",), f"features.{place}")
    for name, place, side in (("fc6", 1, 6), ("fc7", 4, 1), ("fc8", 6, 1)):
        yield from _layer((name,), f"classifier.{place}", "linear", side)


def _vgg(module) -> Iterator[Entry]:
    place = 0
    for block, sizes in enumerate(vgg.VARIANTS[module.variant], 1):
        for number in range(1, len(sizes) + 1):
            yield from _layer((f"conv{block}_{number}",), f"features.{place}")
            place += 2  # a ReLU lies between
        place += 1  # the pooling
    for name, place, side in (("fc6", 0, 7), ("fc7", 3, 1), ("fc8", 6, 1)):
        yield from _layer((name,), f"classifier.{place}", "linear", side)


def _googlenet(module) -> Iterator[Entry]:
    def unit(path, name):
        yield from _layer(path, f"{name}.conv", bias=False)
        yield from _batch_norm((*path[:-1], f"{path[-1]}_bn"), f"{name}.bn")

    for number, name in enumerate(("conv1", "conv2_reduce", "conv2"), 1):
        yield from unit((name,), f"conv{number}")
    branches = {
        "1x1": "branch1",
        "3x3_reduce": "branch2.0",
        "3x3": "branch2.1",
        "5x5_reduce": "branch3.0",
        "5x5": "branch3.1",
        "pool_proj": "branch4.1",
    }
    for row in googlenet.MODULES:
        for name, branch in branches.items():
            yield from unit((f"inception_{row}", name), f"inception{row}.{branch}")
    for head in ("aux1", "aux2") if module.auxiliary_heads else ():
        yield from unit((head, "conv"), f"{head}.conv")
        yield from _layer((head, "fc1"), f"{head}.fc1", "linear", side=4)
        yield from _layer((head, "fc2"), f"{head}.fc2", "linear")
    yield from _layer(("fc",), "fc", "linear")


def _resnet(module) -> Iterator[Entry]:
    stages, bottleneck = resnet.DEPTHS[module.depth]
    yield from _layer(("conv1",), "conv1", bias=False)
    yield from _batch_norm(("bn1",), "bn1")
    for stage, blocks in enumerate(stages):
        for block in range(blocks):
            path, name = f"conv{stage + 2}_{block + 1}", f"layer{stage + 1}.{block}"
            for n in range(1, 4 if bottleneck else 3):
                yield from _layer((path, f"conv{n}"), f"{name}.conv{n}", bias=False)
                yield from _batch_norm((path, f"bn{n}"), f"{name}.bn{n}")
            if block == 0 and (stage > 0 or bottleneck):
                yield from _layer((path, "projection"), f"{name}.downsample.0", bias=False)
                yield from _batch_norm((path, "projection_bn"), f"{name}.downsample.1")
    yield from _layer(("fc",), "fc", "linear")


# The nets that torchvision has, and the options with which ours compute what it computes.
_ONE_TOWER = {"variant": ["one_tower"]}
_NETS = {
    alexnet.AlexNet: (_alexnet, {**_ONE_TOWER, "image_size": [224]}),
    vgg.VGG: (_vgg, {"variant": ["A", "B", "D", "E"], "image_size": [224]}),
    googlenet.GoogLeNet: (_googlenet, {"normalisation": ["batch_norm"]}),
    resnet.ResNet: (_resnet, {"shortcut": ["B"]}),
}


def name_map(module: nn.Module) -> list[Entry]:
    """Every tensor of `module` with its name and layout in torchvision's net of that kind.

    Raises UserError where torchvision has no such net: another model, variant, activation or
    regulariser, or dropout scaled at test time, whose weights are larger by 1 / (1 - rate).
    """
    if type(module) not in _NETS:
        raise UserError(
            f"torchvision has no {type(module).__name__}: weights are exchanged for"
            f" {', '.join(net.__name__ for net in _NETS)}"
        )
    entries, options = _NETS[type(module)]
    options = {
        **options,
        "activation": ["relu"],
        "regulariser": ["none", "dropout"],
        "lrn": ["published", "none"],  # published are none in these nets
        "pooling": ["published"],
    }
    if module.regulariser == "dropout":
        options["dropout_scaling"] = ["train"]
    if isinstance(module, resnet.ResNet) and resnet.DEPTHS[module.depth][1]:
        options["stride"] = ["v1.5"]
    for option, allowed in options.items():
        value = getattr(module, option)
        if value not in allowed:
            raise UserError(
                f"model.{option}={value}: torchvision's {type(module).__name__} has"
                f" {' or '.join(map(str, allowed))}"
            )
    return list(entries(module))


def from_torchvision(
    module: nn.Module, state_dict: Mapping[str, np.ndarray], input_shape=(224, 224, 3)
) -> dict[str, Any]:
    """`module`'s variables {"params": ..., "batch_stats": ...} with torchvision's weights.

    state_dict: name -> array, all of torchvision's net of the same kind. input_shape: (height,
    width, channels) of an image. Raises UserError for a net that torchvision lacks, and, naming
    them, for tensors that are missing, unexpected or of another shape.
    """
    return load(module, name_map(module), state_dict, input_shape)


def to_torchvision(
    module: nn.Module, variables: Mapping[str, Any], input_shape=(224, 224, 3)
) -> dict[str, np.ndarray]:
    """The state dict of torchvision's net with `module`'s variables; it loads with strict=True.

    Errors as in `from_torchvision`, with our names of the tensors.
    """
    return dump(module, name_map(module), variables, input_shape)


def load(module, entries: Sequence[Entry], state_dict, input_shape) -> dict[str, Any]:
    """`from_torchvision` with any list of names."""
    shapes, ours = _shapes(module, input_shape), [e for e in entries if e.path]
    counts = {e.key for e in entries if not e.path}
    _check(
        {e.key: e.torch_shape(shapes[e.path]) for e in ours},
        {key: np.shape(tensor) for key, tensor in state_dict.items() if key not in counts},
    )
    return unflatten_dict({e.path: e.from_torch(state_dict[e.key], shapes[e.path]) for e in ours})


def dump(module, entries: Sequence[Entry], variables, input_shape) -> dict[str, np.ndarray]:
    """`to_torchvision` with any list of names."""
    leaves = flatten_dict(variables)
    _check(
        {"/".join(path): shape for path, shape in _shapes(module, input_shape).items()},
        {"/".join(path): np.shape(leaf) for path, leaf in leaves.items()},
    )
    return {
        e.key: e.to_torch(leaves[e.path]) if e.path else np.zeros((), np.int64) for e in entries
    }


def _shapes(module, input_shape) -> dict[tuple[str, ...], tuple[int, ...]]:
    """The shape of every leaf of `module`'s variables, by path, from abstract evaluation."""
    images = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
    keys = {name: jax.random.key(0) for name in ("params", "dropout")}
    variables = jax.eval_shape(lambda x: module.init(keys, x, train=False), images)
    return {path: leaf.shape for path, leaf in flatten_dict(variables).items()}


def _check(expected: Mapping[str, tuple], found: Mapping[str, tuple]) -> None:
    """Raises UserError, one line, unless both have the same names and shapes."""
    wrong = {
        "missing": [name for name in expected if name not in found],
        "unexpected": [name for name in found if name not in expected],
        "misshapen": [
            f"{name} {list(found[name])}, not {list(shape)}"
            for name, shape in expected.items()
            if name in found and found[name] != shape
        ],
    }
    parts = [
        f"{len(names)} {kind} ({'; '.join(names[:3])}{'; ...' if len(names) > 3 else ''})"
        for kind, names in wrong.items()
        if names
    ]
    if parts:
        raise UserError(f"the weights do not fit the model: {', '.join(parts)}")
