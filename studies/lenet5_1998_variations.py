"""What LeNet-5's error owes to choices that the paper of 1998 leaves open, one at a time."""

import numpy as np

from studies.lenet5_1998 import CURVE
from studies.study import Results, Run, Scale, Study, Verdict, bars, last_percent

ERROR, TRAIN = "test error, %", "training error, %"
PASSES = 10
BASE = "lenet5:mnist_1998"
LARGE = {"model.initializer": "xavier_fan_in"}
KINDS = {
    BASE: {},
    "mu 0.2": {"optimizer.mu": 0.2},
    "mu 1": {"optimizer.mu": 1.0},
    # The published 0.02 for a loss that is the mean, and not the sum, over the 84 units of F6.
    "mu 1.68": {"optimizer.mu": 1.68},
    "larger initial weights": LARGE,
    "larger initial weights, mu 0.2": LARGE | {"optimizer.mu": 0.2},
    "j 1": {"loss.j": 1.0},
    "loss of eq. 8": {"loss.name": "mse"},
    "another order in each pass": {"dataset.order": "new"},
    # With the padding, MNIST has a mean of 0.10 and a deviation of 0.275 of the range.
    "inputs of variance 1": {"preprocess.low": -0.37, "preprocess.high": 3.31},
    "softmax in place of codes": {"model.output": "softmax", "loss.name": "softmax"},
}


def _runs(**overrides) -> list[Run]:
    published = {BASE: f"{CURVE[PASSES - 1]}"}
    return [
        Run(name, BASE, change | overrides, published.get(name, ""))
        for name, change in KINDS.items()
    ]


def verdict(results: Results) -> Verdict:
    """See `STUDY.rule`."""
    errors = {name: results.mean(name, ERROR) for name in KINDS}
    base = errors.pop(BASE)
    # A run that diverges has no value.
    best = min(errors, key=lambda name: np.nan_to_num(errors[name], nan=np.inf))
    gain = results.difference(BASE, best, ERROR)
    if errors[best] <= CURVE[PASSES - 1] + 0.1 and gain.low > 0:
        return Verdict.REPRODUCED
    return Verdict.DIRECTION if errors[best] <= base - 0.05 else Verdict.NOT_REPRODUCED


STUDY = Study(
    claim="Trained as in 1998, LeNet-5 errs on 0.95 % of MNIST's test images after ten passes, if"
    " one choice that the paper leaves open, or states in two ways, is made well.",
    source="LeCun 1998, fig. 5",
    changes="Ten passes in place of 20: the published test error does not change after the tenth."
    " Each run differs from configs/lenet5.py:mnist_1998 in one choice, one run in two. The paper"
    " gives no j. It says that inputs have a variance of about 1; with its scaling they have 0.12."
    " Biases start at 0 in all runs. Biases drawn like weights were tried beside this study, with"
    " two seeds, and did not lower the error. Other codes were not tried.",
    scales={
        "smoke": Scale(_runs(**{"dataset.name": "digits", "epochs": 0.01}), seeds=1, hours=0.02),
        "small": Scale(_runs(epochs=float(PASSES)), seeds=2, hours=1.3),
    },
    measures={ERROR: last_percent("test/top1_error"), TRAIN: last_percent("train/top1_error")},
    rule="Reproduced if the lowest mean test error is at most 1.05 %, which is 0.1 points, the"
    " uncertainty that the source gives, above the published one, and the 95 % interval of the"
    " decrease that this choice brings is above zero (paired by seed). Direction reproduced if it"
    " lowers the error by 0.05 points. (The interval was added after the runs: without it, ten"
    " choices without any effect often meet the rule by chance.)",
    verdict=verdict,
    figure=bars(ERROR),
    remarks="The best choice is picked after the runs, with two seeds each, and seeds differ by as"
    " much as choices do. So the runs do not show that one choice explains the difference: that"
    " needs new seeds for this choice alone. For the output, the initial weights, the order and mu"
    " the paper has other values than these runs. mu 1.68 is its 0.02 times the 84 units of F6, for"
    " a loss that is the mean over them.",
    published="test error after pass 10, %",
)
