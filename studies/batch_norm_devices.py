"""The same training on one device and on several, and BatchNorm over the images of each or all."""

import numpy as np
from matplotlib.figure import Figure

from studies.study import Results, Run, Scale, Study, Verdict, last, last_percent

LOSS = "training loss"
DEVICES = (1, 2, 4, 8)
PER_DEVICE, ACROSS = "ResNet-20, per device", "ResNet-20, across devices"


def _runs(**overrides) -> list[Run]:
    resnet = {
        "epochs": 2.0,
        "dataset.train_split": "train[:10000]",
        "dataset.test_split": "test[:2000]",
        "schedule.boundaries": (1.0, 1.5),
        "log_every_steps": 40,
    }
    lenet = {"epochs": 1.0, "dataset.train_split": "train[:20000]"}
    runs = []
    for count in DEVICES:
        some = {"num_devices": count, **overrides}
        across = some | {"model.batch_norm": "across_devices"}
        runs += [
            Run(f"LeNet-5, {count}", "lenet5:mnist", lenet | some),
            Run(f"{PER_DEVICE}, {count}", "resnet_cifar10:20", resnet | some),
            Run(f"{ACROSS}, {count}", "resnet_cifar10:20", resnet | across),
        ]
    return runs


def relative(results: Results, kind: str) -> np.ndarray:
    """The training loss with several devices relative to one, minus 1: [DEVICES[1:], seeds]."""
    one = results.of(f"{kind}, 1", LOSS)
    return np.array([results.of(f"{kind}, {count}", LOSS) / one - 1 for count in DEVICES[1:]])


def verdict(results: Results) -> Verdict:
    """See `STUDY.rule`."""

    def largest(kind: str) -> float:
        return float(np.abs(relative(results, kind)).max())

    if not (largest("LeNet-5") <= 0.01 and largest(ACROSS) <= 0.05):
        return Verdict.NOT_REPRODUCED
    return Verdict.REPRODUCED if largest(PER_DEVICE) <= 0.05 else Verdict.DIRECTION


def figure(results: Results) -> Figure:
    """`relative`, in percent: a point for each seed."""
    drawing = Figure(figsize=(9, 3.2), layout="constrained")
    kinds = {"LeNet-5": 1, ACROSS: 5, PER_DEVICE: 5}  # with the largest difference of the rule
    for axis, (kind, most) in zip(drawing.subplots(1, 3, sharey=True), kinds.items(), strict=True):
        values = 100 * relative(results, kind)
        axis.plot(list(map(str, DEVICES[1:])), values, "o", color="tab:blue")
        axis.axhspan(-most, most, color="lightsteelblue", alpha=0.4)
        axis.set(title=kind, xlabel="devices")
    drawing.axes[0].set_ylabel("training loss relative to one device, %")
    drawing.suptitle("A point for each seed. The verdict allows what is shaded.", fontsize=9)
    return drawing


STUDY = Study(
    claim="Training on 1, 2, 4 or 8 devices with the same total batch follows the same curve, if"
    " batch normalisation uses the images of all devices, and nearly so if each device normalises"
    " its own.",
    source="Our own, after Goyal 2017 (from memory) and He 2015, sec. 4.2 (two GPUs, 64 images"
    " each)",
    changes="Devices simulated on one CPU. LeNet-5, which has no batch normalisation: one epoch of"
    " 20,000 images of MNIST. ResNet-20: two epochs of 10,000 images of CIFAR-10, batch 128, so 16"
    " to 128 images a device.",
    scales={
        "smoke": Scale(
            _runs(**{"steps": 2, "dataset.test_split": "test[:100]"}), seeds=1, hours=0.2
        ),
        "small": Scale(_runs(), seeds=2, hours=0.7),
    },
    measures={LOSS: last("train/loss"), "test error, %": last_percent("test/top1_error")},
    rule="With the final training loss, seed by seed, relative to one device: direction reproduced"
    " if LeNet-5 differs by at most 1 % and ResNet-20 across devices by at most 5 %. Reproduced if"
    " ResNet-20 with normalisation per device differs by at most 5 %, too.",
    verdict=verdict,
    devices=8,
    figure=figure,
    remarks="With one device, both kinds of normalisation are the same computation, but for"
    " rounding. How much their runs differ shows what rounding alone does in two epochs. With"
    " normalisation per device, the loss with several devices is above that with one in every run,"
    " by little. Two epochs are few, so this is a test of the implementation more than of what"
    " normalisation per device does to a whole training.",
)
