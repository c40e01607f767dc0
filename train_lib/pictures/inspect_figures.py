"""The figures that --mode=inspect draws, by the names of their files.

Each function yields (name, figure), one at a time. A figure that does not apply to the network is
left out.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from matplotlib.figure import Figure

from errors import UserError
from models import inspection, layers
from models.receptive_fields import receptive_field
from models.summary import describe
from train_lib.evaluation.trained import Trained
from train_lib.pictures import (
    activation_maps,
    dropout,
    evidence,
    gradients,
    lenet_codes,
    max_pooling,
    panels,
    run_plots,
    weights,
)

Named = Iterator[tuple[str, Figure]]
OCCLUSION_CELLS = 10  # along each side of an image
MOST_FIELDS = 6  # receptive fields in one figure
SMALL = 64  # networks for images of at most 64 pixels a side are averaged over more masks
PATCH = 9  # side of the part of a map that is pooled


@dataclasses.dataclass(frozen=True)
class Subject:
    """A network and the images that it is inspected with.

    views: uint8 [n, height, width, channels], as an evaluation cuts them. labels: int [n].
    captions: one for each image. shown: how many images have separate figures.
    layer: a name of `inspection.activations`, whose feature maps are shown.
    has_true_labels: False if the labels are the network's predictions.
    """

    net: Trained
    views: np.ndarray
    labels: np.ndarray
    captions: Sequence[str]
    shown: int
    layer: str
    has_true_labels: bool = True

    @functools.cached_property
    def inputs(self) -> jax.Array:
        """Network input, float32 [n, height, width, channels]."""
        return jax.jit(self.net.exp.transform)(self.views)

    @functools.cached_property
    def activations(self) -> dict[str, jax.Array]:
        """Every layer's output for the images."""
        return inspection.activations(self.net.module, self.net.on_device, self.inputs)

    def first_input(self, is_wanted):
        """(layer, its input for the first image) of the first layer wanted; None without one."""
        net = self.net
        return inspection.first_input(net.module, net.variables, self.inputs[:1], is_wanted)


def weight_figures(net: Trained) -> Named:
    """filters, weight_histograms; of LeNet-5 c3_table and rbf_codes."""
    kernel = weights.first_kernel(net.params, net.input_shape)
    if kernel is not None:
        yield "filters", weights.filters(kernel, getattr(net.module, "towers", 1))
    yield "weight_histograms", weights.weight_histograms(net.variables)
    if getattr(net.module, "c3", None) == "table":
        yield "c3_table", lenet_codes.c3_table()
    if getattr(net.module, "output", None) == "rbf":
        yield "rbf_codes", lenet_codes.rbf_codes()


def image_figures(subject: Subject) -> Named:
    """All figures that need images."""
    yield from _confusion(subject)
    yield from activation_figures(subject)
    yield from gradient_figures(subject)
    yield from _evidence(subject)
    yield from _dropout(subject)
    yield from pooling_figures(subject)


def _confusion(subject: Subject) -> Named:
    """confusion_matrix, if the true classes are known."""
    net = subject.net
    if subject.has_true_labels:
        predicted = np.argmax(net.probabilities(net.on_device, subject.views), axis=1)
        matrix = run_plots.confusion_matrix(subject.labels, predicted, net.class_names)
        yield "confusion_matrix", matrix


def activation_figures(subject: Subject) -> Named:
    """activation_histograms, dead_units, feature_maps_N; of an RBF output f6_and_codes."""
    activations = subject.activations
    yield "activation_histograms", activation_maps.activation_histograms(activations)
    shares = activation_maps.dead_units(activations)
    if shares:
        figure = activation_maps.dead_unit_bars(shares)
        figure.suptitle(f"of {len(subject.views)} images", fontsize=8)
        yield "dead_units", figure
    for number in range(subject.shown):
        title = f"{subject.layer} of {subject.captions[number]}"
        maps = np.asarray(activations[subject.layer][number])
        yield f"feature_maps_{number + 1}", activation_maps.feature_maps(maps, title)
    if getattr(subject.net.module, "output", None) == "rbf":
        f6 = np.asarray(activations[inspection.activated(activations, "f6")])
        yield "f6_and_codes", lenet_codes.rbf_codes(f6, subject.labels)


def gradient_figures(subject: Subject) -> Named:
    """gradient_norms: of the run, and of its untrained network with sigmoids and with ReLU."""
    net, norms = subject.net, {}

    def add(label, module, variables):
        norms[label] = gradients.gradient_norms(
            module, variables, subject.inputs, subject.labels, net.exp.loss
        )

    add(f"this run, step {net.step}", net.module, net.variables)
    for activation in ("sigmoid", "relu"):
        module = net.module.clone(activation=activation)
        untrained = jax.jit(module.init)(jax.random.key(0), np.zeros((1, *net.input_shape)))
        add(f"untrained, {activation}", module, untrained)
    yield "gradient_norms", gradients.gradient_norm_curves(norms)


def _evidence(subject: Subject) -> Named:
    """receptive_fields_N, saliency_N and occlusion_N of each image that is shown."""
    net, boxes = subject.net, receptive_fields(subject.net)
    for number in range(subject.shown):
        caption, label = subject.captions[number], int(subject.labels[number])
        name, image = net.class_names[label], np.asarray(subject.inputs[number])
        if boxes:
            yield f"receptive_fields_{number + 1}", evidence.receptive_field_on(image, boxes)
        heat = evidence.saliency(net.module, net.on_device, image, label)
        title = f"{caption}: |d logit of {name} / d pixel|"
        yield f"saliency_{number + 1}", evidence.heat_on(image, heat, title)
        view = subject.views[number]
        stride = -(-max(view.shape[:2]) // OCCLUSION_CELLS)
        heat = evidence.occlusion(
            lambda views: net.probabilities(net.on_device, views),
            view,
            label,
            window=2 * stride,
            stride=stride,
            fill=np.median(view, axis=(0, 1)),  # for a digit, the paper
        )
        title = f"{caption}: probability of {name}, {2 * stride}x{2 * stride} pixels hidden"
        yield f"occlusion_{number + 1}", evidence.heat_on(view, heat, title)


def receptive_fields(net: Trained) -> dict[str, tuple[int, int, int, int]]:
    """Boxes (top, left, height, width) of the central unit's receptive field, by layer.

    Only layers with maps whose field is larger than that of all layers before, up to the first
    that covers about the whole image.
    """
    largest, names = 1, []
    for row in describe(net.module, "", net.input_shape)["layers"]:
        is_larger = largest < row["receptive_field"] and largest < max(net.input_shape[:2])
        if len(row["output_shape"]) == 3 and is_larger:
            largest = row["receptive_field"]
            names.append(row["name"])
    names = panels.evenly_spaced(names, MOST_FIELDS)
    return {name: receptive_field(net.module, net.input_shape, name) for name in names}


def _dropout(subject: Subject) -> Named:
    """dropout_masks and dropout_average, of a network that drops."""
    net = subject.net
    dropped = subject.first_input(lambda m: isinstance(m, layers.Dropout) and m.rate > 0)
    if dropped:
        layer, value = dropped
        yield "dropout_masks", dropout.dropout_masks(_one_map(value), layer.rate, seed=0, count=5)
    is_small = max(net.input_shape[:2]) <= SMALL
    inputs = subject.inputs[: 16 if is_small else 4]
    counts = [2**i for i in range(10 if is_small else 6)]
    try:
        distances = dropout.dropout_average(net.module, net.variables, inputs, counts, seed=0)
    except UserError:  # it drops nothing
        return
    yield "dropout_average", dropout.dropout_average_curve(distances)


def _one_map(value: jax.Array) -> np.ndarray:
    """Of [1, h, w, c] the map with the largest value, of [1, n] or [1, 1, 1, n] the vector."""
    value = np.asarray(value[0], np.float32)
    if value.ndim == 1 or value.shape[:2] == (1, 1):
        return value.reshape(-1)
    return value[..., value.max(axis=(0, 1)).argmax()]


def pooling_figures(subject: Subject) -> Named:
    """max_pool_routing: the first max pooling, on the part of a map around its largest value."""
    pooled = subject.first_input(lambda m: isinstance(m, layers.Pool) and m.kind == "max")
    if not pooled:
        return
    layer, value = pooled
    one_map = _one_map(value)
    if one_map.ndim != 2 or min(one_map.shape) < layer.window:
        return
    part = []
    for place, length in zip(
        np.unravel_index(one_map.argmax(), one_map.shape), one_map.shape, strict=True
    ):
        size = min(max(PATCH, layer.window), length)
        start = min(max(0, place - size // 2), length - size)
        part.append(slice(start, start + size))
    figure = max_pooling.max_pool_routing(one_map[tuple(part)], layer.window, layer.stride)
    yield "max_pool_routing", figure
