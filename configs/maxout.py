"""Maxout networks on MNIST and CIFAR-10 (Goodfellow et al. 2013).

    python main.py --config=configs/maxout.py --workdir=runs/maxout --config.dataset.data_dir=DATA

Arguments: mnist_dense (default), mnist_conv, cifar10.

The authors': widths, windows, U(-0.005, 0.005), dropout (0.2 of the image, 0.5 of what other
layers see), limits on the norm of each unit's weights, batch 100 (dense) or 128. Published test
error: 0.94, 0.45, 11.68 % (CIFAR-10 without augmentation).

Not yet as the authors': constant momentum, a rate that falls on a cosine, a fixed number of epochs
in place of early stopping and retraining on all data; for CIFAR-10 no contrast normalisation,
no whitening, one rate for all layers.
"""

from ml_collections import ConfigDict

from configs.common import base, choose

# Largest norms of the units' weights (the authors' configuration files).
_MAX_NORMS = {
    "mnist_dense": {"h0": 1.9365, "h1": 1.9365, "y": 1.9365},
    "mnist_conv": {"h0": 0.9, "h1": 1.9365, "h2": 1.9365, "y": 1.9365},
    "cifar10": {"h0": 0.9, "h1": 1.9365, "h2": 1.9365, "h3": 1.9, "y": 1.9365},
}
ARGUMENTS = tuple(_MAX_NORMS)


def get_config(argument: str = "mnist_dense") -> ConfigDict:
    """The config of one of ARGUMENTS. Raises ValueError for any other."""
    config = base()
    config.model.name = "maxout"
    config.model.variant = choose("configs/maxout.py", argument, ARGUMENTS)
    config.model.activation = "maxout"
    config.model.maxout_pieces = 0  # each layer's own, as published
    config.model.initializer = "uniform"
    config.model.initializer_scale = 0.005
    config.model.regulariser = "dropout"
    config.model.input_drop_rate = 0.2
    config.dataset.name = "cifar10" if argument == "cifar10" else "mnist"
    if argument == "cifar10":
        config.preprocess.update({"low": -1.9, "high": 2.1})  # about mean 0, deviation 1
    config.batch_size = 100 if argument == "mnist_dense" else 128
    config.optimizer.momentum = 0.5
    config.optimizer.max_norms = ConfigDict(_MAX_NORMS[argument])
    config.epochs = 100.0
    config.schedule.name = "cosine"
    config.schedule.learning_rate = {"mnist_dense": 0.1, "mnist_conv": 0.05, "cifar10": 0.02}[
        argument
    ]
    return config
