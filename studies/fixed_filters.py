"""Must the filters of the first layer be learned? (Jarrett 2009)"""

from configs import filter_bank
from studies.study import Results, Run, Scale, Study, Verdict, last_percent

ERROR = "test error, %"
LINEAR, LEARNED, FIXED = "pixels", "learned", ("oriented", "random")
CLOSED = 0.75  # share of the difference between pixels and learned filters


def _runs(**overrides) -> list[Run]:
    same = ("epochs", "batch_size", "schedule.learning_rate", "evaluate.every_epochs")
    recipe = filter_bank.get_config()
    pixels = {"dataset.name": "digits", "preprocess.low": 0.0, "preprocess.high": 1.0}
    for name in same:
        section, _, field = name.rpartition(".")
        pixels[name] = (recipe[section] if section else recipe)[field]
    runs = [Run(LINEAR, "mlp:linear", pixels | overrides)]
    return runs + [Run(name, f"filter_bank:{name}", overrides) for name in filter_bank.ARGUMENTS]


def verdict(results: Results) -> Verdict:
    """See `STUDY.rule`."""
    if not all(results.difference(LINEAR, name, ERROR).low > 0 for name in (*FIXED, LEARNED)):
        return Verdict.NOT_REPRODUCED
    pixels, learned = results.mean(LINEAR, ERROR), results.mean(LEARNED, ERROR)
    worst = max(results.mean(name, ERROR) for name in FIXED)
    is_close = pixels - worst >= CLOSED * (pixels - learned)
    return Verdict.REPRODUCED if is_close else Verdict.DIRECTION


STUDY = Study(
    claim="If a non-linearity and pooling follow, fixed filters, random or made by hand,"
    " are almost as good as learned ones.",
    source="Jarrett 2009, What is the best multi-stage architecture for object recognition?"
    " (Caltech-101: almost 63 % correct with random filters in two stages, more than 65 % with"
    " learned ones)",
    changes="One stage of 16 filters on the digits of scikit-learn, of which 355 are for the test:"
    " one is 0.28 points. A rectifier and maxima in place of absolute values, contrast"
    " normalisation and means. Made by hand are Gabor functions at four angles. A linear classifier"
    " on the pixels shows what the stage is worth. All runs have the same rate, which was chosen in"
    " runs with seeds 0 and 1 so that all training errors were below 1 %.",
    scales={
        "smoke": Scale(_runs(steps=4), seeds=1, hours=0.02),
        "small": Scale(_runs(), seeds=5, hours=0.15),
    },
    measures={ERROR: last_percent("test/top1_error")},
    rule="Reproduced if both kinds of fixed filters reach at least three quarters of the decrease"
    " in error from pixels to learned filters. Direction reproduced if the 95 % intervals of the"
    " differences to the pixels, of both kinds and of learned filters, are above zero (paired by"
    " seed). The verdict *reproduced* requires this, too.",
    verdict=verdict,
    remarks="Gabor functions reach nearly the share of the decrease that the rule asks for. Random"
    " filters do not, and they differ much between seeds: of 16, few may suit the strokes of"
    " digits. More filters were not tried. All seeds are tested with the same 355 images, so small"
    " differences between kinds are a few images.",
)
