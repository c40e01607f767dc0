"""Krizhevsky's CIFAR-10 recipes that are named by their test errors: 26 % and 18 %."""

from studies.study import Results, Run, Scale, Study, Verdict, last_percent

ERROR = "test error, %"
PUBLISHED = {"26pct": 26.0, "18pct": 18.0}


def _runs(**overrides) -> list[Run]:
    return [
        Run(name, f"cuda_convnet:{name}", overrides, f"{error:g}")
        for name, error in PUBLISHED.items()
    ]


def verdict(results: Results) -> Verdict:
    """See `STUDY.rule`."""
    if all(results.mean(name, ERROR) <= error + 1 for name, error in PUBLISHED.items()):
        return Verdict.REPRODUCED
    gain = results.mean("26pct", ERROR) - results.mean("18pct", ERROR)
    return Verdict.DIRECTION if 5 <= gain <= 11 else Verdict.NOT_REPRODUCED


STUDY = Study(
    claim="Without augmentation, small convolutional networks reach test errors of 26 % in a short"
    " training, and of 18 % in a long one with local response normalisation.",
    source="Krizhevsky 2011, cuda-convnet: layers-80sec and layers-18pct",
    changes="The settings are those of the configs, which take the subtraction of the mean image"
    " from memory. The images had been compressed as JPEG. How exactly the source's 26 and 18 %"
    " were measured could not be checked.",
    scales={
        "smoke": Scale(_runs(**{"steps": 4, "batch_size": 16}), seeds=1, hours=0.02),
        "small": Scale(_runs(), seeds=1, hours=3.1),
    },
    measures={
        ERROR: last_percent("test/top1_error"),
        "training error, %": last_percent("train/top1_error"),
    },
    rule="Reproduced if both errors are at most one point above their names. Direction reproduced"
    " if the second is 5 to 11 points below the first.",
    verdict=verdict,
    remarks="The short recipe reaches its error, the long one misses it. One possible reason is the"
    " JPEG compression of the images: the original ones were not at hand, so what it costs is not"
    " known. Another is chance: there is one seed.",
    published="test error, %",
)
