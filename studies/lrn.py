"""Local response normalisation across maps, on CIFAR-10 (Krizhevsky 2012, sec. 3.3)."""

from studies.study import Results, Run, Scale, Study, Verdict, bars, last_percent

ERROR = "test error, %"
WITH, WITHOUT = "with LRN", "without LRN"
FEW = {"dataset.train_split": "train[:10000]"}
SMOKE = {"steps": 2, "batch_size": 16, "dataset.test_split": "test[:100]"}


def _runs(epochs: float, boundaries: tuple[float, float], **overrides) -> list[Run]:
    common = {
        "epochs": epochs,
        "schedule.boundaries": boundaries,
        "evaluate.every_epochs": 5.0,
        "checkpoint.every_epochs": 5.0,
    } | overrides
    return [
        Run(WITH, "cuda_convnet:11pct", common, "11"),
        Run(WITHOUT, "cuda_convnet:11pct", common | {"model.lrn": "none"}, "13"),
    ]


def verdict(results: Results) -> Verdict:
    """See `STUDY.rule`."""
    gain = results.difference(WITHOUT, WITH, ERROR)
    if gain.low > 0 and gain.mean >= 1:
        return Verdict.REPRODUCED
    return Verdict.DIRECTION if gain.mean > 0 else Verdict.NOT_REPRODUCED


STUDY = Study(
    claim="With local response normalisation, a four-layer network errs on 11 % of CIFAR-10, and"
    " without it on 13 %.",
    source="Krizhevsky 2012, sec. 3.3",
    changes="The source does not name the network. It is taken to be that of cuda-convnet's 11 %"
    " recipe, which has two convolutions and two locally connected layers. (Its 13 % recipe has no"
    " normalisation, but also fewer maps.) The first 10,000 images, 50 epochs in place of 520 with"
    " lower rates from epochs 46 and 48 on in place of 500 and 510, and one central crop at test"
    " time, where the recipe's 11 % is the error of ten crops.",
    scales={
        "smoke": Scale(_runs(1.0, (0.92, 0.96), **SMOKE), seeds=1, hours=0.02),
        "small": Scale(_runs(50.0, (46.0, 48.0), **FEW), seeds=3, hours=2.2),
        "paper": Scale(_runs(520.0, (500.0, 510.0)), seeds=1, hours=40.0),
    },
    measures={
        ERROR: last_percent("test/top1_error"),
        "training error, %": last_percent("train/top1_error"),
    },
    rule="Reproduced if the network without normalisation errs more by at least one point (mean"
    " over seeds), and the 95 % interval of the differences (paired by seed) is above zero."
    " Direction reproduced if it errs more.",
    verdict=verdict,
    figure=bars(ERROR),
    published="test error, %",
    remarks="The errors are far above the published ones: a fifth of the images, a tenth of the"
    " epochs, and compressed images. The difference is about two thirds of the published one.",
)
