"""Random changes of a training image, as pure functions of one key and one image.

Images are [h, w, c]; values, where they count, are in 0..255.
"""

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

LIGHTINGS = ("none", "eigenvalues", "deviations")
ENHANCEMENTS = ("brightness", "contrast", "colour")
_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, of red, green, blue


def crop(key: jax.Array, image: jax.Array, side: int) -> jax.Array:
    """A square [side, side, c] of the image, at places that are all equally likely.

    AlexNet (Krizhevsky 2012, sec. 4.1) and, from padded images, ResNet on CIFAR-10 (He 2015,
    sec. 4.2).
    """
    spans = jnp.array([size - side for size in image.shape[:2]])
    top, left = jax.random.randint(key, (2,), 0, spans + 1)
    return jax.lax.dynamic_slice(image, (top, left, 0), (side, side, image.shape[-1]))


def flip(key: jax.Array, image: jax.Array) -> jax.Array:
    """The image mirrored left to right with probability 1/2 (Krizhevsky 2012, sec. 4.1)."""
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)


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


def enhance(image: jax.Array, kind: jax.Array | int, factor: jax.Array | float) -> jax.Array:
    """The image blended with what it is without brightness, contrast or colour, in 0..255.

    kind: index into ENHANCEMENTS. factor: 0 takes it away, 1 changes nothing, more adds; so
    Pillow's ImageEnhance, which rounds to whole grey levels. Without brightness it is black,
    without contrast all of the mean luma, without colour each pixel's luma.
    """
    image = image.astype(jnp.float32)
    luma = image
    if image.shape[-1] == 3:  # as a sum: a matrix product is rough on some accelerators
        luma = (image * jnp.array(_LUMA)).sum(axis=-1, keepdims=True)
    degenerate = jnp.stack([jnp.zeros_like(luma), jnp.full_like(luma, luma.mean()), luma])[kind]
    return jnp.clip(degenerate + factor * (image - degenerate), 0.0, 255.0)


def photometric(key: jax.Array, image: jax.Array, extent: float) -> jax.Array:
    """Brightness, contrast and colour changed in random order (Howard 2013, for GoogLeNet).

    Each factor is uniform in 1 +- extent. uint8 or float [h, w, c] -> float32 in 0..255.
    """
    order_key, factor_key = jax.random.split(key)
    factors = jax.random.uniform(factor_key, (3,), minval=1 - extent, maxval=1 + extent)
    for kind in jax.random.permutation(order_key, 3):
        image = enhance(image, kind, factors[kind])
    return image


def light_axes(kind: str, eigenvalues, eigenvectors):
    """What `lighting` adds per unit of each alpha: [c, c], a column an axis, in 0..1 units.

    kind: "eigenvalues" (of the covariance of pixels in 0..1), as the paper reads, or
    "deviations", their square roots, as the author's code has it (cuda-convnet2, convdata.py):
    on ImageNet's three axes 2, 7 and 15 times as much.
    """
    return eigenvectors * (eigenvalues if kind == "eigenvalues" else eigenvalues**0.5)


def lighting(key: jax.Array, image: jax.Array, axes, deviation: float) -> jax.Array:
    """One random shift of all pixels along the axes of the set's colours (Krizhevsky 2012, 4.1).

    axes: `light_axes`. Each axis counts by its own alpha, drawn from N(0, deviation^2) (the
    paper's deviation: 0.1) once for the image. Returns float32, not clipped. (The author's code
    also shrinks the image less its mean by 1 + deviation, of which the paper says nothing.)
    """
    alpha = deviation * jax.random.normal(key, (image.shape[-1],))
    return image.astype(jnp.float32) + 255.0 * (jnp.asarray(axes, jnp.float32) * alpha).sum(axis=1)
