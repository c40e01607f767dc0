"""The norm of the gradient at each depth: where it vanishes or explodes."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from matplotlib.figure import Figure

from models import graph, inspection
from train_lib.pictures import panels

MOST_NAMED = 40  # layers with names on the axis


def gradient_norms(
    module: nn.Module,
    variables: Mapping[str, Any],
    inputs: jax.Array,
    labels,
    loss: Callable,
    drop_scale: float = 1.0,
) -> dict[str, float]:
    """Euclidean norm of the gradient of the mean loss for each layer's kernel, in order of depth.

    inputs: network input [n, height, width, channels]. labels: int [n]. loss: (logits, labels) ->
    losses [n], as of `losses.make_loss`. Names are paths of layers. Layers without a kernel
    (subsampling, normalisation) and auxiliary heads are left out.

    BatchNorm and dropout are in training mode, with one fixed mask. drop_scale: see `layers.Net`.
    Large layers have larger norms: divide by the root of the number of weights to compare layers of
    different sizes.
    """
    module = inspection.on_one_device(module)
    inputs, labels = jnp.asarray(inputs), jnp.asarray(labels)
    norms = _norms(module, loss, dict(variables), inputs, labels, drop_scale)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), variables)
    calls, _ = graph.trace(module, shapes, jax.ShapeDtypeStruct(inputs.shape, jnp.float32))
    names = graph.layers_with_kernels(calls, variables["params"])
    return {name: float(norms[name]) for name in names}


@functools.partial(jax.jit, static_argnums=(0, 1, 5))  # global, so that a network compiles once
def _norms(module, loss, variables, inputs, labels, drop_scale):
    """{"conv1": norm of the gradient of its kernel}."""
    rest = {name: value for name, value in variables.items() if name != "params"}
    rngs = {"dropout": jax.random.key(0)}

    def mean_loss(params):
        variables, mutable = {"params": params, **rest}, [*rest, "auxiliary"]
        options = {"train": True, "rngs": rngs, "mutable": mutable, **inspection.scaled(drop_scale)}
        logits, _ = module.apply(variables, inputs, **options)
        return loss(logits, labels).mean()

    kernels = panels.kernels(jax.grad(mean_loss)(variables["params"]))
    return {name: _norm(kernel) for name, kernel in kernels.items()}


def _norm(x):
    """The Euclidean norm, also of values whose squares are too small for float32."""
    largest = jnp.abs(x).max()
    return largest * jnp.linalg.norm(x.reshape(-1) / jnp.where(largest > 0, largest, 1))


def gradient_norm_curves(networks: Mapping[str, Mapping[str, float]]) -> Figure:
    """Gradient norms over depth, one line for each network, on a logarithmic axis.

    networks: label -> `gradient_norms`. The axis shows the layers' names if all networks have the
    same, and numbers otherwise. A norm of exactly 0 leaves a gap.
    """
    figure, axis = panels.single(8, 5)
    for label, norms in networks.items():
        values = [norm or float("nan") for norm in norms.values()]
        axis.plot(range(1, len(values) + 1), values, "o-", markersize=3, label=label)
    axis.set_yscale("log")
    axis.grid(alpha=0.3)
    all_names = {tuple(norms) for norms in networks.values()}
    if len(all_names) == 1:
        (names,) = all_names
        shown = panels.evenly_spaced(names, MOST_NAMED)
        places = [names.index(name) + 1 for name in shown]
        rotation = 0 if sum(map(len, shown)) < 50 else 90
        axis.set_xticks(places, shown, rotation=rotation, fontsize=7, parse_math=False)
        axis.set_xlabel("layer, from the image to the loss")
    else:
        axis.set_xlabel("layer, counted from the image")
    axis.set_ylabel("norm of the gradient")
    axis.set_title("gradient of the loss with respect to each layer's weights", fontsize=10)
    if len(networks) > 1 or any(networks):
        axis.legend()
    return figure
