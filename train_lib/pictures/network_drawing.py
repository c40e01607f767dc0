"""A network, drawn block by block from the layers that its module applies. Nothing is computed.

A box is as wide as its maps (on a square-root scale) and grows in height with their number. Groups
of a convolution, and branches that are joined, stand side by side. A line beside a box is a
shortcut. Normalisation is left out.
"""

import dataclasses
import io
import math
from collections.abc import Sequence

import flax.linen as nn
import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from models import graph

_KINDS = {  # type of a layer: its name and the colour of its box
    "Conv": ("convolution", "#a9c8e8"),
    "TableConv": ("convolution, connected by a table", "#a9c8e8"),
    "LocalConv": ("local connections", "#8fd0c9"),
    "Pool": ("pooling", "#f5cf9b"),
    "Subsampling": ("trainable subsampling", "#f5cf9b"),
    "GlobalAveragePool": ("average of each map", "#f5cf9b"),
    "FullyConnected": ("fully connected", "#c9b6e4"),
    "DropConnect": ("fully connected", "#c9b6e4"),
    "RBF": ("distances to the codes", "#e7b3c4"),
    "Representation": ("SIFT, a code, a pyramid", "#a9c8e8"),
    "RBM": ("restricted Boltzmann machine", "#c9b6e4"),
}
_OTHER = "#d0d0d0"
_SLIDING = ("Conv", "TableConv", "LocalConv", "Pool", "Subsampling")  # a window moves over the map
_POINTS = 9
# Inches. Columns: names, boxes (their centre), shapes, kinds.
_WIDTH, _NAMES, _CENTRE, _SHAPES, _KIND_COLUMN = 7.0, 0.1, 2.2, 3.4, 4.5
_WIDEST, _GAP = 2.0, 0.1


@dataclasses.dataclass(frozen=True)
class Block:
    """Layers with the same first part of their names.

    shape: of the output, without the batch. parts: the numbers of maps that are joined.
    """

    name: str
    kind: str
    colour: str
    shape: tuple[int, ...]
    parts: tuple[int, ...]
    has_shortcut: bool


def blocks(module: nn.Module, input_shape: tuple[int, int, int]) -> list[Block]:
    """The blocks of a network, in order. input_shape: (height, width, channels)."""
    variables, images, _ = graph.abstract(module, input_shape)
    calls, _ = graph.trace(module, variables, images)
    groups: dict[str, list[int]] = {}
    for number, call in enumerate(calls):
        groups.setdefault(call.layer.path[0], []).append(number)
    found = [_block(name, numbers, calls) for name, numbers in groups.items()]
    return [block for block in found if block.kind]


def _block(name: str, numbers: list[int], calls: Sequence[graph.Call]) -> Block:
    inside = set(numbers)
    feeders = frozenset().union(*(calls[number].feeders for number in numbers))
    ends = [calls[number] for number in numbers if number not in feeders]
    later = [call for call in calls[max(numbers) + 1 :] if call.feeders & inside]
    shape = ends[0].out_shape if len(ends) == 1 else later[0].in_shape
    maps = [call.out_shape[-1] for call in ends]
    is_joined = len(ends) > 1 and sum(maps) == shape[-1]
    layers = [calls[number] for number in numbers if "Norm" not in _type(calls[number])]
    parts = tuple(maps) if is_joined else (shape[-1],)
    if len(layers) == 1:
        groups = getattr(layers[0].layer, "feature_group_count", 1)
        parts = (shape[-1] // groups,) * groups
    is_added = len(numbers) > 1 and not is_joined
    has_shortcut = is_added and bool(later) and (len(ends) > 1 or not later[0].feeders <= inside)
    colour = _KINDS.get(_type(layers[0]), ("", _OTHER))[1] if layers else _OTHER
    return Block(name, _kind(layers, parts), colour, shape, parts, has_shortcut)


def _type(call: graph.Call) -> str:
    return type(call.layer).__name__


def _kind(layers: Sequence[graph.Call], parts: Sequence[int]) -> str:
    """What the layers of a block are, in words; "" if all are normalisations."""
    if len(layers) > 1:
        count = sum("Conv" in _type(call) for call in layers)
        branches = f"{len(parts)} branches, " if len(parts) > 1 else ""
        return f"{branches}{count} convolutions"
    if not layers:
        return ""
    (call,) = layers
    cost = call.layer.cost(call.in_shape, call.out_shape)
    kind = _KINDS.get(_type(call), (_type(call), _OTHER))[0]
    if _type(call) == "Pool":
        kind = f"{call.layer.kind} {kind}"
    if _type(call) in _SLIDING:
        kind = f"{'x'.join(map(str, cost.window))} {kind}"
    stride = max(cost.stride)
    return f"{kind}, stride {stride}" if stride > 1 else kind


def draw_network(module: nn.Module, input_shape: tuple[int, int, int]) -> Figure:
    """The drawing of a network for images of input_shape (height, width, channels)."""
    image = Block("image", "", "#ffffff", input_shape, (input_shape[-1],), False)
    rows = [image, *blocks(module, input_shape)]
    heights = [_height(block) for block in rows]
    total = sum(heights) + _GAP * (len(rows) + 1)
    figure = Figure(figsize=(_WIDTH, total), facecolor="white")
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set_axis_off()
    axis.set_xlim(0, _WIDTH)
    axis.set_ylim(total, 0)
    scale = _WIDEST / math.sqrt(max(block.shape[0] for block in rows if len(block.shape) == 3))
    top = _GAP
    for number, (block, height) in enumerate(zip(rows, heights, strict=True)):
        if number:
            axis.plot([_CENTRE] * 2, [top - _GAP, top], color="grey", linewidth=1, zorder=0)
        _draw(axis, block, top, scale)
        top += height + _GAP
    return figure


def svg(module: nn.Module, input_shape: tuple[int, int, int]) -> str:
    """The drawing as an SVG file, whose text stays text."""
    file = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "canon"}):
        draw_network(module, input_shape).savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue().decode()


def _height(block: Block) -> float:
    return 0.08 + 0.025 * math.log2(max(block.shape[-1], 2))


def _draw(axis: Axes, block: Block, top: float, scale: float) -> None:
    height = _height(block)
    side = block.shape[0] if len(block.shape) == 3 else 1
    width = max(scale * math.sqrt(side), 0.12)
    left, gap = _CENTRE - width / 2, 0.04 if len(block.parts) > 1 else 0
    inner = width - gap * (len(block.parts) - 1)
    x = left
    for part in block.parts:
        share = inner * part / sum(block.parts)
        box = Rectangle((x, top), share, height, facecolor=block.colour, edgecolor="black", lw=0.6)
        axis.add_patch(box)
        x += share + gap
    if block.has_shortcut:
        right, bottom = left + width + 0.1, top + height + 0.3 * _GAP
        xs = (_CENTRE, right, right, _CENTRE)
        axis.plot(xs, (top - 0.3 * _GAP,) * 2 + (bottom,) * 2, color="#b03030", linewidth=1.2)
    middle = top + height / 2
    shape = " x ".join(map(str, block.shape))
    kind = f"{block.kind}, shortcut" if block.has_shortcut else block.kind
    for place, text in ((_NAMES, block.name), (_SHAPES, shape), (_KIND_COLUMN, kind)):
        axis.text(place, middle, text, verticalalignment="center", fontsize=_POINTS)
