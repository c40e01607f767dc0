"""Maxout networks on MNIST and CIFAR-10 (Goodfellow et al. 2013).

    python main.py --config=configs/maxout.py --workdir=runs/maxout --config.dataset.data_dir=DATA

Arguments: mnist_dense (default), mnist_conv, cifar10, cifar10_augmented.

Published test errors: 0.94, 0.45, 11.68, 9.38 %. The study maxout_mnist trains the first
(docs/studies). The others were not run.

As in the authors' files (pylearn2, scripts/papers/maxout: mnist_pi, mnist, cifar10_no_aug and
cifar10.yaml): layer sizes; initial weights U(-0.005, 0.005); limits on the norm of each unit's
weights; batch 100 (mnist_dense) or 128; dropout of 0.2 of the image, which is not scaled, and of
0.5 of other layers' inputs, which are scaled in training; momentum with the rate inside the
velocity, from 0.5 to 0.7 (cifar10: 0.6, augmented: 0.65) in 250 epochs. On MNIST the rate falls at
every step. On CIFAR-10 it falls linearly to a hundredth in 500 epochs, convolutions learn at a
twentieth of it, and training takes 785 epochs (augmented: 474). Augmented: random 32x32 crops of
images padded by 8 zeros, and flips.

Differences: on MNIST, a fixed number of epochs on all images, where the authors stop early on
50,000 images and continue on all. On CIFAR-10, subtraction of the mean image in place of contrast
normalisation and whitening. In mnist_conv one bias per map, where theirs has one per place.
"""

from ml_collections import ConfigDict

from configs.common import base, choose

# Largest norms of the units' weights (the authors' configuration files).
_MAX_NORMS = {
    "mnist_dense": {"h0": 1.9365, "h1": 1.9365, "y": 1.9365},
    "mnist_conv": {"h0": 0.9, "h1": 1.9365, "h2": 1.9365, "y": 1.9365},
    "cifar10": {"h0": 0.9, "h1": 1.9365, "h2": 1.9365, "h3": 1.9, "y": 1.9365},
}
ARGUMENTS = (*_MAX_NORMS, "cifar10_augmented")


def get_config(argument: str = "mnist_dense") -> ConfigDict:
    """The config of one of ARGUMENTS. Raises ValueError for any other."""
    variant = choose("configs/maxout.py", argument, ARGUMENTS).removesuffix("_augmented")
    augmented = variant != argument
    config = base()
    config.model.name = "maxout"
    config.dataset.name = "cifar10" if variant == "cifar10" else "mnist"

    # The authors' files
    config.model.variant = variant
    config.model.activation = "maxout"
    config.model.maxout_pieces = 0  # each layer's own
    config.model.initializer = "uniform"
    config.model.initializer_scale = 0.005
    config.model.update({"regulariser": "dropout", "drop_rate": 0.5})
    config.model.input_drop_rate = 0.2
    config.model.input_dropout_scaling = "none"  # or train, test, as model.dropout_scaling
    config.model.pooling = "published"  # max, average, overlapping, non_overlapping
    config.batch_size = 100 if variant == "mnist_dense" else 128
    config.optimizer.update({"momentum": 0.5, "momentum_end": 0.7, "momentum_epochs": 250.0})
    config.optimizer.momentum_form = "caffe"
    config.optimizer.max_norms = ConfigDict(_MAX_NORMS[variant])
    if variant == "cifar10":
        # A deviation of about 1, in place of whitening
        config.preprocess.update({"high": 4.0, "mean": "pixel"})

        # The authors' files
        if augmented:
            config.preprocess.update({"pad": 8, "crop": 32})
            config.augment.update({"crop": True, "flip": True})
        config.epochs = 474.0 if augmented else 785.0
        config.optimizer.momentum_end = 0.65 if augmented else 0.6
        config.optimizer.layer_rates = ConfigDict({"h0": 0.05, "h1": 0.05, "h2": 0.05})
        config.schedule.update(
            {"name": "linear", "learning_rate": 0.17, "decay": 0.01, "decay_epochs": 500.0}
        )
    else:
        # Chosen here, in place of early stopping
        config.epochs = 250.0

        # The authors' files
        dense = variant == "mnist_dense"
        config.schedule.update(
            {
                "name": "exponential",
                "learning_rate": 0.1 if dense else 0.05,
                "decay": 1 / 1.000004 if dense else 1 / 1.00004,
                "minimum": 1e-6,
            }
        )
    return config
