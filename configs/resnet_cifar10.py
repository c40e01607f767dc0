"""ResNet and plain networks on CIFAR-10 (He, Zhang, Ren, Sun 2015, sec. 4.2).

    python main.py --config=configs/resnet_cifar10.py:20 --workdir=runs/resnet20 \\
        --config.dataset.data_dir=DATA

Arguments: 20 (default), 32, 44, 56, 110, 1202; plain-20, plain-32, plain-44, plain-56, plain-110.

As published: batch 128; momentum 0.9; weight decay 1e-4; rate 0.1, divided by 10 at 32k and 48k of
64k iterations; minus the mean image; padding by 4 zeros, random crops and flips; shortcuts A; He's
initialisation. 110 warms up with rate 0.01 until the training error (here of about the last 50
steps) is below 80 %. Published test errors: 20 8.75, 32 7.51, 44 7.17, 56 6.97, 110 6.43 (6.61 +-
0.16), 1202 7.93 %. For plain networks there are curves only. plain-110 is not drawn: its error is
above 60 %.

Chosen here, because the paper is not clear:
- The momentum is Caffe's, with the rate inside the velocity, as the authors' README of their
  ImageNet networks says. Kernels decay. Pixels are in 0 to 1 before the mean is subtracted.
- Shortcuts A have their zero maps after the others, as in fb.resnet.torch. Other implementations
  have them on both sides: `--config.model.shortcut_padding=both_sides`.
- 1202 ("trained as described above") and plain-110 do not warm up. If they should:
  `--config.schedule.warmup_rate=0.01 --config.schedule.warmup_error=0.8`.
- One device. The paper used two GPUs, each of which normalised 64 images: `--config.num_devices=2`.
- All 50,000 training images, for 64,000 steps. The paper found its schedule with 45,000 of them:

    --config.dataset.train_split="train[:45000]" --config.dataset.test_split="train[45000:]" \\
        --config.epochs=182.0444 --config.schedule.boundaries="(91.0222, 136.5333)"

The studies residual and shortcuts train these networks with a short schedule (docs/studies). None
was trained for all 164 epochs.
"""

from ml_collections import ConfigDict

from configs.common import base, choose

ARGUMENTS = (
    *("20", "32", "44", "56", "110", "1202"),
    *("plain-20", "plain-32", "plain-44", "plain-56", "plain-110"),
)


def get_config(argument: str = "20") -> ConfigDict:
    """The config of one of ARGUMENTS. Raises ValueError for any other."""
    choose("configs/resnet_cifar10.py", argument, ARGUMENTS)
    config = base()
    config.model.name = "resnet_cifar10"
    config.model.depth = int(argument.removeprefix("plain-"))

    # Sec. 4.2: A, or none for plain networks; or B, C of sec. 3.3
    config.model.shortcut = "none" if argument.startswith("plain-") else "A"

    config.model.shortcut_padding = "after"  # zero maps of shortcut A; or both_sides
    config.model.zero_gamma = False  # True: Goyal 2017
    config.model.batch_norm = "per_device"  # or across_devices
    config.dataset.name = "cifar10"
    config.preprocess.high = 1.0  # chosen here
    config.optimizer.momentum_form = "caffe"  # README of the authors' ImageNet networks

    # Sec. 4.2
    config.model.initializer = "he"
    config.preprocess.update({"pad": 4, "crop": 32, "mean": "pixel"})
    config.augment.update({"crop": True, "flip": True})
    config.epochs = 64_000 * 128 / 50_000
    config.batch_size = 128
    config.optimizer.update({"momentum": 0.9, "weight_decay": 1e-4})
    config.schedule.update(
        {
            "name": "steps",
            "learning_rate": 0.1,
            "boundaries": (32_000 * 128 / 50_000, 48_000 * 128 / 50_000),
            "factors": (0.1, 0.01),
        }
    )
    if argument == "110":
        config.schedule.update({"warmup_rate": 0.01, "warmup_error": 0.8})
    return config
