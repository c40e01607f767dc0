"""The device-side half of the pipeline: uint8 batches to network input, as pure functions.

Runs inside the jitted step. Whatever is random takes one key an example.
"""

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

from errors import UserError


def resize(images: jax.Array, side: int) -> jax.Array:
    """[batch, h, w, c] -> float32 [batch, side, side, c], bilinear, antialiased, same range."""
    shape = (len(images), side, side, images.shape[-1])
    return jax.image.resize(images.astype(jnp.float32), shape, "bilinear")


def crop(images: jax.Array, side: int, keys: jax.Array | None = None) -> jax.Array:
    """Square crops, [batch, h, w, c] -> [batch, side, side, c].

    Central ones, or with one key an image at places that are all equally likely.
    """
    spans = jnp.array([size - side for size in images.shape[1:3]])
    if keys is None:
        top, left = (int(size - side) // 2 for size in images.shape[1:3])
        return images[:, top : top + side, left : left + side]

    def one(key, image):
        top, left = jax.random.randint(key, (2,), 0, spans + 1)
        return jax.lax.dynamic_slice(image, (top, left, 0), (side, side, image.shape[-1]))

    return jax.vmap(one)(keys, images)


def flip(images: jax.Array, keys: jax.Array) -> jax.Array:
    """Each image mirrored left to right with probability 1/2; one key an image."""
    mirrored = jax.vmap(jax.random.bernoulli)(keys)
    return jnp.where(mirrored[:, None, None, None], images[:, :, ::-1], images)


def scale(images: jax.Array, low: float, high: float) -> jax.Array:
    """0..255 -> float32 low..high."""
    return low + images.astype(jnp.float32) * ((high - low) / 255.0)


def affine_distort(
    key: jax.Array, image: jax.Array, translate: float, scale: float, squeeze: float, shear: float
) -> jax.Array:
    """A random planar affine distortion of one image, of the kinds of LeCun 1998, sec. III.C.

    image: uint8 [h, w, c]; returns float32 [h, w, c] in 0..255, bilinear, background 0.
    translate: +- pixels along each axis. scale: +- share of the size. squeeze: +- share by which
    the width grows while the height shrinks. shear: +- horizontal pixels a row.
    The paper gives the kinds, not the ranges.
    """
    height, width, _ = image.shape
    t_y, t_x, zoom, ratio, slope = jax.random.uniform(key, (5,), minval=-1.0, maxval=1.0)
    y = jnp.arange(height) - (height - 1) / 2
    x = jnp.arange(width) - (width - 1) / 2
    y, x = jnp.meshgrid(y, x, indexing="ij")
    # Where in the source each pixel of the result comes from: the inverse of the distortion.
    zoom, ratio = 1 + scale * zoom, 1 + squeeze * ratio
    y_source = (y - translate * t_y) * ratio / zoom
    x_source = (x - translate * t_x - shear * slope * y) / (ratio * zoom)
    coordinates = [y_source + (height - 1) / 2, x_source + (width - 1) / 2]

    def sample(channel):
        return map_coordinates(channel, coordinates, order=1, mode="constant", cval=0.0)

    return jax.vmap(sample, in_axes=-1, out_axes=-1)(image.astype(jnp.float32))


def output_shape(preprocessing, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """(height, width, channels) that the transform of a `preprocess` section gives.

    image_shape has zeros where images differ in size. Raises UserError where that, or a crop
    larger than the image, leaves no size.
    """
    height, width, channels = image_shape
    if preprocessing.resize:
        height = width = preprocessing.resize
    if not height or not width:
        raise UserError("the images differ in size: set config.preprocess.resize")
    height, width = (size + 2 * preprocessing.pad for size in (height, width))
    side = preprocessing.crop
    if side > min(height, width):
        raise UserError(
            f"config.preprocess.crop={side} is more than the {height}x{width} image: lower it"
        )
    return (side, side, channels) if side else (height, width, channels)


def make_transform(preprocessing, augmentation):
    """transform(images, keys=None) from the config's `preprocess` and `augment` sections.

    uint8 [batch, h, w, c] -> float32 [batch, *output_shape]. keys: one key an example for
    training; None for evaluation, which takes no random choice. Padding is background, value 0
    before scaling (LeNet-5: pad 2, -0.1 to 1.175; LeCun 1998, sec. III.A-B).
    """
    ranges = augmentation.to_dict()
    random_crop, random_flip = ranges.pop("crop"), ranges.pop("flip")
    pad = preprocessing.pad

    def transform(images: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        train = keys is not None
        if train and any(ranges.values()):
            images = jax.vmap(lambda key, image: affine_distort(key, image, **ranges))(keys, images)
        if preprocessing.resize:
            images = resize(images, preprocessing.resize)
        images = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        if preprocessing.crop:
            crop_keys = jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys) if train else None
            images = crop(images, preprocessing.crop, crop_keys if random_crop else None)
        if train and random_flip:
            images = flip(images, jax.vmap(lambda key: jax.random.fold_in(key, 2))(keys))
        return scale(images, preprocessing.low, preprocessing.high)

    return transform
