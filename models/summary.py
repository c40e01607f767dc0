"""The description of a model, layer by layer, by abstract evaluation: nothing is computed.

Conventions: multiply-accumulates (MACs) are those of weights (no bias, activation or max-pooling).
Connections are LeCun's (biases are counted). The receptive field is in input pixels, along the
longest path to the layer.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from models import graph, parameter_tables

_COUNTS = ("params", "macs", "connections")


def describe(module: nn.Module, name: str, input_shape: tuple[int, int, int]) -> dict[str, Any]:
    """The description of a model for one image of input_shape (height, width, channels).

    Returns {"model", "input_shape", "layers", "total"}, and "training_only" for a network with
    parts that only training uses (GoogLeNet's auxiliary heads): {"layers", "total"} of those.

    Each layer: name, type, output_shape (no batch), params, macs, connections, receptive_field
    and stride in input pixels. total: params, macs, connections.
    """
    variables, images, rngs = graph.abstract(module, input_shape)
    calls, _ = graph.trace(module, variables, images)
    part = _part(_rows(calls, variables))
    description = {"model": name, "input_shape": list(input_shape), **part}
    everything = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))
    if everything > description["total"]["params"]:
        names = {row["name"] for row in description["layers"]}
        calls, _ = graph.trace(module, variables, images, train=True, rngs=rngs)
        rows = [row for row in _rows(calls, variables) if row["name"] not in names]
        description["training_only"] = _part(rows)
    return description


def _receptive_fields(calls: list[graph.Call]) -> list[np.ndarray]:
    """For each call, int [2, 2]: height and width of a unit's receptive field, along the longest
    path, and the distances to that of the next unit, in pixels."""
    fields = {graph.IMAGE: np.ones((2, 2), int)}
    for number, call in enumerate(calls):
        inputs = [fields[feeder] for feeder in call.feeders]
        size, step = np.max([np.zeros((2, 2), int), *inputs], axis=0)
        cost = call.layer.cost(call.in_shape, call.out_shape)
        window, stride = np.array(cost.window), np.array(cost.stride)
        fields[number] = np.array([size + (window - 1) * step, step * stride])
    return [fields[number] for number in range(len(calls))]


def _rows(calls: list[graph.Call], variables) -> list[dict[str, Any]]:
    rows = []
    for call, (size, step) in zip(calls, _receptive_fields(calls), strict=True):
        leaves = jax.tree.leaves(graph.parameters_of(call.layer, variables.get("params", {})))
        cost = call.layer.cost(call.in_shape, call.out_shape)
        rows.append(
            {
                "name": "/".join(call.layer.path),
                "type": type(call.layer).__name__,
                "output_shape": list(call.out_shape),
                "params": sum(math.prod(leaf.shape) for leaf in leaves),
                "macs": cost.macs,
                "connections": cost.connections,
                "receptive_field": int(size.max()),
                "stride": int(step.max()),
            }
        )
    return rows


def _part(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """{"layers": rows, "total": {...}}; connections are None if a layer has none."""
    counts = {key: [row[key] for row in rows] for key in _COUNTS}
    total = {key: None if None in values else sum(values) for key, values in counts.items()}
    return {"layers": rows, "total": total}


def table(description: dict[str, Any]) -> str:
    """A description as a table for people."""

    def cells(name, kind, shape, numbers) -> list[str]:
        texts = ["-" if n is None else "" if n == "" else f"{n:,}" for n in numbers]
        return [name, kind, "x".join(map(str, shape)), *texts]

    def blocks(label, part):
        keys = (*_COUNTS, "receptive_field", "stride")
        yield [
            cells(row["name"], row["type"], row["output_shape"], [row[key] for key in keys])
            for row in part["layers"]
        ]
        yield [cells(label, "", (), [*(part["total"][key] for key in _COUNTS), "", ""])]

    header = ["layer", "type", "output", *_COUNTS, "RF", "stride"]
    rows = [[header], *blocks("total", description)]
    if "training_only" in description:
        rows += blocks("only in training", description["training_only"])
    shape = "x".join(map(str, description["input_shape"]))
    return f"{description['model']}, input {shape}\n{parameter_tables.aligned(rows, left=3)}"
