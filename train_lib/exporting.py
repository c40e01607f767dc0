"""--mode=export: a trained net as a file, for Canon, for torchvision, or for JAX alone."""

import json
import pathlib
from collections.abc import Callable

import jax
from ml_collections import ConfigDict

from errors import UserError, one_line
from models import exchange
from train_lib import members, trained, weights
from train_lib import workdir as folder

# XLA's platforms for which a net is exported.
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def export_run(config: ConfigDict, workdir: pathlib.Path, output: str, form: str = "canon") -> str:
    """Writes a run's net to a file, and says so in a line.

    form: a name of `FORMS`. output: the file, whose suffix goes with the form; "": `weights` and
    that suffix in the workdir. Of a run that averages its parameters, these are written.
    Raises UserError for another suffix, a net that the form cannot hold, and a full disk.
    """
    suffix, write = FORMS[form]
    path = pathlib.Path(output).expanduser() if output else workdir / f"weights{suffix}"
    if path.suffix != suffix:
        raise UserError(
            f"--output={output}: the file's name must end in {suffix} with --format={form}"
        )
    (member,) = members.find(config, workdir, ensemble=False, data=False)
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
    stored = weights.Weights(
        config=config,
        class_names=list(net.class_names),
        dataset=config.dataset.name,
        step=net.step,
        variables=net.variables,
        statistics=net.statistics,
        image_shape=net.exp.info.image_shape,
    )
    weights.save(path, stored)
    return ""


def _torchvision(path: pathlib.Path, net: trained.Trained) -> str:
    """The state dict of torchvision's net of that kind, as safetensors."""
    import safetensors.numpy

    tensors = exchange.to_torchvision(net.module, net.variables, net.input_shape)
    about = {"class_names": list(net.class_names)}
    about |= {section: net.config[section].to_dict() for section in ("view", "preprocess")}
    # "pt": what readers of safetensors know as PyTorch's layout.
    metadata = {"format": "pt"} | {name: json.dumps(value) for name, value in about.items()}
    folder.replace(path, safetensors.numpy.save(tensors, metadata))
    return "; classes and preprocessing are in its metadata"


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
        "view": net.config.view.to_dict() if view else None,
        "platforms": list(PLATFORMS),
        "step": net.step,
    }
    folder.replace(path, exported)
    beside = path.with_suffix(".json")
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


# Suffix, and what writes: (path, net) -> what else to say.
FORMS: dict[str, tuple[str, Callable]] = {
    "canon": (weights.SUFFIX, _canon),
    "torchvision": (weights.SUFFIX, _torchvision),
    "jax": (".jax", _jax),
}
