"""VGG with more layers, with LRN, with 5x5 windows, and with a random scale (tables 3, 4)."""

from studies.ablations import SMALL
from studies.study import Results, Run, Scale, Study, Verdict, bars, last_percent

ERROR = "test error, %"
NETWORKS = {"A": "29.6", "A-LRN": "29.7", "B": "28.7", "C": "28.1", "D": "27.0", "E": "27.3"}
JITTER = "D, random scale"
# Dropout lets networks learn little in so few epochs.
ALL_IMAGES = SMALL | {
    "dataset.train_split": "train",
    "model.regulariser": "none",
    "evaluate.every_epochs": 2.0,
    "checkpoint.every_epochs": 2.0,
}


def _runs(epochs: float, **overrides) -> list[Run]:
    common = ALL_IMAGES | {"model.width": 0.125, "epochs": epochs} | overrides
    del common["model.bias_start"]
    jitter = common | {"view.train_scale": (36, 48)}
    return [
        *(Run(name, f"vgg:{name}", common, published) for name, published in NETWORKS.items()),
        Run("B-5x5", "vgg:B-5x5", common, "7 points above B"),
        Run(JITTER, "vgg:D", jitter, "25.6"),
    ]


def verdict(results: Results) -> Verdict:
    """See `STUDY.rule`."""
    means = {name: results.mean(name, ERROR) for name in [*NETWORKS, "B-5x5", JITTER]}
    if not (means["A"] > means["B"] and means["A"] > means["D"]):
        return Verdict.NOT_REPRODUCED
    parts = (
        means["A-LRN"] >= means["A"],
        means["B"] > means["C"] > means["D"],
        means["B-5x5"] > means["B"],
        means[JITTER] < means["D"],
    )
    return Verdict.REPRODUCED if all(parts) else Verdict.DIRECTION


STUDY = Study(
    claim="VGG errs less with more layers, until 19 gain nothing over 16. LRN does not help, 3x3"
    " windows of the same extent are better than 5x5, and a random scale in training is better than"
    " a fixed one.",
    source="Simonyan 2015, tables 3, 4, and sec. 4.1",
    changes="An eighth of the maps, on CIFAR-10, enlarged to 40 pixels (random scale: 36 to 48) and"
    " cut to 32; He's initial weights, all layers trained at once; no dropout; batch 64 and a"
    " cosine schedule over eight epochs; one central crop. The published figures are top-1 of"
    " ImageNet; that of the random scale is of S in 256 to 512 and Q = 384.",
    scales={
        "smoke": Scale(_runs(1.0, **{"steps": 2, "dataset.test_split": "test[:100]"}), 1, 0.2),
        "small": Scale(_runs(8.0), seeds=3, hours=3.5),
    },
    measures={
        ERROR: last_percent("test/top1_error"),
        "training error, %": last_percent("train/top1_error"),
    },
    rule="Direction reproduced if the mean errors of B and D are below that of A. Reproduced if, in"
    " addition, A-LRN is not better than A, errors fall from B over C to D, B-5x5 is worse than B,"
    " and D with a random scale is better than D.",
    verdict=verdict,
    figure=bars(ERROR),
    remarks="All networks underfit after eight epochs: even in training they err often, and E more"
    " than A. So the runs show how quickly plain networks learn, and not what they can learn. At 32"
    " pixels the last block sees maps of 2x2 pixels, so most of its windows lie in the padding. One"
    " part of the claim holds for every seed: D, whose added layers have 3x3 windows, errs less"
    " than C, which has 1x1 windows there. The set-up was changed once, after 24 runs with dropout"
    " over 15 epochs of 10,000 images: there, too, deeper networks had learned less, and nothing"
    " was reproduced.",
    published="top-1 error, %, ImageNet, dense",
)
