"""The same training on one device and on several, and BatchNorm over the images of each or all."""

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


def verdict(results: Results) -> Verdict:
    """See `STUDY.rule`."""

    def largest(kind: str) -> float:
        """The largest relative difference of the training loss from that of one device."""
        one = results.of(f"{kind}, 1", LOSS)
        others = [results.of(f"{kind}, {count}", LOSS) for count in DEVICES[1:]]
        return max(float(abs(other / one - 1).max()) for other in others)

    if largest("LeNet-5") > 0.01 or largest(ACROSS) > 0.05:
        return Verdict.NOT_REPRODUCED
    return Verdict.REPRODUCED if largest(PER_DEVICE) <= 0.05 else Verdict.DIRECTION


STUDY = Study(
    claim="Training on 1, 2, 4 or 8 devices with the same total batch follows the same curve, if"
    " batch normalisation uses the images of all devices, and nearly so if each device normalises"
    " its own.",
    source="Goyal 2017, sec. 3; He 2015, sec. 4.2 (two GPUs, 64 images each)",
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
)
