"""The device-side half of the pipeline: uint8 batches to network input, as pure functions.

Runs inside the jitted step. Whatever is random takes one key an example.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from errors import UserError
from input_pipeline import augment

MEANS = ("none", "channel", "pixel", "given")
_AFFINE = ("translate", "scale", "squeeze", "shear")

# Each augmentation draws from the example's key folded with its own number (the affine distortion
# from the key itself), so that one switched on or off leaves the others' draws alone.
_CROP, _FLIP, _PHOTOMETRIC, _LIGHTING = 1, 2, 3, 4


def output_shape(preprocessing, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """(height, width, channels) that the transform of a `preprocess` section gives.

    image_shape: of the images handed over; zeros where they differ in size. Raises UserError
    where that, or a crop larger than the image, leaves no size, and for a given mean or deviations
    of other colours.
    """
    height, width, channels = image_shape
    for name in ("given_mean", "deviation"):
        if len(preprocessing[name]) not in (0, channels):
            raise UserError(
                f"config.preprocess.{name}={tuple(preprocessing[name])}: the images have {channels}"
                f" colour{'s' if channels > 1 else ''}, give a number for each"
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
    """Whether these sections ask for statistics of the training set."""
    return preprocessing.mean in ("channel", "pixel") or augmentation.lighting != "none"


def make_transform(preprocessing, augmentation, statistics=None):
    """transform(images, keys=None, offsets=None, at=None), from the sections named so.

    uint8 [batch, h, w, c] -> float32 [batch, *output_shape]. keys: one key an example for
    training; None for evaluation, which takes no random choice. statistics: those of the
    training set, where `needs_statistics`.

    In this order: affine distortion, photometric distortion, lighting, the mean subtracted, pad,
    crop, flip, scale. Without a mean, padding is background, value 0 before scaling (LeNet-5:
    pad 2, -0.1 to 1.175; LeCun 1998, sec. III.A-B), and pixels u in 0..255 become
    low + (high - low) u / 255. With one they become high (u - mean) / 255, and padding 0. Either is
    divided by `deviation`, one value a colour, if there is one.

    A mean image may be larger than the images, of which each is then a part: offsets, int32
    [batch, 2], say where the part begins (top, left); None: in the middle.

    at: (top, left) of the crop in the padded images, in place of the middle.
    """
    affine = {name: augmentation[name] for name in _AFFINE}
    pad, side = preprocessing.pad, preprocessing.crop
    low, high = preprocessing.low, preprocessing.high
    mean = axes = None
    if preprocessing.mean == "given":
        mean = 255.0 * np.asarray(preprocessing.given_mean)
    elif preprocessing.mean != "none":
        mean = statistics.image if preprocessing.mean == "pixel" else statistics.mean
    if mean is not None:
        mean = np.asarray(mean, np.float32)
    scale = (high - low) / 255.0
    if preprocessing.deviation:
        low, scale = (np.float32(v) / np.float32(preprocessing.deviation) for v in (low, scale))
    if augmentation.lighting != "none":
        axes = augment.light_axes(
            augmentation.lighting, statistics.eigenvalues, statistics.eigenvectors
        )

    def transform(images, keys=None, offsets=None, at=None) -> jax.Array:
        def each(function, images, fold=None, **options):
            own = keys if fold is None else jax.vmap(lambda k: jax.random.fold_in(k, fold))(keys)
            return jax.vmap(functools.partial(function, **options))(own, images)

        train = keys is not None
        if train and any(affine.values()):
            images = each(augment.affine_distort, images, **affine)
        if train and augmentation.photometric:
            extent = augmentation.photometric
            images = each(augment.photometric, images, _PHOTOMETRIC, extent=extent)
        if train and axes is not None:
            deviation = augmentation.lighting_deviation
            images = each(augment.lighting, images, _LIGHTING, axes=axes, deviation=deviation)
        if mean is not None:
            images = images.astype(jnp.float32) - _part(mean, images.shape, train, offsets)
        images = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        if side and train and augmentation.crop:
            images = each(augment.crop, images, _CROP, side=side)
        elif side:
            top, left = at or ((size - side) // 2 for size in images.shape[1:3])
            images = images[:, top : top + side, left : left + side]
        if train and augmentation.flip:
            images = each(augment.flip, images, _FLIP)
        return low + images.astype(jnp.float32) * scale

    return transform


def _part(mean: np.ndarray, shape, train: bool, offsets):
    """What to subtract from images of `shape`: broadcasts to it. mean: [c] or [M, M', c]."""
    _, height, width, channels = shape
    is_smaller = mean.ndim == 3 and (mean.shape[0] < height or mean.shape[1] < width)
    if mean.shape[-1] != channels or is_smaller:
        raise UserError(
            f"the training set's mean is of {'x'.join(map(str, mean.shape))} values, but the images"
            f" are {height}x{width}x{channels}: give images like those of the training set"
        )
    if mean.ndim == 1 or mean.shape == (height, width, channels):
        return mean
    if offsets is None:
        if train:
            raise ValueError("which part of the mean image? Random crops come with offsets")
        top, left = (mean.shape[0] - height) // 2, (mean.shape[1] - width) // 2
        return mean[top : top + height, left : left + width]

    def one(offset):
        return jax.lax.dynamic_slice(mean, (*offset, 0), (height, width, channels))

    return jax.vmap(one)(offsets)
