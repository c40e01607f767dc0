"""LeNet-5 with more training images, and with distorted ones (LeCun 1998, fig. 6)."""

from matplotlib.figure import Figure

from studies.mnist_baselines import DISTORTED
from studies.study import Results, Run, Scale, Study, Verdict, last_percent

TEST, TRAIN = "test error, %", "training error, %"
PUBLISHED = {15_000: "1.7", 30_000: "1.15", 60_000: "0.95"}  # the first two are read off fig. 6


def _runs(sizes=tuple(PUBLISHED), **overrides) -> list[Run]:
    runs = []
    for size in sizes:
        part = {"dataset.train_split": f"train[:{size}]", **overrides}
        published = "0.8" if size == 60_000 else ""
        runs.append(Run(f"{size:,}", "lenet5:mnist", part, PUBLISHED.get(size, "")))
        runs.append(Run(f"{size:,}, distorted", "lenet5:mnist", part | DISTORTED, published))
    return runs


def verdict(results: Results) -> Verdict:
    """See `STUDY.rule`."""
    sizes = [f"{size:,}" for size in PUBLISHED]
    if not results.falls(sizes, TEST):
        return Verdict.NOT_REPRODUCED
    plain = [results.mean(size, TEST) for size in sizes]
    distorted = [results.mean(f"{size:,}, distorted", TEST) for size in PUBLISHED]
    published = map(float, PUBLISHED.values())
    is_close = all(mean <= 1.15 * figure for mean, figure in zip(plain, published, strict=True))
    is_lower = all(fewer < more for fewer, more in zip(distorted, plain, strict=True))
    return Verdict.REPRODUCED if is_close and is_lower else Verdict.DIRECTION


def figure(results: Results) -> Figure:
    """Errors over the size of the training set."""
    drawing = Figure(figsize=(7, 4.5), layout="constrained")
    axis, sizes = drawing.subplots(), list(PUBLISHED)
    for suffix in ("", ", distorted"):
        for measure, line in ((TEST, "o-"), (TRAIN, "o:")):
            means = [results.mean(f"{size:,}{suffix}", measure) for size in sizes]
            axis.plot(sizes, means, line, label=f"{measure.removesuffix(', %')}{suffix}")
    published = [float(text) for text in PUBLISHED.values()]
    axis.plot(sizes, published, "kx", label="published test error")
    axis.set(xlabel="training images", ylabel="error, %", ylim=(0, None), xticks=sizes)
    axis.legend()
    return drawing


STUDY = Study(
    claim="LeNet-5 errs less with more training images, and less again with distorted ones.",
    source="LeCun 1998, fig. 6",
    changes="SGD with momentum on batches of 64 and a cosine schedule over 20 epochs of each set."
    " The distortions are drawn anew for each image and epoch. The source has one curve with"
    " 540,000 fixed distorted images.",
    scales={
        "smoke": Scale(_runs(sizes=(640,), epochs=1.0), seeds=1, hours=0.01),
        "small": Scale(_runs(), seeds=2, hours=0.4),
    },
    measures={TEST: last_percent("test/top1_error"), TRAIN: last_percent("train/top1_error")},
    rule="Direction reproduced if the mean test error without distortions falls from 15,000 over"
    " 30,000 to 60,000 images. Reproduced if, in addition, it is at most 15 % above the published"
    " error for each size, and distortions lower it for each size.",
    verdict=verdict,
    figure=figure,
    published="test error, %",
    remarks="The runs with 60,000 images are also in the study mnist_baselines. The ranges of the"
    " distortions are ours: the source gives none.",
)
