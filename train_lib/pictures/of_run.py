"""Which pictures there are of a run, by the names of their files: what `--mode=inspect` draws.

Each function yields (name, figure), one at a time, and nothing where the net has not what the
picture shows.
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
    dropping,
    evidence,
    gradients,
    lenet,
    maps,
    panels,
    pooling,
    run_plots,
    weights,
)

Named = Iterator[tuple[str, Figure]]
CELLS = 10  # along each side of an image, under occlusion
FIELDS = 6  # receptive fields in one picture
SMALL = 64  # images of at most so many pixels a side take more passes
PATCH = 9  # side of the part of a map that is pooled


@dataclasses.dataclass(frozen=True)
class LookedAt:
    """A net and the pictures that it looks at.

    views: uint8 [n, height, width, channels], as the net's test cuts them. labels: int [n].
    captions: one a picture. shown: how many have pictures of their own. layer: a name of
    `inspection.activations`, whose maps are shown. answers: whether the labels are the net's own.
    """

    net: Trained
    views: np.ndarray
    labels: np.ndarray
    captions: Sequence[str]
    shown: int
    layer: str
    answers: bool = False

    @functools.cached_property
    def inputs(self) -> jax.Array:
        """Network input, float32 [n, height, width, channels]."""
        return jax.jit(self.net.exp.transform)(self.views)

    @functools.cached_property
    def found(self) -> dict[str, jax.Array]:
        """What every layer gives for them."""
        return inspection.activations(self.net.module, self.net.on_device, self.inputs)

    @property
    def is_small(self) -> bool:
        return max(self.net.input_shape[:2]) <= SMALL


def of_weights(net: Trained) -> Named:
    """filters, weight_histograms; of LeNet-5 c3_table and rbf_codes."""
    kernel = weights.first_kernel(net.params, net.input_shape)
    if kernel is not None:
        yield "filters", weights.filters(kernel, getattr(net.module, "towers", 1))
    yield "weight_histograms", weights.weight_histograms(net.variables)
    if getattr(net.module, "c3", None) == "table":
        yield "c3_table", lenet.c3_table()
    if getattr(net.module, "output", None) == "rbf":
        yield "rbf_codes", lenet.rbf_codes()


def of_answers(seen: LookedAt) -> Named:
    """confusion_matrix, where the true classes are known."""
    if seen.answers:
        return
    found = seen.net.probabilities(seen.net.on_device, seen.views)
    predicted = np.argmax(found, axis=1)
    yield (
        "confusion_matrix",
        run_plots.confusion_matrix(seen.labels, predicted, seen.net.class_names),
    )


def of_activations(seen: LookedAt) -> Named:
    """activation_histograms, dead_units, feature_maps_N; of an RBF output f6_and_codes."""
    yield "activation_histograms", maps.activation_histograms(seen.found)
    shares = maps.dead_units(seen.found)
    if shares:
        figure = maps.dead_unit_bars(shares)
        figure.suptitle(f"of {len(seen.views)} images", fontsize=8)
        yield "dead_units", figure
    for number in range(seen.shown):
        title = f"{seen.layer} of {seen.captions[number]}"
        figure = maps.feature_maps(np.asarray(seen.found[seen.layer][number]), title)
        yield f"feature_maps_{number + 1}", figure
    if getattr(seen.net.module, "output", None) == "rbf":
        f6 = np.asarray(seen.found[inspection.activated(seen.found, "f6")])
        yield "f6_and_codes", lenet.rbf_codes(f6, seen.labels)


def of_gradients(seen: LookedAt) -> Named:
    """gradient_norms: of the run, and of its net as it starts, with sigmoids and with ReLU."""
    net, shape = seen.net, (1, *seen.net.input_shape)
    nets = {f"this run, step {net.step}": (net.module, net.variables)}
    for activation in ("sigmoid", "relu"):
        module = net.module.clone(activation=activation)
        start = functools.partial(jax.jit(module.init), jax.random.key(0))
        nets[f"untrained, {activation}"] = (module, lambda start=start: start(np.zeros(shape)))
    norms = {}
    for label, (module, variables) in nets.items():
        variables = variables() if callable(variables) else variables  # one is held at a time
        norms[label] = gradients.gradient_norms(
            module, variables, seen.inputs, seen.labels, net.exp.loss
        )
    yield "gradient_norms", gradients.gradient_norm_curves(norms)


def of_images(seen: LookedAt) -> Named:
    """receptive_fields_N, saliency_N and occlusion_N of each picture that is shown."""
    net = seen.net
    boxes = _boxes(net)
    for number in range(seen.shown):
        caption, label = seen.captions[number], int(seen.labels[number])
        name, picture = net.class_names[label], np.asarray(seen.inputs[number])
        if boxes:
            yield f"receptive_fields_{number + 1}", evidence.receptive_field_on(picture, boxes)
        heat = evidence.saliency(net.module, net.on_device, picture, label)
        title = f"{caption}: |d logit of {name} / d pixel|"
        yield f"saliency_{number + 1}", evidence.heat_on(picture, heat, title)
        view = seen.views[number]
        stride = -(-max(view.shape[:2]) // CELLS)
        heat = evidence.occlusion(
            lambda views: net.probabilities(net.on_device, views),
            view,
            label,
            window=2 * stride,
            stride=stride,
            fill=np.median(view, axis=(0, 1)),  # of a digit, paper without ink
        )
        title = f"{caption}: probability of {name}, {2 * stride}x{2 * stride} pixels hidden"
        yield f"occlusion_{number + 1}", evidence.heat_on(view, heat, title)


def _boxes(net: Trained) -> dict[str, tuple[int, int, int, int]]:
    """The middle unit's receptive field, of layers with maps that each see more than the last.

    Up to the first that sees about all of the image.
    """
    largest, names = 1, []
    for row in describe(net.module, "", net.input_shape)["layers"]:
        grows = largest < row["receptive_field"] and largest < max(net.input_shape[:2])
        if len(row["output_shape"]) == 3 and grows:
            largest = row["receptive_field"]
            names.append(row["name"])
    return {
        name: receptive_field(net.module, net.input_shape, name)
        for name in panels.some(names, FIELDS)
    }


def of_dropping(seen: LookedAt) -> Named:
    """dropout_masks and dropout_average, of a net that drops."""
    net, first = seen.net, seen.inputs[:1]
    dropped = inspection.first_input(
        net.module,
        net.variables,
        first,
        lambda layer: isinstance(layer, layers.Dropout) and layer.rate > 0,
    )
    if dropped:
        layer, value = dropped
        yield "dropout_masks", dropping.dropout_masks(_one_map(value), layer.rate, seed=0, count=5)
    few = seen.inputs[: 16 if seen.is_small else 4]
    counts = [2**i for i in range(10 if seen.is_small else 6)]
    try:
        found = dropping.dropout_average(net.module, net.variables, few, counts, seed=0)
    except UserError:  # it drops nothing
        return
    yield "dropout_average", dropping.dropout_average_curve(found)


def _one_map(value: jax.Array) -> np.ndarray:
    """Of [1, h, w, c] the map with the largest value, of [1, n] or [1, 1, 1, n] the vector."""
    value = np.asarray(value[0], np.float32)
    if value.ndim == 1 or value.shape[:2] == (1, 1):
        return value.reshape(-1)
    return value[..., value.max(axis=(0, 1)).argmax()]


def of_pooling(seen: LookedAt) -> Named:
    """max_pool_routing: the first max pooling, on the part of a map around its largest value."""
    net = seen.net
    pooled = inspection.first_input(
        net.module,
        net.variables,
        seen.inputs[:1],
        lambda layer: isinstance(layer, layers.Pool) and layer.kind == "max",
    )
    if not pooled:
        return
    layer, value = pooled
    one = _one_map(value)
    if one.ndim != 2 or min(one.shape) < layer.window:
        return
    place = np.unravel_index(one.argmax(), one.shape)
    size = [min(max(PATCH, layer.window), side) for side in one.shape]
    start = [
        min(max(0, p - s // 2), side - s) for p, s, side in zip(place, size, one.shape, strict=True)
    ]
    part = one[start[0] :, start[1] :][: size[0], : size[1]]
    yield "max_pool_routing", pooling.max_pool_routing(part, layer.window, layer.stride)
