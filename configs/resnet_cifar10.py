"""ResNet and plain nets on CIFAR-10 (He, Zhang, Ren, Sun 2015, sec. 4.2).

    python main.py --config=configs/resnet_cifar10.py:20 --workdir=runs/resnet20 \\
        --config.dataset.data_dir=DATA

Arguments: 20 (default), 32, 44, 56, 110, 1202; plain-20, plain-32, plain-44, plain-56, plain-110.

The paper's: batch 128, momentum 0.9, weight decay 1e-4, rate 0.1 lowered tenfold at 32k and 48k
of 64k iterations, the per-pixel mean subtracted, padding by 4 zeros, random crops and flips,
shortcuts A, He's initialisation.
Published test error: 20 8.75, 32 7.51, 44 7.17, 56 6.97, 110 6.43 (6.61 +- 0.16), 1202 7.93 %; of
the plain nets there are curves only, and plain-110's is not drawn: its error is above 60 %.
The momentum is Caffe's, with the rate inside the velocity, as the authors' README of their ImageNet
nets says.

110 layers warm up: rate 0.01 until the training error (of about the last 50 steps) is below 80 %.
Not plain-110, of which the paper says nothing, nor 1202, "trained as described above", which may
mean with warming up: `--config.schedule.warmup_rate=0.01 --config.schedule.warmup_error=0.8`.

The paper does not say which parameters decay, here the kernels; nor the range of the pixels, here
0 to 1 before the mean is subtracted. It trained on two GPUs, with 64 images each to normalise by:
`--config.num_devices=2`. Its schedule was found with 45,000 images to train and 5,000 to validate:
--config.dataset.train_split=train[:45000] --config.dataset.test_split=train[45000:].

Measured: not yet to its end. 20 layers for the first three epochs (--config.epochs=3.0
--config.evaluate.every_epochs=0.5, seed 0, two cores of a CPU, 200 images a second; with
--config.optimizer.momentum_form=pytorch, which is the same as long as the rate stays), on a copy of
CIFAR-10 whose images went through JPEG compression, so that errors lie well above those of the
original: after 0.5, 1, ... 3 epochs test error 58.2, 57.2, 40.6, 38.0, 38.8, 33.6 %, training error
(of the last 72 steps) 31.5 % (docs/images/resnet20_three_epochs.png).
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
    # A, B, C, or none for the plain nets
    config.model.shortcut = "none" if argument.startswith("plain-") else "A"
    config.model.zero_gamma = False
    config.model.batch_norm = "per_device"  # or across_devices
    config.model.initializer = "he"
    config.dataset.name = "cifar10"
    config.preprocess.update({"pad": 4, "crop": 32, "high": 1.0, "mean": "pixel"})
    config.augment.update({"crop": True, "flip": True})
    config.epochs = 64_000 * 128 / 50_000
    config.batch_size = 128
    config.optimizer.update({"momentum_form": "caffe", "weight_decay": 1e-4})
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
