"""LeNet-5 on the digits of scikit-learn, which are part of it: a study without a data set."""

from studies.study import Results, Run, Scale, Study, Verdict, last_percent

ERROR = "test error, %"
PLAIN = {f"augment.{name}": 0.0 for name in ("translate", "scale", "squeeze", "shear")}


def _runs(**overrides) -> list[Run]:
    return [
        Run("distorted", "lenet5:digits", overrides),
        Run("not distorted", "lenet5:digits", PLAIN | overrides),
    ]


def verdict(results: Results) -> Verdict:
    """See `STUDY.rule`."""
    difference = results.difference("not distorted", "distorted", ERROR)
    if difference.low > 0:
        return Verdict.REPRODUCED
    return Verdict.DIRECTION if difference.mean > 0 else Verdict.NOT_REPRODUCED


STUDY = Study(
    claim="LeNet-5 errs less if its training images are distorted at random.",
    source="LeCun 1998, sec. III.B (on MNIST: 0.95 % without, 0.8 % with distortions)",
    changes="The 1,797 digits of scikit-learn, of which 355 are for the test: one is 0.28 points."
    " SGD with a cosine schedule. The ranges of the distortions are ours: the source gives none.",
    scales={
        "smoke": Scale(_runs(epochs=0.2), seeds=1, hours=0.01),
        "small": Scale(_runs(), seeds=5, hours=0.1),
    },
    measures={ERROR: last_percent("test/top1_error")},
    rule="Reproduced if the 95 % interval of the difference is above zero (paired by seed)."
    " Direction reproduced if its mean is.",
    verdict=verdict,
    remarks="All seeds are tested with the same 355 images, so the interval contains the chance of"
    " the training only: the mean errors differ by about three images.",
)
