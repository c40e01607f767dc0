"""The layers that a network applies to an image, in order, and which of them feed which."""

import dataclasses
from collections.abc import Iterable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import Literal

from errors import UserError

IMAGE = -1  # the feeder of the first layers


def abstract(module: nn.Module, input_shape: tuple[int, int, int]):
    """(variables, images, rngs): shapes of the variables and of one image; nothing is computed.

    input_shape: (height, width, channels). rngs: the keys of an initialisation and of training.
    """
    images = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
    rngs = {name: jax.random.key(0) for name in ("params", "dropout")}
    return jax.eval_shape(lambda x: module.init(rngs, x, train=False), images), images, rngs


def missing(layer: str, names: Iterable[str]) -> UserError:
    """The error for the name of a layer that the network, with layers `names`, does not have."""
    first = ", ".join(list(names)[:6])
    return UserError(
        f"there is no layer {layer}: the network has {first}, ... (see --mode=summary)"
    )


@dataclasses.dataclass
class Output:
    """A module's output: its shape without the batch, and the numbers of its source calls."""

    shape: tuple[int, ...]
    sources: frozenset[int] = frozenset()


@dataclasses.dataclass
class Call:
    """An application of a layer that has a cost. Shapes leave the batch out.

    feeders: numbers of the calls whose outputs the layer takes, IMAGE for the input. Activations,
    additions and concatenations in between are not calls.
    """

    layer: nn.Module
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...] = ()
    feeders: frozenset[int] = frozenset()


def trace(module: nn.Module, variables, images, **options) -> tuple[list[Call], dict[str, Output]]:
    """Every application of a layer with a cost, and the outputs of all modules by path.

    variables, images: arrays or their shapes; nothing is computed. options: of module.apply. If
    there are any, collections may change.

    The input and output of each layer get names in the jaxpr, in the way of rematerialisation.
    """
    calls: list[Call] = []
    outputs: list[tuple[str, Output]] = []

    def mark(next_call, args, kwargs, context):
        layer = context.module
        if context.method_name != "__call__":
            return next_call(*args, **kwargs)
        if hasattr(layer, "cost"):
            number = len(calls)
            calls.append(Call(layer, args[0].shape[1:]))
            args = (checkpoint_name(args[0], f"in {number}"), *args[1:])
            output = next_call(*args, **kwargs)
            calls[number].out_shape = output.shape[1:]
            output = checkpoint_name(output, f"out {number}")
        else:
            output = next_call(*args, **kwargs)
        if not layer.path or not isinstance(output, jax.Array):
            return output
        outputs.append(("/".join(layer.path), Output(output.shape[1:])))
        return checkpoint_name(output, f"see {len(outputs) - 1}")

    def run(variables, images):
        mutable = [*variables, "auxiliary"] if options else False
        return module.apply(variables, images, mutable=mutable, **options)

    with nn.intercept_methods(mark):
        jaxpr = jax.make_jaxpr(run)(variables, images).jaxpr

    sources_of = {jaxpr.invars[-1]: frozenset([IMAGE])}
    for equation in jaxpr.eqns:
        known = [v for v in equation.invars if not isinstance(v, Literal) and v in sources_of]
        if not known:
            continue
        sources = frozenset().union(*(sources_of[v] for v in known))
        if equation.primitive.name == "name":
            side, number = equation.params["name"].split()
            if side == "in":
                calls[int(number)].feeders = sources
            elif side == "out":
                sources = frozenset([int(number)])
            else:
                outputs[int(number)][1].sources = sources
        sources_of |= dict.fromkeys(equation.outvars, sources)
    return calls, dict(outputs)


def parameters_of(layer: nn.Module, params) -> dict:
    """A layer's part of the network's parameters; {} if it has none."""
    for part in layer.path:
        params = params.get(part, {})
    return params


def layers_with_kernels(calls: Iterable[Call], params) -> list[str]:
    """Paths of the layers that have a `kernel` in `params`, in the order in which they compute."""
    kernels = [call.layer for call in calls if "kernel" in parameters_of(call.layer, params)]
    return list(dict.fromkeys("/".join(layer.path) for layer in kernels))
