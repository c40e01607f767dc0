"""The figures that --mode=inspect draws, by the names of their files.

Each function yields (name, figure), one at a time. A figure that does not apply to the network is
left out.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from matplotlib.figure import Figure

from errors import UserError
from input_pipeline import decode
from models import inspection, layers, rbm
from models.receptive_fields import receptive_field
from models.summary import describe
from train_lib.evaluation.trained import Trained
from train_lib.pictures import (
    activation_maps,
    dropout,
    evidence,
    gradients,
    lenet_codes,
    panels,
    pooling,
    run_plots,
    weights,
)
from train_lib.pictures import rbm as rbm_figures

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

    network: Trained
    views: np.ndarray
    labels: np.ndarray
    captions: Sequence[str]
    shown: int
    layer: str
    has_true_labels: bool = True

    @functools.cached_property
    def inputs(self) -> jax.Array:
        """Network input, float32 [n, height, width, channels]."""
        return jax.jit(self.network.exp.transform)(self.views)

    @functools.cached_property
    def activations(self) -> dict[str, jax.Array]:
        """Every layer's output for the images."""
        network = self.network
        return inspection.activations(
            network.module, network.on_device, self.inputs, drop_scale=network.drop_scale
        )

    def first_input(self, is_wanted, images: int = 1):
        """(layer, its input for the first images) of the first layer wanted; None without one."""
        network, inputs = self.network, self.inputs[:images]
        return inspection.first_input(
            network.module, network.variables, inputs, is_wanted, network.drop_scale
        )


def weight_figures(network: Trained) -> Named:
    """filters, weight_histograms; of LeNet-5 c3_table and rbf_codes."""
    kernel = weights.first_kernel(network.params, network.input_shape)
    if kernel is not None:
        yield "filters", weights.filters(kernel, getattr(network.module, "towers", 1))
    yield "weight_histograms", weights.weight_histograms(network.variables)
    if getattr(network.module, "c3", None) == "table":
        yield "c3_table", lenet_codes.c3_table()
    if getattr(network.module, "output", None) == "rbf":
        yield "rbf_codes", lenet_codes.rbf_codes()


def image_figures(subject: Subject) -> Named:
    """All figures that need images. confusion_matrix only if the true classes are known."""
    network = subject.network
    if subject.has_true_labels:
        predicted = np.argmax(network.probabilities(network.on_device, subject.views), axis=1)
        matrix = run_plots.confusion_matrix(subject.labels, predicted, network.readable_names)
        yield "confusion_matrix", matrix
    yield from activation_figures(subject)
    yield from gradient_figures(subject)
    yield from _evidence(subject)
    yield from _dropout(subject)
    yield from pooling_figures(subject)
    yield from _rbm(subject)


def activation_figures(subject: Subject) -> Named:
    """activation_histograms, dead_units, feature_maps_N; of an RBF output f6_and_codes."""
    activations = subject.activations
    yield "activation_histograms", activation_maps.activation_histograms(activations)
    shares = activation_maps.dead_units(activations)
    if shares:
        yield "dead_units", activation_maps.dead_unit_bars(shares, len(subject.views))
    for number in range(subject.shown):
        title = f"{subject.layer} of {subject.captions[number]}"
        maps = np.asarray(activations[subject.layer][number])
        yield f"feature_maps_{number + 1}", activation_maps.feature_maps(maps, title)
    seen = subject.first_input(lambda m: isinstance(m, layers.RBF), len(subject.inputs))
    if seen:
        yield "f6_and_codes", lenet_codes.rbf_codes(np.asarray(seen[1]), subject.labels)


def _activates(layer) -> bool:
    is_dropconnect = isinstance(layer, layers.DropConnect)
    return isinstance(layer, layers.Activation) or (is_dropconnect and bool(layer.activation))


def gradient_figures(subject: Subject) -> Named:
    """gradient_norms: of the run and, if it has activations, untrained with sigmoids and ReLU."""
    network, norms = subject.network, {}
    if isinstance(network.module, rbm.RBMStack):  # only its classifier has a gradient of the loss
        return

    def add(label, module, variables, drop_scale=1.0):
        norms[label] = gradients.gradient_norms(
            module, variables, subject.inputs, subject.labels, network.exp.loss, drop_scale
        )

    add(f"this run, step {network.step}", network.module, network.variables, network.drop_scale)
    if subject.first_input(_activates):
        rectified = network.module.clone(activation="relu")
        # Neither activation has parameters, so both networks have the same initial weights.
        initial = jax.jit(rectified.init)(jax.random.key(0), np.zeros((1, *network.input_shape)))
        add("untrained, sigmoid", network.module.clone(activation="sigmoid"), initial)
        add("untrained, relu", rectified, initial)
    yield "gradient_norms", gradients.gradient_norm_curves(norms)


def _evidence(subject: Subject) -> Named:
    """receptive_fields_N, saliency_N and occlusion_N of each image that is shown."""
    network, boxes = subject.network, receptive_fields(subject.network)
    for number in range(subject.shown):
        caption, label = subject.captions[number], int(subject.labels[number])
        image = np.asarray(subject.inputs[number])
        if boxes:
            yield f"receptive_fields_{number + 1}", evidence.receptive_field_on(image, boxes)
        heat = evidence.saliency(
            network.module, network.on_device, image, label, network.drop_scale
        )
        title, unit = f"saliency, {caption}", "|d logit / d pixel|"
        yield f"saliency_{number + 1}", evidence.heat_on(image, heat, title, unit)
        yield f"occlusion_{number + 1}", _occlusion(subject, number)


def _occlusion(subject: Subject, number: int) -> Figure:
    """The change of the class's probability while a square hides a part of an image."""
    network, view, label = subject.network, subject.views[number], int(subject.labels[number])
    stride = -(-max(view.shape[:2]) // OCCLUSION_CELLS)

    def probability(views):
        return network.probabilities(network.on_device, views)[:, label]

    whole = float(probability(np.repeat(view[None], evidence.BATCH, axis=0))[0])
    fill = np.median(view, axis=(0, 1))  # for a digit, the paper
    heat = evidence.occlusion(probability, view, 2 * stride, stride, fill)
    title = f"occlusion, {subject.captions[number]}: probability {whole:.2g} if nothing is hidden"
    unit = f"probability with {2 * stride}x{2 * stride} pixels hidden"
    return evidence.heat_on(view, heat, title, unit, neutral=whole, cell=stride)


def receptive_fields(network: Trained) -> dict[str, tuple[int, int, int, int]]:
    """Boxes (top, left, height, width) of the central unit's receptive field, by layer.

    Only layers with maps whose field is larger than that of all layers before, up to the first
    that covers about the whole image.
    """
    largest, names = 1, []
    for row in describe(network.module, "", network.input_shape)["layers"]:
        is_larger = largest < row["receptive_field"] and largest < max(network.input_shape[:2])
        if len(row["output_shape"]) == 3 and is_larger:
            largest = row["receptive_field"]
            names.append(row["name"])
    names = panels.evenly_spaced(names, MOST_FIELDS)
    return {name: receptive_field(network.module, network.input_shape, name) for name in names}


def _dropout(subject: Subject) -> Named:
    """dropout_masks and dropout_average, of a network that drops."""
    network = subject.network
    if not network.drop_scale:  # annealed to 0
        return
    dropped = subject.first_input(lambda m: isinstance(m, layers.Dropout) and m.rate > 0)
    if dropped:
        layer, value = dropped
        rate = layer.rate * network.drop_scale
        yield "dropout_masks", dropout.dropout_masks(_one_map(value), rate, seed=0, count=5)
    is_small = max(network.input_shape[:2]) <= SMALL
    inputs = subject.inputs[: 16 if is_small else 4]
    counts = [2**i for i in range(10 if is_small else 6)]
    try:
        distances = dropout.dropout_average(
            network.module, network.variables, inputs, counts, 0, network.drop_scale
        )
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
    peak = np.unravel_index(one_map.argmax(), one_map.shape)
    for place, length in zip(peak, one_map.shape, strict=True):
        size = min(max(PATCH, layer.window), length)
        start = np.clip(place - size // 2, 0, length - size)
        part.append(slice(start, start + size))
    figure = pooling.max_pool_routing(one_map[tuple(part)], layer.window, layer.stride)
    yield "max_pool_routing", figure


def _rbm(subject: Subject) -> Named:
    """reconstructions, of restricted Boltzmann machines; free_energies if the data set is known."""
    network, inputs = subject.network, subject.inputs
    if not isinstance(network.module, rbm.RBMStack):
        return
    stack = rbm.machines(network.module, network.params)
    yield "reconstructions", rbm_figures.reconstructions(inputs, rbm.reconstruct(stack, inputs))
    if not subject.has_true_labels:
        return
    exp, views = network.exp, []
    for i in np.linspace(0, len(exp.train_split) - 1, len(inputs)).astype(int):
        with contextlib.suppress(decode.BadImage):
            views.append(exp.picture(exp.train_split, i))
    groups = {"training": exp.transform(np.stack(views)), "test": inputs}
    energies = {name: rbm.free_energies(stack, images) for name, images in groups.items()}
    yield "free_energies", rbm_figures.free_energy_histograms(energies)
