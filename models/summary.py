"""What a model is, layer by layer, without running it: everything comes from abstract evaluation.

Conventions: multiply-accumulates are those of weights (no bias, activation or max-pooling);
connections are LeCun's (biases counted); the receptive field is in input pixels, along the longest
path to the layer.
"""

import dataclasses
import itertools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import Literal

from models.layers import Cost


@dataclasses.dataclass
class _Call:
    """A layer's application: the module, its shapes without the batch, and what it sees."""

    layer: nn.Module
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    field: tuple[int, int] = (1, 1)
    step: tuple[int, int] = (1, 1)


def describe(module: nn.Module, name: str, input_shape: tuple[int, int, int]) -> dict[str, Any]:
    """What a module is for one image of input_shape (height, width, channels).

    Returns {"model", "input_shape", "layers", "total"}, and "training_only" for a net with parts
    that only training has (GoogLeNet's auxiliary heads): {"layers", "total"} of those.

    Each layer: name, type, output_shape (no batch), params, macs, connections, receptive_field
    and stride in input pixels. total: params, macs, connections.
    """
    images = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
    keys = {name: jax.random.key(0) for name in ("params", "dropout")}
    variables = jax.eval_shape(lambda x: module.init(keys, x, train=False), images)
    calls = _trace(module, variables, images)
    rows = [_row(call, variables) for call in calls]
    description = {
        "model": name,
        "input_shape": list(input_shape),
        "layers": rows,
        "total": _total(rows),
    }
    everything = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))
    if everything > description["total"]["params"]:
        seen = {call.layer.path for call in calls}
        calls = [
            call
            for call in _trace(module, variables, images, train=True, rngs=keys)
            if call.layer.path not in seen
        ]
        rows = [_row(call, variables) for call in calls]
        description["training_only"] = {"layers": rows, "total": _total(rows)}
    return description


def _trace(module, variables, images, **kwargs) -> list[_Call]:
    """Every application of a layer that has a cost, in order, with its receptive field.

    The input and output of each layer are marked in the jaxpr (with the names that
    rematerialisation uses); what lies between marks of two layers (activations, additions,
    concatenations) sees what its inputs see together.
    """
    calls: list[_Call] = []

    def mark(next_call, args, kwargs, context):
        layer = context.module
        if context.method_name != "__call__" or not hasattr(layer, "cost"):
            return next_call(*args, **kwargs)
        number = len(calls)
        calls.append(_Call(layer, args[0].shape[1:], ()))
        x = checkpoint_name(args[0], f"in {number}")
        output = next_call(x, *args[1:], **kwargs)
        calls[number].out_shape = output.shape[1:]
        return checkpoint_name(output, f"out {number}")

    def run(variables, images):
        mutable = [*variables, "auxiliary"] if kwargs else False
        return module.apply(variables, images, mutable=mutable, **kwargs)

    with nn.intercept_methods(mark):
        jaxpr = jax.make_jaxpr(run)(variables, images).jaxpr

    seen = {jaxpr.invars[-1]: ((1, 1), (1, 1))}  # variable -> (receptive field, step)
    for equation in jaxpr.eqns:
        inputs = [seen[v] for v in equation.invars if not isinstance(v, Literal) and v in seen]
        if not inputs:
            continue
        field = tuple(max(f[axis] for f, _ in inputs) for axis in (0, 1))
        step = tuple(max(s[axis] for _, s in inputs) for axis in (0, 1))
        if equation.primitive.name == "name":
            side, number = equation.params["name"].split()
            call = calls[int(number)]
            if side == "in":
                call.field, call.step = field, step
            else:
                cost = call.layer.cost(call.in_shape, call.out_shape)
                field = tuple(
                    f + (w - 1) * s
                    for f, w, s in zip(call.field, cost.window, call.step, strict=True)
                )
                step = tuple(s * by for s, by in zip(call.step, cost.stride, strict=True))
                call.field, call.step = field, step
        for variable in equation.outvars:
            seen[variable] = (field, step)
    return calls


def _row(call: _Call, variables) -> dict[str, Any]:
    parameters = variables.get("params", {})
    for part in call.layer.path:
        parameters = parameters.get(part, {})
    cost: Cost = call.layer.cost(call.in_shape, call.out_shape)
    return {
        "name": "/".join(call.layer.path),
        "type": type(call.layer).__name__,
        "output_shape": list(call.out_shape),
        "params": sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(parameters)),
        "macs": cost.macs,
        "connections": cost.connections,
        "receptive_field": max(call.field),
        "stride": max(call.step),
    }


def _total(rows: list[dict[str, Any]]) -> dict[str, int | None]:
    connections = [row["connections"] for row in rows]
    return {
        "params": sum(row["params"] for row in rows),
        "macs": sum(row["macs"] for row in rows),
        "connections": None if None in connections else sum(connections),
    }


_COUNTS = ("params", "macs", "connections")


def table(description: dict[str, Any]) -> str:
    """A description as a table for people."""
    header = ("layer", "type", "output", "params", "macs", "connections", "RF", "stride")

    def number(value) -> str:
        return "-" if value is None else f"{value:,}"

    def row(layer) -> tuple[str, ...]:
        return (
            layer["name"],
            layer["type"],
            "x".join(map(str, layer["output_shape"])),
            *(number(layer[key]) for key in _COUNTS),
            number(layer["receptive_field"]),
            number(layer["stride"]),
        )

    def total(label, part) -> tuple[str, ...]:
        return (label, "", "", *(number(part["total"][key]) for key in _COUNTS), "", "")

    blocks = [[row(layer) for layer in description["layers"]], [total("total", description)]]
    if "training_only" in description:
        only = description["training_only"]
        blocks += [[row(layer) for layer in only["layers"]], [total("only in training", only)]]
    widths = [
        max(map(len, column)) for column in zip(header, *itertools.chain(*blocks), strict=True)
    ]

    def line(cells) -> str:
        padded = [
            cell.ljust(width) if i < 3 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "  ".join(padded).rstrip()

    shape = "x".join(map(str, description["input_shape"]))
    ruler = "-" * (sum(widths) + 2 * (len(widths) - 1))
    lines = [f"{description['model']}, input {shape}", line(header)]
    for block in blocks:
        lines += [ruler, *map(line, block)]
    return "\n".join(lines)
