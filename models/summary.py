"""What a model is, layer by layer, without running it: everything comes from abstract evaluation.

Conventions: multiply-accumulates are those of weights (no bias, activation or max-pooling);
connections are LeCun's (biases counted); the receptive field is in input pixels, along the path
to the layer.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.layers import Cost


def describe(module: nn.Module, name: str, input_shape: tuple[int, int, int]) -> dict[str, Any]:
    """What a module is for one image of input_shape (height, width, channels).

    Returns {"model", "input_shape", "layers", "total"}.

    Each layer: name, type, output_shape (no batch), params, macs, connections, receptive_field
    and stride in input pixels. total: params, macs, connections.
    """
    calls: list[tuple[nn.Module, tuple, tuple]] = []

    def record(next_call, args, kwargs, context):
        output = next_call(*args, **kwargs)
        if context.method_name == "__call__" and hasattr(context.module, "cost"):
            calls.append((context.module, args[0].shape[1:], output.shape[1:]))
        return output

    images = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
    with nn.intercept_methods(record):
        variables = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), images)

    # The layers follow each other on one path: each receptive field grows from the one before.
    layers, field, step = [], (1, 1), (1, 1)
    for layer, in_shape, out_shape in calls:
        cost: Cost = layer.cost(in_shape, out_shape)
        window = cost.window
        field = tuple(f + (w - 1) * s for f, w, s in zip(field, window, step, strict=True))
        step = tuple(s * by for s, by in zip(step, cost.stride, strict=True))
        parameters = variables.get("params", {})
        for part in layer.path:
            parameters = parameters.get(part, {})
        layers.append(
            {
                "name": "/".join(layer.path),
                "type": type(layer).__name__,
                "output_shape": list(out_shape),
                "params": sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(parameters)),
                "macs": cost.macs,
                "connections": cost.connections,
                "receptive_field": max(field),
                "stride": max(step),
            }
        )
    leaves = jax.tree.leaves(variables.get("params", {}))
    counted = [layer["connections"] for layer in layers]
    return {
        "model": name,
        "input_shape": list(input_shape),
        "layers": layers,
        "total": {
            "params": sum(math.prod(leaf.shape) for leaf in leaves),
            "macs": sum(layer["macs"] for layer in layers),
            "connections": None if None in counted else sum(counted),
        },
    }


def table(description: dict[str, Any]) -> str:
    """A description as a table for people."""
    header = ("layer", "type", "output", "params", "macs", "connections", "RF", "stride")

    def number(value) -> str:
        return "-" if value is None else f"{value:,}"

    rows = [
        (
            layer["name"],
            layer["type"],
            "x".join(map(str, layer["output_shape"])),
            *(number(layer[key]) for key in ("params", "macs", "connections")),
            number(layer["receptive_field"]),
            number(layer["stride"]),
        )
        for layer in description["layers"]
    ]
    total = description["total"]
    last = ("total", "", "", *(number(total[k]) for k in ("params", "macs", "connections")), "", "")
    widths = [max(len(row[i]) for row in (header, *rows, last)) for i in range(len(header))]

    def line(row) -> str:
        cells = [
            cell.ljust(width) if i < 3 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    shape = "x".join(map(str, description["input_shape"]))
    ruler = "-" * (sum(widths) + 2 * (len(widths) - 1))
    body = [line(header), ruler, *map(line, rows), ruler, line(last)]
    return "\n".join([f"{description['model']}, input {shape}", *body])
