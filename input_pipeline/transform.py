"""The device-side half of the pipeline: uint8 batches to network input, as pure functions.

Runs inside the jitted step. Whatever is random takes one key an example.
"""

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates


def preprocess(images: jax.Array, pad: int, low: float, high: float) -> jax.Array:
    """uint8 [batch, h, w, c] -> float32 [batch, h + 2 pad, w + 2 pad, c] in low..high.

    Padding is background, value 0 before scaling. LeNet-5: pad 2, -0.1 to 1.175 (LeCun 1998,
    sec. III.A-B).
    """
    images = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
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


def make_transform(preprocessing, augmentation):
    """transform(images, keys=None) from the config's `preprocess` and `augment` sections.

    keys: one key an example for training; None for evaluation, which is never distorted.
    """
    ranges = augmentation.to_dict()
    scaling = preprocessing.to_dict()

    def transform(images: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        if keys is not None and any(ranges.values()):
            images = jax.vmap(lambda key, image: affine_distort(key, image, **ranges))(keys, images)
        return preprocess(images, **scaling)

    return transform
