"""The gradient of sigmoid networks vanishes with depth (Glorot 2010, He 2015)."""

import functools
import pathlib
from collections.abc import Callable

import numpy as np
from matplotlib.figure import Figure

from input_pipeline import sources
from studies.study import Results, Run, Scale, Study, Verdict
from train_lib.evaluation.trained import load_run
from train_lib.pictures.gradients import gradient_norms

DEPTHS = (2, 4, 8, 16, 32)  # hidden layers
PLAIN = (20, 32, 44, 56, 110)
PLACES = ("first layer", "a quarter", "half", "three quarters", "last layer")
SMALL = {"model.initializer": "gaussian", "model.initializer_scale": 0.01}
SIGMOID, RELU = {"model.activation": "sigmoid"}, {"model.activation": "relu"}
KINDS = {
    "sigmoid, Glorot": SIGMOID | {"model.initializer": "glorot"},
    "ReLU, deviation 0.01": RELU | SMALL,
    "ReLU, He": RELU | {"model.initializer": "he"},
}
NORMALISED = "ReLU, deviation 0.01, BatchNorm"


def _runs(depths=DEPTHS, plain=PLAIN) -> list[Run]:
    # One step, too small to change the initial weights.
    still = {"steps": 1, "schedule.name": "constant", "schedule.learning_rate": 1e-12}
    split = {"dataset.test_split": "test[:100]"}
    perceptrons = [
        Run(f"{kind}, {depth}", f"mlp:{'-'.join(['100'] * depth)}", still | split | overrides)
        for kind, overrides in KINDS.items()
        for depth in depths
    ]
    normalised = [
        Run(f"{NORMALISED}, {depth}", f"resnet_cifar10:plain-{depth}", still | split | SMALL)
        for depth in plain
    ]
    return perceptrons + normalised


@functools.lru_cache(maxsize=1)
def _sizes(workdir: pathlib.Path) -> np.ndarray:
    """Root mean square of the gradient of each layer's weights, of 100 training images."""
    network = load_run(workdir)
    split = sources.load(network.config.dataset, "train[:100]")
    images, labels, _ = zip(*map(split.read, range(len(split))), strict=True)
    inputs = network.preprocess(np.stack(images))
    loss = network.exp.loss.per_example
    norms = gradient_norms(network.module, network.variables, inputs, np.array(labels), loss)
    weights = [network.variables["params"] for _ in norms]
    for i, name in enumerate(norms):
        for part in (*name.split("/"), "kernel"):
            weights[i] = weights[i][part]
    sizes = [norm / np.sqrt(w.size) for norm, w in zip(norms.values(), weights, strict=True)]
    return np.asarray(sizes, np.float64)


def _size_at(place: int) -> Callable[[pathlib.Path], float]:
    def log_size(workdir: pathlib.Path) -> float:
        *sizes, _ = _sizes(workdir)  # the last is the classifier's
        return float(np.log10(sizes[round(place / 4 * (len(sizes) - 1))] or np.nan))

    return log_size


def verdict(results: Results) -> Verdict:
    """See `STUDY.rule`."""

    def lost(kind: str, depth: int) -> float:
        """How many powers of ten the first layer's gradient is smaller than the last's."""
        first, last = (results.mean(f"{kind}, {depth}", PLACES[i]) for i in (0, -1))
        return float("inf") if np.isnan(first) else last - first

    sigmoid = [lost("sigmoid, Glorot", depth) for depth in DEPTHS]
    kept = max(*(lost("ReLU, He", d) for d in DEPTHS), *(lost(NORMALISED, d) for d in PLAIN))
    if sigmoid != sorted(sigmoid) or sigmoid[-1] < 3:
        return Verdict.NOT_REPRODUCED
    return Verdict.REPRODUCED if kept < 1 else Verdict.DIRECTION


def figure(results: Results) -> Figure:
    """The gradient over the depth, one line for each network."""
    drawing = Figure(figsize=(11, 6), layout="constrained")
    kinds = [(kind, DEPTHS) for kind in KINDS] + [(NORMALISED, PLAIN)]
    for axis, (kind, depths) in zip(drawing.subplots(2, 2, sharey=True).flat, kinds, strict=True):
        for depth in depths:
            means = [results.mean(f"{kind}, {depth}", place) for place in PLACES]
            axis.plot(PLACES, means, "o-", label=f"{depth} layers")
        axis.set_title(kind, fontsize=10)
        axis.set_ylabel("gradient, power of ten")
        axis.legend(fontsize=7)
    return drawing


STUDY = Study(
    claim="In a deep network of sigmoids the gradient vanishes on its way to the first layers. With"
    " rectifiers and He's initial weights, or with batch normalisation, it does not.",
    source="Glorot 2010, sec. 4; He 2015 (Delving deep into rectifiers), sec. 2.2; Ioffe 2015",
    changes="Perceptrons of 100 units a layer on MNIST, with their initial weights. Those with"
    " batch normalisation are the plain convolutional networks of He 2015 on CIFAR-10; none was run"
    " without it. The gradient is that of 100 training images. The values are powers of ten: the"
    " logarithm of the root mean square of the gradient by a layer's weights.",
    scales={
        "smoke": Scale(_runs((2,), (20,)), seeds=1, hours=0.02),
        "small": Scale(_runs(), seeds=2, hours=0.4),
    },
    measures={place: _size_at(number) for number, place in enumerate(PLACES)},
    rule="Direction reproduced if, with sigmoids, the ratio of the first layer's gradient to the"
    " last layer's falls with each greater depth, to a thousandth or less. Reproduced if, in"
    " addition, with He's weights and with batch normalisation it is less than ten times smaller at"
    " every depth.",
    verdict=verdict,
    figure=figure,
    remarks="With batch normalisation the gradient does not vanish. At the initial weights it grows"
    " towards the first layers, in the deepest network by many powers of ten. Where a value is"
    " missing, the gradient is smaller than the smallest number of float32.",
)
