"""The learning rate at which the network of `activations` trains fastest, for each activation."""

import numpy as np
from matplotlib.figure import Figure

from studies.study import Results, Run, Scale, Study, Verdict, last_percent

TRAIN = "training error, %"
ACTIVATIONS = ("relu", "tanh", "sigmoid", "leaky_relu", "prelu", "maxout")
RATES = (0.003, 0.01, 0.03, 0.1)
EXAMPLES = 10_000


def network(activation: str, rate: float, epochs: float) -> dict:
    """Overrides of cuda_convnet:18pct: four layers, without regularisation."""
    return {
        "model.activation": activation,
        "model.initializer": "glorot",
        "model.lrn": "none",
        "optimizer.weight_decay": 0.0,
        "optimizer.layer_decays.fc10": 0.0,
        "optimizer.bias_rate": 1.0,
        "preprocess.high": 4.0,  # a deviation of about 1
        "dataset.train_split": f"train[:{EXAMPLES}]",
        "dataset.test_split": "test[:2000]",
        "schedule.name": "constant",
        "schedule.learning_rate": rate,
        "epochs": epochs,
        "log_every_steps": -(-EXAMPLES // 128),  # the training error of about an epoch
    }


def _runs(epochs: float, **overrides) -> list[Run]:
    return [
        Run(f"{name}, {rate:g}", "cuda_convnet:18pct", network(name, rate, epochs) | overrides)
        for name in ACTIVATIONS
        for rate in RATES
    ]


def best_rates(results: Results) -> dict[str, float]:
    """{activation: the rate with the lowest training error}; of equal ones the lowest."""

    def error(name: str, rate: float) -> float:
        """Infinite if the run diverged."""
        return float(np.nan_to_num(results.mean(f"{name}, {rate:g}", TRAIN), nan=np.inf))

    return {name: min(RATES, key=lambda rate: error(name, rate)) for name in ACTIVATIONS}


def verdict(results: Results) -> Verdict:
    """See `STUDY.rule`."""
    best = set(best_rates(results).values())
    return Verdict.REPRODUCED if len(best) > 1 else Verdict.NOT_REPRODUCED


def figure(results: Results) -> Figure:
    """The training error by the rate, a line for each activation."""
    drawing = Figure(figsize=(6, 4), layout="constrained")
    axis = drawing.subplots()
    for name in ACTIVATIONS:
        errors = [results.mean(f"{name}, {rate:g}", TRAIN) for rate in RATES]
        axis.semilogx(RATES, errors, "o-", label=name)
    axis.set(xlabel="learning rate", ylabel=TRAIN)
    axis.set_xticks(RATES, [f"{rate:g}" for rate in RATES])
    axis.legend(loc="center left", ncols=2)
    return drawing


STUDY = Study(
    claim="The learning rate at which a network trains fastest depends on its activation.",
    source="Our own; Krizhevsky 2012, fig. 1, chose the rate for each network",
    changes="The four-layer network of cuda-convnet's 18 % recipe without LRN and weight decay, on"
    " the first 10,000 images of CIFAR-10, for 8 epochs with a constant rate, one seed. The study"
    " of activations uses the best rates.",
    scales={
        "smoke": Scale(_runs(1.0, **{"dataset.train_split": "train[:128]"}), seeds=1, hours=0.1),
        "small": Scale(_runs(8.0), seeds=1, hours=0.4),
    },
    measures={TRAIN: last_percent("train/top1_error")},
    rule="Reproduced if the rates with the lowest training error differ.",
    verdict=verdict,
    figure=figure,
    remarks="The rates are a factor of about three apart. The best ones may differ by less. And"
    " eight epochs are few: in the longer runs of the study activations, maxout diverges with the"
    " rate that is best here, and trains with a third of it.",
)
