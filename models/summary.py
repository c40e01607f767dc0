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

from models import graph
from models.layers import Cost


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
    calls, _ = graph.trace(module, variables, images)
    rows = _rows(calls, variables)
    description = {
        "model": name,
        "input_shape": list(input_shape),
        "layers": rows,
        "total": _total(rows),
    }
    everything = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))
    if everything > description["total"]["params"]:
        known = {row["name"] for row in rows}
        calls, _ = graph.trace(module, variables, images, train=True, rngs=keys)
        rows = [row for row in _rows(calls, variables) if row["name"] not in known]
        description["training_only"] = {"layers": rows, "total": _total(rows)}
    return description


@dataclasses.dataclass
class _Seen:
    """What a unit of a layer sees of the input, in pixels: its extent and the step to the next."""

    field: tuple[int, int] = (1, 1)
    step: tuple[int, int] = (1, 1)


def _receptive_fields(calls: list[graph.Call]) -> list[_Seen]:
    """Of each call, along the longest path: what lies between layers sees what its inputs see."""
    found = {graph.IMAGE: _Seen()}
    for number, call in enumerate(calls):
        feeders = [found[feeder] for feeder in call.feeders]
        cost = call.layer.cost(call.in_shape, call.out_shape)
        field, step = (
            tuple(max(getattr(feeder, what)[axis] for feeder in feeders) for axis in (0, 1))
            for what in ("field", "step")
        )
        found[number] = _Seen(
            tuple(f + (w - 1) * s for f, w, s in zip(field, cost.window, step, strict=True)),
            tuple(s * by for s, by in zip(step, cost.stride, strict=True)),
        )
    return [found[number] for number in range(len(calls))]


def _rows(calls: list[graph.Call], variables) -> list[dict[str, Any]]:
    fields = _receptive_fields(calls)
    return [_row(call, seen, variables) for call, seen in zip(calls, fields, strict=True)]


def _row(call: graph.Call, seen: _Seen, variables) -> dict[str, Any]:
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
        "receptive_field": max(seen.field),
        "stride": max(seen.step),
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
