"""ReLU trains faster than saturating activations (Krizhevsky 2012, fig. 1)."""

import pathlib
from collections.abc import Callable

import numpy as np
from matplotlib.figure import Figure

from studies.activation_rates import network
from studies.study import Results, Run, Scale, Study, Verdict, epochs_to, last_percent
from train_lib.evaluation.trained import load_run

EPOCHS, TRAIN = "epochs to 25 % training error", "training error, %"
LAYERS = ("conv1", "conv2", "conv3")
# The best of `activation_rates`. A test compares them with its results.
RATES = dict.fromkeys(("relu", "tanh", "sigmoid", "leaky_relu", "prelu", "maxout"), 0.03)
LOWER = "maxout, 0.01"  # with its best rate maxout diverges later, which that study does not see
# The runs of rectifiers and maxout are shorter: they get there first.
LONGEST = {"tanh": 56.0, "sigmoid": 56.0, "maxout": 20.0, LOWER: 20.0}
USUAL = 28.0  # epochs
PUBLISHED = {"relu": "6", "tanh": "36"}  # epochs


def _runs(**overrides) -> list[Run]:
    runs = []
    for name, rate in (RATES | {LOWER: 0.01}).items():
        activation = name.partition(",")[0]
        fields = network(activation, rate, LONGEST.get(name, USUAL)) | overrides
        runs.append(Run(name, "cuda_convnet:18pct", fields, PUBLISHED.get(name, "")))
    return runs


def _slope(layer: str) -> Callable[[pathlib.Path], float]:
    """The mean slope of a layer's PReLUs."""

    def mean(workdir: pathlib.Path) -> float:
        network = load_run(workdir)
        if network.config.model.activation != "prelu":
            return float("nan")
        return float(network.params[f"{layer}_prelu"]["slope"].mean())

    return mean


def verdict(results: Results) -> Verdict:
    """See `STUDY.rule`."""

    def epochs(name: str) -> float:
        """nan if a run diverged."""
        is_sound = np.isfinite(results.of(name, TRAIN))
        reached = np.nan_to_num(results.of(name, EPOCHS), nan=LONGEST.get(name, USUAL))
        return float(np.where(is_sound, reached, np.nan).mean())

    relu, tanh = epochs("relu"), epochs("tanh")
    if tanh >= 4 * relu:
        return Verdict.REPRODUCED
    return Verdict.DIRECTION if tanh > relu else Verdict.NOT_REPRODUCED


def figure(results: Results) -> Figure:
    """The epochs to 25 %, and the slopes of PReLU."""
    drawing = Figure(figsize=(10, 4), layout="constrained")
    epochs, slopes = drawing.subplots(1, 2)
    names = [*RATES, LOWER]
    means = [results.mean(name, EPOCHS) for name in names]
    epochs.bar(names, means)
    for place, (name, mean) in enumerate(zip(names, means, strict=True)):
        if np.isnan(mean):
            fault = "diverged" if np.isnan(results.mean(name, TRAIN)) else "not reached"
            epochs.text(place, 0, f" {fault}", rotation=90, ha="center", va="bottom")
    epochs.set(ylabel=EPOCHS)
    epochs.tick_params(axis="x", rotation=30)
    for seed in range(len(results.of("prelu", TRAIN))):
        slopes.plot(LAYERS, [results.of("prelu", f"slope, {n}")[seed] for n in LAYERS], "o-")
    slopes.axhline(0.25, color="k", linestyle=":", label="initial slope")
    slopes.axhline(0, color="k", linewidth=0.8)
    slopes.set(ylabel="mean slope of PReLU, one line a seed")
    slopes.legend()
    return drawing


STUDY = Study(
    claim="A four-layer network with ReLU reaches 25 % training error on CIFAR-10 after 6 epochs,"
    " and with tanh after 36.",
    source="Krizhevsky 2012, fig. 1",
    changes="The four-layer network of cuda-convnet's 18 % recipe without LRN and weight decay (the"
    " source does not say which network it is), with the rates of the study activation_rates, on"
    " the first 10,000 images in place of 50,000: an epoch is a fifth of the source's, so only the"
    " ratio of epochs compares. Test errors are those of the first 2,000 test images. Runs end"
    " after 28 epochs, those of tanh and sigmoid after 56, those of maxout after 20. Maxout"
    " computes twice as many maps, of which it keeps the larger values, and has a second rate,"
    " because it diverges with the first one. Leaky ReLU, PReLU, maxout and sigmoid are not in the"
    " figure.",
    scales={
        "smoke": Scale(
            _runs(**{"epochs": 1.0, "dataset.train_split": "train[:128]"}), seeds=1, hours=0.03
        ),
        "small": Scale(_runs(), seeds=3, hours=3.2),
    },
    measures={
        EPOCHS: epochs_to("train/top1_error", 0.25),
        TRAIN: last_percent("train/top1_error"),
        "test error, %": last_percent("test/top1_error"),
        **{f"slope, {layer}": _slope(layer) for layer in LAYERS},
    },
    rule="Reproduced if tanh needs at least four times the epochs of ReLU (mean over seeds)."
    " Direction reproduced if it needs more. A network that does not get there counts as the length"
    " of its run.",
    verdict=verdict,
    figure=figure,
    remarks="Tanh is slower than ReLU, but far less so than in the source, which names neither its"
    " network nor its initial weights and rates. Here inputs of a deviation of about 1 and Glorot's"
    " initial weights may keep tanh away from saturation. In twice as many epochs it fits all"
    " training images and errs less on the test images. Sigmoid does not reach 25 %. Maxout"
    " diverges with the rate that was best in 8 epochs. With a third of it, maxout learns about as"
    " fast as ReLU: this run was added after the others. PReLU's slopes fall from the first layer"
    " to the last, where the negative side is nearly cut off, as in ReLU.",
    published="epochs",
)
