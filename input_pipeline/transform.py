"""The device-side half of the pipeline: uint8 batches to network input, as pure functions.

It runs inside the compiled step. Everything random comes from one key per example.
"""

import jax
import jax.numpy as jnp
import numpy as np

from errors import UserError
from input_pipeline import augment
from input_pipeline.views import central


def output_shape(preprocessing, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """(height, width, channels) of the network input, from a `preprocess` section.

    image_shape: of the uint8 images; height and width are 0 if images differ in size. Raises
    UserError in that case, for a crop larger than the image, and for a mean or deviation with
    another number of channels.
    """
    height, width, channels = image_shape
    for name in ("given_mean", "deviation"):
        if len(preprocessing[name]) not in (0, channels):
            raise UserError(
                f"config.preprocess.{name}={tuple(preprocessing[name])}: the images have {channels}"
                f" colour{'s' if channels > 1 else ''}: give a number for each"
            )
    if not height or not width:
        raise UserError("the images differ in size: set config.view.size")
    height, width = (size + 2 * preprocessing.pad for size in (height, width))
    side = preprocessing.crop
    if side > min(height, width):
        raise UserError(
            f"config.preprocess.crop={side} is more than the {height}x{width} image: lower it"
        )
    return (side, side, channels) if side else (height, width, channels)


def needs_statistics(preprocessing, augmentation) -> bool:
    """Whether these sections need statistics of the training set."""
    return preprocessing.mean in ("channel", "pixel") or augmentation.lighting != "none"


def make_transform(preprocessing, augmentation, statistics=None):
    """transform(images, keys=None, offsets=None, at=None), from a config's sections.

    uint8 [batch, h, w, c] -> float32 [batch, *output_shape]. keys: one per example in training;
    None in evaluation, which has no augmentation. statistics: a `Statistics` of the training set,
    if `needs_statistics`.

    The order is: `augment.before_mean`, subtract the mean, pad, `augment.after_padding` or the
    central crop, scale. Without a mean, padding is 0 before scaling (LeNet-5: pad 2, values from
    -0.1 to 1.175; LeCun 1998, sec. III.A-B), and pixels u in 0..255 become
    low + (high - low) u / 255. With a mean they become high (u - mean) / 255, and padding 0. Both
    are divided by `deviation`, one value per channel, if it is given.

    A mean image may be larger than the images, which are then parts of it. offsets: int32
    [batch, 2], (top, left) of each part; None: the central part.
    at: (top, left) of the crop in the padded images, instead of the central crop.
    """
    pad, side = preprocessing.pad, preprocessing.crop
    low, high = preprocessing.low, preprocessing.high
    mean = None
    if preprocessing.mean == "given":
        mean = 255.0 * np.asarray(preprocessing.given_mean)
    elif preprocessing.mean != "none":
        mean = statistics.image if preprocessing.mean == "pixel" else statistics.mean
    if mean is not None:
        mean = np.asarray(mean, np.float32)
    scale = (high - low) / 255.0
    if preprocessing.deviation:
        low, scale = (np.float32(v) / np.float32(preprocessing.deviation) for v in (low, scale))
    before_mean = augment.before_mean(augmentation, statistics)
    after_padding = augment.after_padding(augmentation, side)
    crops_at_random = side and augmentation.crop

    def transform(images, keys=None, offsets=None, at=None) -> jax.Array:
        train = keys is not None
        if train:
            images = augment.apply(before_mean, keys, images)
        if mean is not None:
            images = images.astype(jnp.float32) - _mean_part(mean, images.shape, train, offsets)
        images = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        if side and not (train and crops_at_random):
            top, left = at or ((size - side) // 2 for size in images.shape[1:3])
            images = images[:, top : top + side, left : left + side]
        if train:
            images = augment.apply(after_padding, keys, images)
        return low + images.astype(jnp.float32) * scale

    return transform


def _mean_part(mean: np.ndarray, shape: tuple[int, ...], train: bool, offsets):
    """The part of the mean for images of `shape`, broadcast to it. mean: [c] or [M, M', c]."""
    _, height, width, channels = shape
    is_smaller = mean.ndim == 3 and (mean.shape[0] < height or mean.shape[1] < width)
    if mean.shape[-1] != channels or is_smaller:
        raise UserError(
            f"the training set's mean has {'x'.join(map(str, mean.shape))} values, but the images"
            f" are {height}x{width}x{channels}: use images of the size and colours of the training"
            " set"
        )
    if mean.ndim == 1 or mean.shape == (height, width, channels):
        return mean
    if offsets is None:
        if train:
            raise ValueError("which part of the mean image? Random crops need offsets")
        top, left = central(mean.shape[0], height), central(mean.shape[1], width)
        return mean[top : top + height, left : left + width]
    return jax.vmap(
        lambda offset: jax.lax.dynamic_slice(mean, (*offset, 0), (height, width, channels))
    )(offsets)
