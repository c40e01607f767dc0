"""Plain networks get worse with depth, residual networks do not (He 2015, fig. 6)."""

from studies.study import Results, Run, Scale, Study, Verdict, last_percent

TEST, TRAIN = "test error, %", "training error, %"
PUBLISHED = {"plain-20": "9.7", "plain-56": "13.2", "20": "8.75", "56": "6.97"}


def shortened(epochs: float) -> dict:
    """The published schedule in fewer epochs: the rate falls after a half and three quarters."""
    return {"epochs": epochs, "schedule.boundaries": (epochs / 2, epochs * 3 / 4)}


def _runs(epochs: float = 4.0, **overrides) -> list[Run]:
    shorter = shortened(epochs) | overrides
    return [
        Run(
            name if name.startswith("plain") else f"residual-{name}",
            f"resnet_cifar10:{name}",
            shorter,
            published,
        )
        for name, published in PUBLISHED.items()
    ]


def verdict(results: Results) -> Verdict:
    """See `STUDY.rule`."""
    plain = results.mean("plain-56", TRAIN) - results.mean("plain-20", TRAIN)
    residual = results.mean("residual-56", TRAIN) - results.mean("residual-20", TRAIN)
    if plain > 0 >= residual:
        return Verdict.REPRODUCED
    return Verdict.DIRECTION if plain > max(residual, 0) else Verdict.NOT_REPRODUCED


STUDY = Study(
    claim="A plain network of 56 layers has a higher training error than one of 20. A residual"
    " network of 56 layers does not have a higher one than that of 20.",
    source="He 2015, sec. 4.2, fig. 6 (the errors of plain networks are read off it)",
    changes="4 epochs in place of 164, with the rate divided by 10 after 2 and 3. So no network is"
    " near its published error.",
    scales={
        "smoke": Scale(
            _runs(**{"steps": 2, "batch_size": 8, "dataset.test_split": "test[:100]"}), 1, 0.05
        ),
        "small": Scale(_runs(), seeds=2, hours=3.7),
        "paper": Scale(_runs(64_000 * 128 / 50_000), seeds=2, hours=80.0),
    },
    measures={TRAIN: last_percent("train/top1_error"), TEST: last_percent("test/top1_error")},
    rule="Reproduced if the mean training error of plain-56 is above that of plain-20, and that of"
    " residual-56 not above that of residual-20. Direction reproduced if depth costs plain networks"
    " more than residual ones.",
    verdict=verdict,
    remarks="Depth costs the residual network less than the plain one. But the residual network of"
    " 56 layers still has a higher error than that of 20 after so few epochs, and its two seeds"
    " differ more than any other pair.",
    published="test error, %",
)
