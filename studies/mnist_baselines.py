"""The first table of LeCun 1998: linear classifier, multi-layer perceptrons, LeNet-5 on MNIST."""

from studies.study import Results, Run, Scale, Study, Verdict, last_percent

ERROR = "test error, %"
# The distortions of sec. III.B that Canon has.
DISTORTED = {
    "augment.translate": 2.0,
    "augment.scale": 0.15,
    "augment.squeeze": 0.15,
    "augment.shear": 0.3,
}
ORDER = ("linear", "300", "500-150", "LeNet-5", "LeNet-5, distorted")  # from high to low error


def _runs(**overrides) -> list[Run]:
    runs = [
        Run("linear", "mlp:linear", overrides, "12.0"),
        Run("300", "mlp:300", overrides, "4.7"),
        Run("300-100", "mlp:300-100", overrides, "3.05"),
        Run("500-150", "mlp:500-150", overrides, "2.95"),
        Run("LeNet-5", "lenet5:mnist", overrides, "0.95"),
        Run("LeNet-5, distorted", "lenet5:mnist", DISTORTED | overrides, "0.8"),
    ]
    return runs


def verdict(results: Results) -> Verdict:
    """See `STUDY.rule`."""
    if not results.falls(ORDER, ERROR):
        return Verdict.NOT_REPRODUCED
    published = {run.name: float(run.published) for run in _runs()}
    is_close = all(results.mean(name, ERROR) <= 1.15 * published[name] for name in ORDER)
    return Verdict.REPRODUCED if is_close else Verdict.DIRECTION


STUDY = Study(
    claim="On MNIST the test error falls from a linear classifier over perceptrons of 300 and of"
    " 500-150 hidden units to LeNet-5, and further with distorted training images.",
    source="LeCun 1998, sec. III and fig. 9",
    changes="SGD with momentum on batches of 64 and a cosine schedule over 20 epochs, in place of"
    " stochastic diagonal Levenberg-Marquardt on single images. The perceptrons have a softmax"
    " output. The distortions are drawn anew for each image and epoch; the source made 540,000"
    " fixed images.",
    scales={
        "smoke": Scale(_runs(**{"dataset.name": "digits", "epochs": 0.2}), seeds=1, hours=0.01),
        "small": Scale(_runs(), seeds=3, hours=1.0),
    },
    measures={ERROR: last_percent("test/top1_error")},
    rule="Direction reproduced if the mean errors fall in the order of the claim, in which 300-100"
    " is left out. Reproduced if, in addition, none is more than 15 % above the published error.",
    verdict=verdict,
    remarks="The order holds except for the perceptrons of 300 and of 500-150 units: with this"
    " training they err equally often, and the rule asks for an order of their means. All"
    " perceptrons and the linear classifier err less than the published ones, perhaps because of"
    " the softmax output and the falling rate. Both LeNets are within the rule's 15 %. The runs of"
    " LeNet-5 are also in the studies lenet5_1998 and lenet5_training_size.",
    published="test error, %",
)
