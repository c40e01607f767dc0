"""The description of a model, layer by layer, by abstract evaluation: nothing is computed.

Conventions: multiply-accumulates (MACs) are those of weights (no bias, activation or max-pooling).
Connections are LeCun's (biases are counted). The receptive field is in input pixels, along the
longest path to the layer.
"""

import math
from collections.abc import Collection, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import flatten_dict

from models import graph, parameter_tables
from models.layers.cost import Cost

_COUNTS = ("params", "macs", "connections")


def describe(module: nn.Module, name: str, input_shape: tuple[int, int, int]) -> dict[str, Any]:
    """The description of a model for one image of input_shape (height, width, channels).

    Returns {"model", "input_shape", "layers", "total"}, and "training_only" for a network with
    parts that only training uses (GoogLeNet's auxiliary heads): {"layers", "total"} of those.

    Each layer: name, type, output_shape (no batch), params, macs, connections, receptive_field
    and stride in input pixels. total: params, macs, connections.
    """
    variables, images, rngs = graph.abstract(module, input_shape)
    part = _part(_rows(*graph.trace(module, variables, images), variables))
    description = {"model": name, "input_shape": list(input_shape), **part}
    everything = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))
    if everything > description["total"]["params"]:
        names = {row["name"] for row in description["layers"]}
        traced = graph.trace(module, variables, images, train=True, rngs=rngs)
        rows = [row for row in _rows(*traced, variables) if row["name"] not in names]
        description["training_only"] = _part(rows)
    return description


def _receptive_fields(calls: list[graph.Call]) -> dict[int, np.ndarray]:
    """For the number of each call, int [2, 2]: height and width of a unit's receptive field, along
    the longest path, and the distances to that of the next unit, in pixels."""
    fields: dict[int, np.ndarray] = {graph.IMAGE: np.ones((2, 2), int)}
    for number, call in enumerate(calls):
        inputs = [fields[feeder] for feeder in call.feeders]
        size, step = np.max([np.zeros((2, 2), int), *inputs], axis=0)
        cost = call.layer.cost(call.in_shape, call.out_shape)
        window, stride = np.array(cost.window), np.array(cost.stride)
        fields[number] = np.array([size + (window - 1) * step, step * stride])
    return fields


def _rows(
    calls: list[graph.Call], outputs: Mapping[str, graph.Output], variables
) -> list[dict[str, Any]]:
    """A row for each call and, after the layer that it follows, for each PReLU."""
    fields, rows = _receptive_fields(calls), []  # (number of the call, row)

    def add(numbers: Collection[int], name: str, kind: str, shape, leaves, cost: Cost) -> None:
        size, step = np.max([fields[number] for number in numbers], axis=0)
        row = {
            "name": name,
            "type": kind,
            "output_shape": list(shape),
            "params": sum(math.prod(leaf.shape) for leaf in leaves),
            "macs": cost.macs,
            "connections": cost.connections,
            "receptive_field": int(size.max()),
            "stride": int(step.max()),
        }
        rows.append((max(numbers), row))

    params = variables.get("params", {})
    for number, call in enumerate(calls):
        leaves = jax.tree.leaves(graph.parameters_of(call.layer, params))
        cost = call.layer.cost(call.in_shape, call.out_shape)
        name, kind = "/".join(call.layer.path), type(call.layer).__name__
        add([number], name, kind, call.out_shape, leaves, cost)
    slopes = {path[:-1]: leaf for path, leaf in flatten_dict(params).items() if path[-1] == "slope"}
    for path in sorted(slopes.keys() - {tuple(call.layer.path) for call in calls}):
        if output := outputs.get(name := "/".join(path)):
            add(output.sources, name, "PReLU", output.shape, [slopes[path]], Cost(0, 0))
    return [row for _, row in sorted(rows, key=lambda numbered: numbered[0])]


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
