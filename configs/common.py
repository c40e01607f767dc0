"""The helpers of config files; `base` is one of them."""

from collections.abc import Collection

from ml_collections import ConfigDict

from configs.schema import base


def choose(file: str, argument: str, arguments: Collection[str]) -> str:
    """`argument`, if it is one of `arguments`; otherwise raises ValueError, which names them."""
    if argument not in arguments:
        raise ValueError(
            f"{file} has no argument {argument!r}: choose one of {', '.join(arguments)}"
        )
    return argument


def imagenet(model: str) -> ConfigDict:
    """A config with what the papers' ImageNet recipes share: 224x224 crops, flips, RGB in 0..255.

    Images have a shorter side of 256. Training crops at a random place, evaluation in the centre.
    """
    config = base()
    config.model.name = model
    config.dataset.name = "imagenet2012"
    config.view.update({"size": 224, "train_scale": (256, 256), "test_scale": 256})
    config.preprocess.high = 255.0
    config.augment.flip = True
    config.evaluate.batch_size = 128
    return config
