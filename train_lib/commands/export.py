"""--mode=export: a trained net as a file, for Canon, for torchvision, or for JAX alone."""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from errors import UserError, one_line
from input_pipeline import views
from models import pretrained
from train_lib import workdir as folder
from train_lib.evaluation import ensemble, exported, trained

# XLA's platforms for which a net is exported.
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def export_run(config: ConfigDict, workdir: pathlib.Path, output: str, form: str = "canon") -> str:
    """Writes a run's net to a file, and says so in a line.

    form: a name of `FORMS`. output: the file, whose suffix goes with the form; "": in the workdir.
    Of a run that averages its parameters, these are written.
    Raises UserError for another suffix, a net that the form cannot hold, and a full disk.
    """
    default, write = FORMS[form]
    path, suffix = pathlib.Path(output or workdir / default).expanduser(), default.suffix
    if path.suffix != suffix:
        raise UserError(
            f"--output={output}: the file's name must end in {suffix} with --format={form}"
        )
    (member,) = ensemble.find(config, workdir, ensemble=False, data=False)
    step, state = member.load()
    variables = jax.device_get(state.variables())
    net = trained.Trained(member.exp, variables, member.class_names, step)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        note = write(path, net)
    except OSError as error:
        raise UserError(
            f"cannot write {path} ({one_line(error)}): free some space, or choose another file"
        ) from error
    count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    return f"written: {path} ({count:,} parameters, step {step}){note}"


def _canon(path: pathlib.Path, net: trained.Trained) -> str:
    """All of it, see `weights`."""
    config = net.config.copy_and_resolve_references()
    config.dataset.update({"data_dir": "", "cache_dir": ""})  # of this machine
    config.num_devices = 0
    if not config.init_from.startswith(pretrained.HUB):  # a path of this machine, too
        config.update({"init_from": "", "init_names": "", "init_layers": ()})
    stored = exported.Weights(
        config=config,
        class_names=list(net.class_names),
        dataset=config.dataset.name,
        step=net.step,
        variables=net.variables,
        statistics=net.statistics,
        image_shape=net.exp.info.image_shape,
        train_examples=net.exp.info.train_examples,
    )
    exported.save(path, stored)
    return ""


def _torchvision(path: pathlib.Path, net: trained.Trained) -> str:
    """The state dict of torchvision's net of that kind, as safetensors."""
    import safetensors.numpy

    tensors = pretrained.to_torchvision(net.module, net.variables, net.input_shape)
    # "pt": what readers of safetensors know as PyTorch's layout. The others are what
    # `models.pretrained` reads again.
    metadata = {
        "format": "pt",
        "class_names": json.dumps(list(net.class_names)),
        "settings": json.dumps(_settings(net)),
    }
    folder.replace(path, safetensors.numpy.save(tensors, metadata))
    is_image = net.config.preprocess.mean == "pixel"
    simplified = " (of the mean image, the mean of each colour)" if is_image else ""
    return f"; classes and preprocessing{simplified} are in its metadata"


def _settings(net: trained.Trained) -> dict[str, Any]:
    """The config fields by which images become the net's input, with the values of a mean."""
    config, view = net.config, _test_view(net.config)
    fields = {f"preprocess.{name}": value for name, value in config.preprocess.items()}
    fields |= {f"view.{name}": view[name] for name in ("size", "test_scale", "interpolation")}
    if config.preprocess.mean in ("channel", "pixel"):
        mean = np.asarray(net.statistics.mean)
        if config.preprocess.mean == "pixel":
            mean = np.asarray(net.statistics.image).mean(axis=(0, 1))
        fields["preprocess.mean"] = "given"
        fields["preprocess.given_mean"] = [float(value) / 255 for value in mean]
    return fields


def _test_view(config: ConfigDict) -> dict[str, Any]:
    """The config's view; an interpolation drawn at random in training is the one of the tests."""
    view = config.view.to_dict()
    if view["interpolation"] == "random":
        view["interpolation"] = views.RANDOM_TEST
    return view


def _jax(path: pathlib.Path, net: trained.Trained) -> str:
    """The jitted inference function with its weights, which JAX runs without Canon; and what it
    takes and gives, as JSON beside it."""
    view = net.config.view.size
    height, width, channels = net.exp.info.image_shape
    shape = (view or height, view or width, channels)
    exported = serialise(net.inference(), net.variables, shape)
    description = {
        "input": {"dtype": "uint8", "shape": ["batch", *shape]},
        "output": {"dtype": "float32", "shape": ["batch", len(net.class_names)]},
        "class_names": list(net.class_names),
        "view": _test_view(net.config) if view else None,
        "platforms": list(PLATFORMS),
        "step": net.step,
    }
    folder.replace(path, exported)
    beside = path.with_name(f"{path.name}.json")
    folder.replace(beside, json.dumps(description, indent=2).encode() + b"\n")
    return f"; what it takes and gives: {beside}"


def serialise(infer: Callable, variables, shape: tuple[int, int, int]) -> bytes:
    """`infer(variables, images)` for any number of images uint8 [batch, *shape], by jax.export.

    jax.export.deserialize(content).call(images) gives what infer gives, on any of `PLATFORMS`.
    """
    from jax import export

    (batch,) = export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *shape), "uint8")
    function = jax.jit(lambda images: infer(variables, images))
    return bytes(export.export(function, platforms=PLATFORMS)(images).serialize())


# The file's name in a workdir, and what writes: (path, net) -> what else to say.
FORMS: dict[str, tuple[pathlib.PurePath, Callable]] = {
    "canon": (pathlib.PurePath(f"weights{exported.SUFFIX}"), _canon),
    "torchvision": (pathlib.PurePath(f"torchvision{exported.SUFFIX}"), _torchvision),
    "jax": (pathlib.PurePath("weights.jax"), _jax),
}
