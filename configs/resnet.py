"""ResNet and plain nets on ImageNet (He, Zhang, Ren, Sun 2015).

    python main.py --mode=summary --config=configs/resnet.py:50
    python main.py --config=configs/resnet.py:18 --workdir=runs/resnet18 \\
        --config.dataset.name=cifar10 --config.dataset.data_dir=DATA

Arguments: 50 (default), 18, 34, 101, 152; 50-v1.5, 101-v1.5, 152-v1.5 (the stride in the 3x3 of
a bottleneck in place of its first 1x1); plain-18, plain-34.

Shortcuts are B; for the paper's table 2, 18 and 34 layers have `--config.model.shortcut=A`.
The paper's: batch 256, momentum 0.9, weight decay 1e-4, rate 0.1 lowered tenfold at 15e4 and 30e4
iterations (30 and 60 epochs, fig. 4), 60e4 iterations, He's initialisation. Published, validation,
ten crops, top-1 error: plain-18 27.94, plain-34 28.54, 18 (A) 27.88, 34 (A) 25.03, 50 22.85,
101 21.75, 152 21.43 %.

Which parameters decay the paper does not say: here the kernels.
Not yet as the paper: images come from sets that fit into memory, resized whole to 224x224 on the
device, without crops, flips or colour noise; a constant is subtracted in place of the mean
image. ImageNet itself has not been trained here.
"""

from ml_collections import ConfigDict

from configs.common import base, choose

ARGUMENTS = (
    *("50", "18", "34", "101", "152"),
    *("50-v1.5", "101-v1.5", "152-v1.5"),
    *("plain-18", "plain-34"),
)


def get_config(argument: str = "50") -> ConfigDict:
    """The config of one of ARGUMENTS. Raises ValueError for any other."""
    choose("configs/resnet.py", argument, ARGUMENTS)
    config = base()
    config.model.name = "resnet"
    config.model.depth = int(argument.removeprefix("plain-").removesuffix("-v1.5"))
    config.model.stride = "v1.5" if argument.endswith("-v1.5") else "v1"
    # A, B, C, or none for the plain nets
    config.model.shortcut = "none" if argument.startswith("plain-") else "B"
    config.model.zero_gamma = False
    config.model.batch_norm = "per_device"  # or across_devices
    config.model.initializer = "he"
    config.dataset.name = "imagenet2012"
    config.preprocess.update({"low": -117.0, "high": 138.0})
    config.epochs = 119.9
    config.batch_size = 256
    config.optimizer.weight_decay = 1e-4
    config.schedule.update(
        {
            "name": "steps",
            "learning_rate": 0.1,
            "boundaries": (30.0, 60.0),
            "factors": (0.1, 0.01),
        }
    )
    config.evaluate.batch_size = 128
    return config
