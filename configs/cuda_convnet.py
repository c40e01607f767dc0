"""The CIFAR-10 nets of Krizhevsky's cuda-convnet (2011), named by their test error.

    python main.py --config=configs/cuda_convnet.py:26pct --workdir=runs/cuda_convnet \\
        --config.dataset.data_dir=DATA

Arguments: 18pct (default), 26pct, 13pct, 11pct. The last two take random 24x24 crops and flips.

The originals': pixels of 0..255 less their mean image, batch 128, momentum 0.9 with the rate
inside the velocity, rate 0.001, layer by layer initialisation. 26pct: rate lowered tenfold after
8 epochs; 18pct: after 120, and again 10 later.

Not yet as the originals: one weight decay for all kernels (0.004) in place of each layer's, biases
at the weights' rate in place of twice it, one crop at test time in place of ten (11pct). A
random crop is less its own part of the mean image; the original subtracts the central part.
"""

from ml_collections import ConfigDict

from configs.common import base, choose

ARGUMENTS = ("18pct", "26pct", "13pct", "11pct")


def get_config(argument: str = "18pct") -> ConfigDict:
    """The config of one of ARGUMENTS. Raises ValueError for any other."""
    config = base()
    config.model.name = "cuda_convnet"
    config.model.variant = choose("configs/cuda_convnet.py", argument, ARGUMENTS)
    config.model.initializer = "paper"  # or any rule of configs/common.py for all layers
    config.dataset.name = "cifar10"
    config.preprocess.update({"high": 255.0, "mean": "pixel"})
    config.batch_size = 128
    config.optimizer.update({"momentum_form": "caffe", "weight_decay": 0.004})
    config.schedule.update({"name": "steps", "learning_rate": 0.001})
    if argument == "26pct":
        config.epochs = 10.0
        config.schedule.update({"boundaries": (8.0,), "factors": (0.1,)})
    elif argument == "18pct":
        config.epochs = 140.0
        config.schedule.update({"boundaries": (120.0, 130.0), "factors": (0.1, 0.01)})
    else:
        config.preprocess.crop = 24
        config.augment.update({"crop": True, "flip": True})
        config.epochs = 520.0
        config.schedule.update({"boundaries": (500.0, 510.0), "factors": (0.1, 0.01)})
    return config
