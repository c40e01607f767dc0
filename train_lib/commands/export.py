"""--mode=export: a trained network as a file for Canon, for torchvision, or for JAX alone."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Collection
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from command_line import expand
from errors import UserError, reported
from input_pipeline import views
from models import pretrained
from train_lib.evaluation import ensemble, trained
from train_lib.weights import exported
from train_lib.workdir import write_bytes

# The platforms of XLA that a .jax file runs on.
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def export_run(
    config: ConfigDict,
    workdir: pathlib.Path,
    output: str,
    form: str = "canon",
    given: Collection[str] = (),
) -> str:
    """Writes a run's network to a file, and returns a line that says so.

    form: a name of `FORMS`. output: the file, whose suffix belongs to the form; "": one in the
    workdir. given: the config's fields that the user gave, see `experiment.resolve`. For a run
    that averages its parameters, the averages are written.
    Raises UserError for another suffix, a network that the form cannot hold, and a full disk.
    """
    default, write = FORMS[form]
    path, suffix = expand(output or workdir / default), default.suffix
    if path.suffix != suffix:
        raise UserError(
            f"--output={output}: the file's name must end in {suffix} with --format={form}"
        )
    network = ensemble.find_one(config, workdir, given).open()
    with reported(f"cannot write {path}", "free some space, or choose another file", OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        note = write(path, network)
    count = sum(leaf.size for leaf in jax.tree.leaves(network.params))
    return f"written: {path} ({count:,} parameters, step {network.step}){note}"


def _canon(path: pathlib.Path, network: trained.Trained) -> str:
    """Everything that `exported` stores. Paths and devices of this machine are left out."""
    config = ConfigDict(network.config)
    config.dataset.update({"data_dir": "", "cache_dir": ""})
    config.num_devices = 0
    if not config.init_from.startswith(pretrained.HUB):
        config.update({"init_from": "", "init_names": "", "init_layers": ()})
    info = dataclasses.replace(
        network.exp.info, name=config.dataset.name, class_names=tuple(network.class_names)
    )
    weights = exported.Weights(config, info, network.step, network.variables, network.statistics)
    exported.save(path, weights)
    return ""


def _torchvision(path: pathlib.Path, network: trained.Trained) -> str:
    """The state dict of the same network in torchvision, as safetensors."""
    import safetensors.numpy

    tensors = pretrained.to_torchvision(network.module, network.variables, network.input_shape)
    # "pt" is PyTorch's layout in safetensors. `models.pretrained` reads the other entries.
    metadata = {
        "format": "pt",
        "class_names": json.dumps(list(network.class_names)),
        "settings": json.dumps(_settings(network)),
    }
    write_bytes(path, safetensors.numpy.save(tensors, metadata))
    simplified = ""
    if network.config.preprocess.mean == "pixel":
        simplified = " (of the mean image, the mean of each colour)"
    return f"; classes and preprocessing{simplified} are in its metadata"


def _settings(network: trained.Trained) -> dict[str, Any]:
    """The config fields that turn images into network input, with the values of a mean."""
    config, view = network.config, _test_view(network.config)
    fields = {f"preprocess.{name}": value for name, value in config.preprocess.items()}
    fields |= {f"view.{name}": view[name] for name in ("size", "test_scale", "interpolation")}
    if config.preprocess.mean in ("channel", "pixel"):
        mean = np.asarray(network.statistics.mean)
        if config.preprocess.mean == "pixel":
            mean = np.asarray(network.statistics.image).mean(axis=(0, 1))
        fields["preprocess.mean"] = "given"
        fields["preprocess.given_mean"] = [float(value) / 255 for value in mean]
    return fields


def _test_view(config: ConfigDict) -> dict[str, Any]:
    """The config's view, as evaluations use it: an interpolation drawn at random is fixed."""
    view = config.view.to_dict()
    if view["interpolation"] == "random":
        view["interpolation"] = views.RANDOM_TEST
    return view


def _jax(path: pathlib.Path, network: trained.Trained) -> str:
    """The jitted inference function with its weights, which JAX runs without Canon.

    A JSON file beside it describes its input and output.
    """
    shape = network.view_shape
    content = serialise(network.inference(), network.variables, shape)
    description = {
        "input": {"dtype": "uint8", "shape": ["batch", *shape]},
        "output": {"dtype": "float32", "shape": ["batch", len(network.class_names)]},
        "class_names": list(network.class_names),
        "view": _test_view(network.config) if network.config.view.size else None,
        "platforms": list(PLATFORMS),
        "step": network.step,
    }
    write_bytes(path, content)
    description_path = path.with_name(f"{path.name}.json")
    write_bytes(description_path, json.dumps(description, indent=2).encode() + b"\n")
    return f"; its input and output: {description_path}"


def serialise(infer: Callable, variables, shape: tuple[int, int, int]) -> bytes:
    """`infer(variables, images)` for any number of images uint8 [batch, *shape], by jax.export.

    jax.export.deserialize(content).call(images) is infer(variables, images), on all `PLATFORMS`.
    """
    from jax import export

    (batch,) = export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *shape), "uint8")
    function = jax.jit(lambda images: infer(variables, images))
    return bytes(export.export(function, platforms=PLATFORMS)(images).serialize())


# The file's name in a workdir, and the function that writes it: (path, network) -> a note to print.
FORMS: dict[str, tuple[pathlib.PurePath, Callable]] = {
    "canon": (pathlib.PurePath(f"weights{exported.SUFFIX}"), _canon),
    "torchvision": (pathlib.PurePath(f"torchvision{exported.SUFFIX}"), _torchvision),
    "jax": (pathlib.PurePath("weights.jax"), _jax),
}
