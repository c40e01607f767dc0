"""The models by name. A config's `model` section is a name, a dtype and the options below."""

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from ml_collections import ConfigDict

from errors import UserError
from models import alexnet, cuda_convnet, googlenet, layers, lenet, maxout, mlp, resnet, vgg


@dataclasses.dataclass(frozen=True)
class Check:
    """A test of an option's value, and what to say where it fails."""

    holds: Callable[[Any], bool]
    what: str


def _number(kind, holds, what) -> Check:
    return Check(lambda v: isinstance(v, kind) and not isinstance(v, bool) and holds(v), what)


BOOL = (False, True)
RATE = _number((int, float), lambda v: 0 <= v < 1, "must be at least 0 and less than 1")
POSITIVE = _number((int, float), lambda v: 0 < v < 1e6, "must be a number more than 0")
ANY_NUMBER = _number((int, float), lambda v: abs(v) < 1e6, "must be a number")
COUNT = _number(int, lambda v: 1 <= v < 1e6, "must be a whole number of at least 1")
PIECES = _number(int, lambda v: 2 <= v < 1e3, "must be a whole number of at least 2")
SIZES = Check(
    lambda v: isinstance(v, tuple | list) and all(isinstance(n, int) and 0 < n < 1e9 for n in v),
    "must be a tuple of whole numbers, such as (300, 100), or () for none",
)
BATCH_NORM = ("per_device", "across_devices")

# Options of every model, see `layers.Net`.
SHARED: dict[str, tuple | Check] = {
    "activation": layers.ACTIVATIONS,
    "maxout_pieces": PIECES,
    "initializer": layers.RULES,
    "initializer_scale": POSITIVE,
    "regulariser": layers.REGULARISERS,
    "drop_rate": RATE,
    "dropout_scaling": layers.SCALINGS,
    "dropconnect_inference": layers.INFERENCES,
    "dropconnect_samples": COUNT,
    "standout_alpha": ANY_NUMBER,
    "standout_beta": ANY_NUMBER,
    "lrn": layers.LRN,
    "pooling": layers.POOLING,
}
# For nets without maps to normalise, or without local pooling.
NO_MAPS = {"lrn": ("published", "none")}
NO_POOLING = {"pooling": ("published",)}


@dataclasses.dataclass(frozen=True)
class Entry:
    """A constructor and its options beside SHARED, which these may narrow or widen."""

    constructor: type[layers.Net]
    options: Mapping[str, tuple | Check]

    def allowed(self) -> dict[str, tuple | Check]:
        return SHARED | dict(self.options)


MODELS: dict[str, Entry] = {
    "lenet5": Entry(
        lenet.LeNet5,
        {
            "subsampling": lenet.SUBSAMPLING,
            "output": lenet.OUTPUTS,
            "c3": lenet.C3,
            "pooling": ("published", "overlapping"),
        },
    ),
    "mlp": Entry(mlp.MLP, {"hidden": SIZES, "input_drop_rate": RATE} | NO_MAPS | NO_POOLING),
    "connectivity": Entry(
        mlp.Connectivity,
        {
            "connection": mlp.CONNECTIONS,
            "maps": COUNT,
            "window": COUNT,
            "bias": BOOL,
        }
        | NO_POOLING,
    ),
    "alexnet": Entry(
        alexnet.AlexNet,
        {
            "variant": tuple(alexnet.VARIANTS),
            "image_size": tuple(alexnet.IMAGE_SIZES),
            "lrn_over": alexnet.LRN_OVER,
            "bias_start": ANY_NUMBER,
        },
    ),
    "vgg": Entry(
        vgg.VGG,
        {
            "variant": tuple(vgg.VARIANTS),
            "image_size": _number(
                int, lambda v: 0 < v <= 2**16 and v % vgg.STRIDE == 0, "must be a multiple of 32"
            ),
        },
    ),
    "googlenet": Entry(
        googlenet.GoogLeNet,
        {
            "normalisation": googlenet.NORMALISATIONS,
            "auxiliary_heads": BOOL,
            "bias_start": ANY_NUMBER,
            "batch_norm": BATCH_NORM,
        },
    ),
    "resnet": Entry(
        resnet.ResNet,
        {
            "depth": tuple(resnet.DEPTHS),
            "stride": resnet.STRIDES,
            "pool1_padding": resnet.POOL1_PADDINGS,
            "shortcut": resnet.SHORTCUTS,
            "zero_gamma": BOOL,
            "batch_norm": BATCH_NORM,
        },
    ),
    "resnet_cifar10": Entry(
        resnet.CifarResNet,
        {
            "depth": resnet.CIFAR_DEPTHS,
            "shortcut": resnet.SHORTCUTS,
            "zero_gamma": BOOL,
            "batch_norm": BATCH_NORM,
        }
        | NO_POOLING,
    ),
    "cuda_convnet": Entry(
        cuda_convnet.CudaConvnet,
        {"variant": cuda_convnet.VARIANTS, "initializer": ("paper", *layers.RULES)},
    ),
    "maxout": Entry(
        maxout.MaxoutNet,
        {
            "variant": tuple(maxout.VARIANTS),
            "input_drop_rate": RATE,
            "input_dropout_scaling": layers.INPUT_SCALINGS,
            "maxout_pieces": _number(
                int, lambda v: v == 0 or PIECES.holds(v), "must be 0 (as published) or at least 2"
            ),
        },
    ),
}

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def choose(what: str, value: Any, allowed) -> Any:
    """`value` if it is allowed; otherwise a UserError that names the nearest and all choices."""
    if value in allowed:
        return value
    near = difflib.get_close_matches(str(value), [str(choice) for choice in allowed], n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise UserError(f"{what}={value}: {hint}choose one of {', '.join(map(str, allowed))}")


def defaults(name: str) -> dict[str, Any]:
    """A model's options with their values in a config of an older version that lacks them."""
    if name not in MODELS:
        return {}
    fields = MODELS[name].constructor.__dataclass_fields__
    return {option: fields[option].default for option in MODELS[name].allowed() if option in fields}


def upgrade(section: ConfigDict) -> None:
    """Adapts a stored `model` section, perhaps of an older version, to today's options."""
    if section.name == "maxout" and "input_dropout_scaling" not in section:
        section.input_dropout_scaling = section.dropout_scaling  # once a single option


def sliding() -> list[str]:
    """Names of the models that can be applied at every place of a larger image (`class_map`)."""
    return [name for name, entry in MODELS.items() if hasattr(entry.constructor, "class_map")]


def create(section: Mapping[str, Any], num_classes: int, axis: str = "batch") -> nn.Module:
    """The linen module of a config's `model` section: {"name", "dtype", **options}.

    axis: name of the devices' axis, for `batch_norm` "across_devices".
    Raises UserError for an unknown model, option or value.
    """
    options = dict(section)
    name = choose("model.name", options.pop("name"), MODELS)
    dtype = DTYPES[choose("model.dtype", options.pop("dtype"), DTYPES)]
    entry = MODELS[name]
    allowed = entry.allowed()
    for option, value in options.items():
        what = f"model.{option}"
        if option not in allowed:
            raise UserError(f"{what} is no option of {name}: it has {', '.join(sorted(allowed))}")
        if isinstance(allowed[option], Check):
            if not allowed[option].holds(value):
                raise UserError(f"{what}={value}: {allowed[option].what}")
        else:
            choose(what, value, allowed[option])
    if options.pop("batch_norm", "per_device") == "across_devices":
        options["batch_norm_axis"] = axis
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
    return entry.constructor(num_classes=num_classes, dtype=dtype, **options)
