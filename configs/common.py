"""The helpers of config files; `base` is one of them."""

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict, FieldReference

from configs.schema import base


def choose(file: str, argument: str, arguments: Collection[str]) -> str:
    """`argument`, if it is one of `arguments`; otherwise raises ValueError, which names them."""
    if argument not in arguments:
        raise ValueError(
            f"{file} has no argument {argument!r}: choose one of {', '.join(arguments)}"
        )
    return argument


def hidden_sizes(file: str, argument: str, examples: str) -> tuple[int, ...]:
    """The sizes of hidden layers in "500-150". Raises ValueError for any other argument."""
    sizes = argument.split("-")
    if not all(size.isdecimal() and int(size) > 0 for size in sizes):
        raise ValueError(f"{file} has no argument {argument!r}: give hidden sizes, {examples}")
    return tuple(map(int, sizes))


def imagenet(model: str, train_scale: tuple[int, int] = (256, 256)) -> ConfigDict:
    """A config with what the papers' ImageNet recipes share: 224x224 crops, flips, RGB in 0..255.

    Images have a shorter side of 256, in training one in `train_scale`. Training crops at a random
    place, evaluation in the centre.
    """
    config = base()
    config.model.name = model
    config.dataset.name = "imagenet2012"
    # AlexNet's, VGG's, GoogLeNet's and ResNet's papers
    config.view.size = 224
    config.preprocess.high = 255.0

    # AlexNet sec. 4.1, VGG sec. 3.1, ResNet sec. 3.4; GoogLeNet's paper does not say
    config.augment.flip = True

    # AlexNet sec. 2, VGG sec. 3.1, ResNet sec. 3.4
    config.view.update({"train_scale": train_scale, "test_scale": 256})

    scale_with_size(config.view)
    config.evaluate.batch_size = 128
    return config


class _Operation(NamedTuple):
    """What a FieldReference applies to its value: fn(value, *args)."""

    fn: Callable
    args: Sequence[Any]


def scale_with_size(view: ConfigDict) -> None:
    """Makes `train_scale` and `test_scale` follow `size`, in proportion, until they are set.

    Otherwise `--config.view.size=64` alone would cut 64 of 256 pixels in place of 224 of 256.
    view: a config's `view` section, with its values at the present size.
    """
    operation = _Operation(_in_proportion, (view.get_oneway_ref("size"), view.size))
    for name in ("train_scale", "test_scale"):
        view[name] = FieldReference(view[name], op=operation)


def _in_proportion(scale: int | tuple[int, int], size: int, original: int):
    """A scale, or the ends of a range of scales, that belongs to a size of `original` pixels."""
    if size in (0, original):  # 0: images are not cut
        return scale
    if isinstance(scale, tuple):
        return tuple(_in_proportion(end, size, original) for end in scale)
    return round(scale * size / (original or 224))  # 224: the size to which scales of 256 belong
