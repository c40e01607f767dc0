"""Shortcuts with zeros, with projections between stages, and with projections everywhere."""

from studies.residual import TEST, TRAIN, shortened
from studies.study import Results, Run, Scale, Study, Verdict, bars, last_percent


def _runs(epochs: float = 4.0, **overrides) -> list[Run]:
    shorter = shortened(epochs) | overrides
    published = {"A": "25.03", "B": "24.52", "C": "24.19"}
    return [
        Run(kind, "resnet_cifar10:20", {"model.shortcut": kind, **shorter}, error)
        for kind, error in published.items()
    ]


def verdict(results: Results) -> Verdict:
    """See `STUDY.rule`."""
    a, b, c = (results.mean(kind, TEST) for kind in "ABC")
    if a > b > c:
        return Verdict.REPRODUCED
    return Verdict.DIRECTION if b < a and c < a else Verdict.NOT_REPRODUCED


STUDY = Study(
    claim="Projection shortcuts err slightly less than shortcuts without parameters: A most, then"
    " B, then C.",
    source="He 2015, sec. 4.1, table 3 (ResNet-34 on ImageNet)",
    changes="ResNet-20 on CIFAR-10, for 4 epochs in place of 164, with the rate divided by 10 after"
    " 2 and 3. The published figures are those of ResNet-34 on ImageNet.",
    scales={
        "smoke": Scale(
            _runs(**{"steps": 2, "batch_size": 8, "dataset.test_split": "test[:100]"}), 1, 0.05
        ),
        "small": Scale(_runs(), seeds=2, hours=1.4),
    },
    measures={TEST: last_percent("test/top1_error"), TRAIN: last_percent("train/top1_error")},
    rule="Reproduced if the mean test errors fall from A over B to C. Direction reproduced if B and"
    " C are both below A. With two seeds and differences this small, either can be chance.",
    verdict=verdict,
    figure=bars(TEST),
    remarks="The two seeds of A differ by more than the means of A, B and C, so two seeds cannot"
    " decide differences this small. The runs of A are those of the study residual, which trains"
    " the same network.",
    published="top-1 error, %, ResNet-34 on ImageNet",
)
