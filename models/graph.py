"""Which layers a net applies to an image, in order, and which of them feed which."""

import dataclasses
from collections.abc import Iterable

import flax.linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import Literal

IMAGE = -1  # what the first layers are fed by


@dataclasses.dataclass
class Output:
    """What a module gives: its shape without the batch, and the calls that it is made of."""

    shape: tuple[int, ...]
    made_of: frozenset[int] = frozenset()


@dataclasses.dataclass
class Call:
    """An application of a layer that has a cost: its shapes without the batch, and its feeders.

    feeders: numbers of the calls whose outputs it sees, IMAGE for the input; activations,
    additions and concatenations in between are looked through.
    """

    layer: nn.Module
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...] = ()
    feeders: frozenset[int] = frozenset()


def trace(module: nn.Module, variables, images, **kwargs) -> tuple[list[Call], dict[str, Output]]:
    """Every application of a layer with a cost, and the outputs of all modules by path.

    variables, images: shapes will do, nothing is computed. kwargs: of module.apply; with any,
    collections may change.

    The input and output of each layer are marked in the jaxpr, with the names that
    rematerialisation uses.
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
        mutable = [*variables, "auxiliary"] if kwargs else False
        return module.apply(variables, images, mutable=mutable, **kwargs)

    with nn.intercept_methods(mark):
        jaxpr = jax.make_jaxpr(run)(variables, images).jaxpr

    made_of = {jaxpr.invars[-1]: frozenset([IMAGE])}
    for equation in jaxpr.eqns:
        known = [v for v in equation.invars if not isinstance(v, Literal) and v in made_of]
        if not known:
            continue
        found = frozenset().union(*(made_of[v] for v in known))
        if equation.primitive.name == "name":
            side, number = equation.params["name"].split()
            if side == "in":
                calls[int(number)].feeders = found
            elif side == "out":
                found = frozenset([int(number)])
            else:
                outputs[int(number)][1].made_of = found
        made_of |= dict.fromkeys(equation.outvars, found)
    return calls, dict(outputs)


def layers_with_kernels(calls: Iterable[Call], params) -> list[str]:
    """Paths of the layers that have a `kernel` in `params`, in the order in which they compute."""
    found = []
    for call in calls:
        own = params
        for part in call.layer.path:
            own = own.get(part, {})
        if "kernel" in own:
            found.append("/".join(call.layer.path))
    return list(dict.fromkeys(found))
