"""Local connections and shared weights need fewer examples (LeCun 1989)."""

from studies.study import Results, Run, Scale, Study, Verdict, last_percent

ERROR = "test error, %"


def _runs(**overrides) -> list[Run]:
    overrides = {"preprocess.pad": 0, **overrides}
    kinds = (("full", "13.0"), ("local", "11.5"), ("shared", "6.0"))
    return [Run(kind, f"connectivity:{kind}", overrides, published) for kind, published in kinds]


def verdict(results: Results) -> Verdict:
    """See `STUDY.rule`."""
    pairs = (("full", "local"), ("local", "shared"))
    differences = [results.difference(more, fewer, ERROR) for more, fewer in pairs]
    if all(difference.low > 0 for difference in differences):
        return Verdict.REPRODUCED
    if results.difference("full", "shared", ERROR).low > 0:
        return Verdict.DIRECTION
    return Verdict.NOT_REPRODUCED


STUDY = Study(
    claim="On few digits, a layer with local connections errs less than a fully connected layer,"
    " and a layer with shared weights errs least.",
    source="LeCun 1989, Generalization and network design strategies (figures from memory)",
    changes="1,442 digits of scikit-learn, in place of 320 digits of 16x16. One layer of ten maps,"
    " each unit with a window of 10x10 of 28x28 pixels, and a classifier. The source has 87.0 %"
    " correct with one fully connected hidden layer, 88.5 % with two local layers, and 94.0 % if"
    " one of these has shared weights.",
    scales={
        "smoke": Scale(_runs(epochs=0.1), seeds=2, hours=0.01),
        "small": Scale(_runs(), seeds=5, hours=0.3),
    },
    measures={ERROR: last_percent("test/top1_error")},
    rule="Reproduced if the 95 % intervals of both differences, full - local and local - shared,"
    " are above zero (paired by seed). Direction reproduced if that of full - shared is.",
    verdict=verdict,
)
