"""Augmentations of a training image [h, w, c], as pure functions of one key and the image.

To add one: write its function, add its field to the section `augment` of configs/schema.py, and
list it in `before_mean` or `after_padding` under a new number.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

from configs import schema

ENHANCEMENTS = ("brightness", "contrast", "colour")
_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, of red, green, blue

# A number and a function of (key, image). The function's key is the example's key folded with the
# number (None: not folded), so that an augmentation more does not change the draws of the others.
Numbered = tuple[int | None, Callable]


def before_mean(section, statistics) -> list[Numbered]:
    """Augmentations of pixels in 0..255, from a config's section `augment`, in order.

    statistics: of the training set, for `lighting`.
    """
    chosen = []
    affine = {name: section[name] for name in ("translate", "scale", "squeeze", "shear")}
    if any(affine.values()):
        chosen.append((None, functools.partial(affine_distort, **affine)))
    if section.photometric:
        chosen.append((3, functools.partial(photometric, extent=section.photometric)))
    if section.lighting != "none":
        axes = light_axes(section.lighting, statistics.eigenvalues, statistics.eigenvectors)
        deviation = section.lighting_deviation
        chosen.append((4, functools.partial(lighting, axes=axes, deviation=deviation)))
    return chosen


def after_padding(section, side: int) -> list[Numbered]:
    """Augmentations of padded images, whose mean is 0 if it is subtracted. side: of the crop."""
    chosen = []
    if side and section.crop:
        chosen.append((1, functools.partial(crop, side=side)))
    if section.flip:
        chosen.append((2, flip))
    return chosen


def apply(augmentations: list[Numbered], keys: jax.Array, images: jax.Array) -> jax.Array:
    """Augments each image [batch, h, w, c] with its key [batch]."""
    for number, function in augmentations:
        fold = functools.partial(jax.random.fold_in, data=number)
        images = jax.vmap(function)(keys if number is None else jax.vmap(fold)(keys), images)
    return images


def crop(key: jax.Array, image: jax.Array, side: int) -> jax.Array:
    """A square [side, side, c] at a random place; all places are equally likely.

    AlexNet (Krizhevsky 2012, sec. 4.1) and, from padded images, ResNet on CIFAR-10 (He 2015,
    sec. 4.2).
    """
    spans = jnp.array([size - side for size in image.shape[:2]])
    top, left = jax.random.randint(key, (2,), 0, spans + 1)
    return jax.lax.dynamic_slice(image, (top, left, 0), (side, side, image.shape[-1]))


def flip(key: jax.Array, image: jax.Array) -> jax.Array:
    """The image, mirrored left to right with probability 1/2 (Krizhevsky 2012, sec. 4.1)."""
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)


def affine_distort(
    key: jax.Array, image: jax.Array, translate: float, scale: float, squeeze: float, shear: float
) -> jax.Array:
    """A random planar affine distortion, of the kinds of LeCun 1998, sec. III.B.

    uint8 [h, w, c] -> float32 [h, w, c] in 0..255, bilinear, background 0. The ranges, which the
    paper does not give, are +-: translate: pixels along each axis. scale: share of the size.
    squeeze: share by which the width grows while the height shrinks. shear: horizontal pixels per
    row.
    """
    height, width, _ = image.shape
    t_y, t_x, zoom, ratio, slope = jax.random.uniform(key, (5,), minval=-1.0, maxval=1.0)
    y = jnp.arange(height) - (height - 1) / 2
    x = jnp.arange(width) - (width - 1) / 2
    y, x = jnp.meshgrid(y, x, indexing="ij")
    # The place in the source of each pixel of the result: the inverse of the distortion.
    zoom, ratio = 1 + scale * zoom, 1 + squeeze * ratio
    y_source = (y - translate * t_y) * ratio / zoom
    x_source = (x - translate * t_x - shear * slope * y) / (ratio * zoom)
    coordinates = [y_source + (height - 1) / 2, x_source + (width - 1) / 2]

    def sample(channel):
        return map_coordinates(channel, coordinates, order=1, mode="constant", cval=0.0)

    return jax.vmap(sample, in_axes=-1, out_axes=-1)(image.astype(jnp.float32))


def enhance(image: jax.Array, kind: jax.Array | int, factor: jax.Array | float) -> jax.Array:
    """The image blended with itself without brightness, contrast or colour: float32 in 0..255.

    kind: index into ENHANCEMENTS. factor: 0 removes it, 1 changes nothing, more adds, as Pillow's
    ImageEnhance (which rounds to whole grey levels). Without brightness an image is black, without
    contrast it is its mean luma, without colour each pixel is its luma.
    """
    image = image.astype(jnp.float32)
    luma = image
    if image.shape[-1] == 3:  # a sum: a matrix product is imprecise on some accelerators
        luma = (image * jnp.array(_LUMA)).sum(axis=-1, keepdims=True)
    degenerate = jnp.stack([jnp.zeros_like(luma), jnp.full_like(luma, luma.mean()), luma])[kind]
    return jnp.clip(degenerate + factor * (image - degenerate), 0.0, 255.0)


def photometric(key: jax.Array, image: jax.Array, extent: float) -> jax.Array:
    """Brightness, contrast and colour changed in random order (Howard 2013, for GoogLeNet).

    Each factor is uniform in 1 +- extent. Returns float32 [h, w, c] in 0..255.
    """
    order_key, factor_key = jax.random.split(key)
    factors = jax.random.uniform(factor_key, (3,), minval=1 - extent, maxval=1 + extent)
    for kind in jax.random.permutation(order_key, 3):
        image = enhance(image, kind, factors[kind])
    return image


def light_axes(kind: str, eigenvalues, eigenvectors):
    """The shift by `lighting` per unit of each alpha: [c, c], an axis per column, in 0..1 units.

    kind: "eigenvalues" (of the covariance of pixels in 0..1), as the paper says, or "deviations",
    their square roots, as in the author's code (cuda-convnet2, convdata.py): on ImageNet's three
    axes 2, 7 and 15 times as much.
    """
    return eigenvectors * (eigenvalues if kind == "eigenvalues" else eigenvalues**0.5)


def lighting(key: jax.Array, image: jax.Array, axes, deviation: float) -> jax.Array:
    """A random shift of all pixels along the set's principal colours (Krizhevsky 2012, sec. 4.1).

    axes: `light_axes`. The alpha of each axis is drawn from N(0, deviation^2) once per image (the
    paper's deviation: 0.1). Returns float32, not clipped. (The author's code also shrinks the image
    minus its mean by 1 + deviation; the paper does not mention this.)
    """
    alpha = deviation * jax.random.normal(key, (image.shape[-1],))
    return image.astype(jnp.float32) + 255.0 * (jnp.asarray(axes, jnp.float32) * alpha).sum(axis=1)


def describe(section) -> str:
    """The augmentation that is in use, from a config's `augment` section; "" if none is."""
    parts = []
    for name, field in schema.AUGMENT.items():
        value, is_used = section[name], name != "lighting_deviation" or section.lighting != "none"
        if is_used and value != field.default:
            number = f"{value:g}" if isinstance(value, float) else value
            parts.append(name if value is True else f"{name} {number}")
    return ", ".join(parts)
