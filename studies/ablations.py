"""What AlexNet loses without each of its ideas, one at a time (Krizhevsky 2012, sec. 3, 4)."""

from studies.study import Results, Run, Scale, Study, Verdict, bars, last_percent

ERROR = "test error, %"
# A quarter of the maps, crops of 32 pixels from images of 40, and inputs with a deviation of about
# 1, which He's initial weights expect.
SMALL = {
    "dataset.name": "cifar10",
    "dataset.train_split": "train[:10000]",
    "model.image_size": 32,
    "model.width": 0.25,
    "model.initializer": "he",
    "model.bias_start": 0.0,
    "view.size": 32,
    "view.square": False,  # all images are squares
    "view.train_scale": (40, 40),
    "view.test_scale": 40,
    "preprocess.high": 4.0,
    "preprocess.mean": "channel",
    "batch_size": 64,
    "schedule.name": "cosine",
    "schedule.learning_rate": 0.01,
    "evaluate.every_epochs": 5.0,
    "checkpoint.every_epochs": 5.0,
}
KINDS = {
    "complete": ({}, ""),
    "no LRN": ({"model.lrn": "none"}, "+1.4"),
    "no overlap": ({"model.pooling": "non_overlapping"}, "+0.4"),
    "no dropout": ({"model.regulariser": "none"}, ""),
    "no flips, no crops": ({"augment.flip": False, "view.train": "center"}, ""),
    "no colour": ({"augment.lighting": "none"}, "more than +1"),
}


# Few images and many passes: otherwise nothing overfits, and nothing that prevents it can help.
FEW = {"dataset.train_split": "train[:5000]", "batch_size": 32}


def _runs(epochs: float, **overrides) -> list[Run]:
    common = SMALL | FEW | {"epochs": epochs}
    return [
        Run(name, "alexnet:two_tower", common | change | overrides, published)
        for name, (change, published) in KINDS.items()
    ]


def verdict(results: Results) -> Verdict:
    """See `STUDY.rule`."""
    losses = [results.difference(name, "complete", ERROR) for name in list(KINDS)[1:]]
    if all(loss.low > 0 for loss in losses):
        return Verdict.REPRODUCED
    are_harmless = all(loss.high >= 0 for loss in losses)
    helpful = sum(loss.low > 0 for loss in losses)
    return Verdict.DIRECTION if are_harmless and helpful >= 2 else Verdict.NOT_REPRODUCED


STUDY = Study(
    claim="Each of AlexNet's ideas lowers its error: local response normalisation (by 1.4 points"
    " top-1), overlapping pooling (0.4), dropout, flips and crops, noise along the principal"
    " colours (more than 1).",
    source="Krizhevsky 2012, sec. 3.3, 3.4, 4.1, 4.2",
    changes="A quarter of the maps, with conv1 of 5x5 windows and stride 1, on the first 5,000"
    " images of CIFAR-10, enlarged to 40 pixels and cut to 32, minus the mean colour; He's initial"
    " weights, batch 32 and a cosine schedule over 40 epochs. Without overlap, pool5 leaves 4x4"
    " pixels in place of 3x3. The published figures are of ImageNet, top-1, in points.",
    scales={
        "smoke": Scale(_runs(1.0, **{"steps": 2, "dataset.test_split": "test[:100]"}), 1, 0.1),
        "small": Scale(_runs(40.0), seeds=3, hours=2.3),
    },
    measures={
        ERROR: last_percent("test/top1_error"),
        "training error, %": last_percent("train/top1_error"),
    },
    rule="Reproduced if, for each idea, the 95 % interval of the error without it minus that of the"
    " complete network is above zero (paired by seed). Direction reproduced if this holds for two"
    " or more ideas, and for none is the interval below zero.",
    verdict=verdict,
    figure=bars(ERROR),
    remarks="Flips and crops matter most by far: without them the network fits its few images."
    " Without LRN every seed errs more, but with three seeds the interval is too wide. Of"
    " overlapping pooling and of colour noise these runs show nothing: their differences are within"
    " those of seeds. Without dropout every seed errs less: in 6,250 updates the training error"
    " with dropout is still high (it is counted with dropout, crops and colour noise), so there is"
    " little to prevent.",
    published="added top-1 error, points, ImageNet",
)
