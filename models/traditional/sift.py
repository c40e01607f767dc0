"""Dense SIFT descriptors (Lowe 2004, sec. 6; on a grid as in Lazebnik 2006).

A descriptor is a histogram of the gradients in a square patch: 4 x 4 bins of 8 orientations.
Each gradient counts with its magnitude and is shared between the nearest bins, linearly along x, y
and the orientation. A Gaussian window reduces the weight of gradients far from the centre.

On a grid, the spatial part is two matrix products, one along each axis, because the weights of x
and y are factors. The lecture's terms: the gradient is the filter, the split into orientations the
non-linearity, the histogram the pooling.
"""

import jax
import jax.numpy as jnp
import numpy as np

CELLS = 4  # spatial bins along each side of a patch
ORIENTATIONS = 8
SIZE = CELLS * CELLS * ORIENTATIONS  # of a descriptor
WINDOW = CELLS / 2  # standard deviation of the Gaussian window, in bins
LARGEST = 0.2  # value at which a normalised descriptor is cut (Lowe 2004, sec. 6.1)
LUMINANCE = (0.299, 0.587, 0.114)  # of ITU-R BT.601, as in OpenCV
BLUR = 1 / 6  # standard deviation of the smoothing before the gradient, in bins


def gray(images: jax.Array) -> jax.Array:
    """[batch, height, width, 1 or 3] -> luminance [batch, height, width]."""
    return images[..., 0] if images.shape[-1] == 1 else images @ jnp.array(LUMINANCE)


def blur(images: jax.Array, deviation: float) -> jax.Array:
    """A Gaussian filter: [batch, height, width] -> the same shape.

    deviation: in pixels. Near the edge, the mean is over the pixels inside the image.
    """
    rows, columns = (_gaussian(length, deviation) for length in images.shape[1:])
    return jnp.einsum("yr,brc,xc->byx", rows, images, columns)


def _gaussian(length: int, deviation: float) -> np.ndarray:
    distances = np.arange(length)[:, None] - np.arange(length)
    weights = np.exp(-0.5 * (distances / deviation) ** 2)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def grid(length: int, bin_width: int, step: int) -> np.ndarray:
    """Centres of patches along an axis, in pixels: float64 [n].

    The patches, of CELLS bins, lie inside of the image, and the rest is shared by both sides.
    Raises ValueError for an image that is smaller than a patch.
    """
    free = length - CELLS * bin_width
    if free < 0:
        raise ValueError(
            f"the image is too small: its side of {length} pixels is smaller than a SIFT patch of"
            f" {CELLS} x {bin_width} pixels"
        )
    count = free // step + 1
    first = (length - 1 - (count - 1) * step) / 2
    return first + step * np.arange(count)


def gradients(images: jax.Array) -> jax.Array:
    """Gradient magnitudes, shared between orientations: [b, h, w] -> [b, h, w, ORIENTATIONS].

    Orientation i is the angle 45 i degrees, counter-clockwise from the direction of x. Gradients
    are central differences. Pixels on the edge of the image have none.
    """
    along_x = images[:, 1:-1, 2:] - images[:, 1:-1, :-2]
    along_y = images[:, :-2, 1:-1] - images[:, 2:, 1:-1]  # upwards
    is_flat = (along_x == 0) & (along_y == 0)  # where the angle has no derivative
    along_x = jnp.where(is_flat, 1, along_x)
    magnitude = jnp.where(is_flat, 0, 0.5 * jnp.hypot(along_x, along_y))
    angle = jnp.arctan2(along_y, along_x) * (ORIENTATIONS / (2 * np.pi))
    # The distance on the circle to each orientation, in units of 45 degrees.
    half = ORIENTATIONS / 2
    distance = jnp.abs((angle[..., None] - jnp.arange(ORIENTATIONS) + half) % ORIENTATIONS - half)
    shares = magnitude[..., None] * jnp.maximum(0, 1 - distance)
    return jnp.pad(shares, ((0, 0), (1, 1), (1, 1), (0, 0)))


def describe(
    images: jax.Array, rows: np.ndarray, columns: np.ndarray, bin_width: float
) -> tuple[jax.Array, jax.Array]:
    """Descriptors of patches at a grid of places.

    images: [batch, height, width]. rows, columns: centres in pixels, [m] and [n].
    bin_width: side of a spatial bin, in pixels.

    Returns descriptors [batch, m, n, SIZE] of length 1, in the order of OpenCV: bins row by row,
    then orientations; and contrasts [batch, m, n], their lengths before normalisation, per pixel of
    the patch. A patch without gradients has a descriptor of zeros.
    """
    height, width = images.shape[1:]
    y, x = _weights(rows, height, bin_width), _weights(columns, width, bin_width)
    histograms = jnp.einsum("pir,brco,qjc->bpqijo", y, gradients(images), x)
    histograms = histograms.reshape(*histograms.shape[:3], SIZE)
    lengths = jnp.linalg.norm(jax.lax.stop_gradient(histograms), axis=-1)
    contrasts = lengths / (CELLS * bin_width) ** 2  # only compared: without a gradient
    cut = jnp.minimum(normalised(histograms), LARGEST)
    return normalised(cut), contrasts


def _weights(centres: np.ndarray, length: int, bin_width: float) -> np.ndarray:
    """The weight of each pixel of an axis in each bin: float32 [centres, CELLS, length]."""
    distances = (np.arange(length) - np.asarray(centres)[:, None]) / bin_width
    bins = np.arange(CELLS) - (CELLS - 1) / 2
    shares = np.maximum(0, 1 - np.abs(distances[:, None] - bins[:, None]))
    window = np.exp(-0.5 * (distances / WINDOW) ** 2)
    return (shares * window[:, None]).astype(np.float32)


def normalised(vectors: jax.Array) -> jax.Array:
    """Vectors (of the last axis) with length 1. Those of zeros stay, with a finite gradient."""
    squares = (vectors * vectors).sum(axis=-1, keepdims=True)
    return vectors / jnp.sqrt(jnp.where(squares > 0, squares, 1))


def dense(
    images: jax.Array, bin_widths: tuple[int, ...], step: int, contrast: float
) -> tuple[jax.Array, jax.Array]:
    """Descriptors on dense grids, one grid for each bin width.

    images: [batch, height, width, 1 or 3], from 0 to 1. step: between patches, in pixels.
    contrast: patches with less are left out.

    Returns descriptors [batch, n, SIZE] and whether they are used, bool [batch, n]; in the order of
    `places`.
    """
    images = gray(images)
    height, width = images.shape[1:]
    parts = []
    for bin_width in bin_widths:
        # Camera images have a blur of about half a pixel (Lowe 2004, sec. 3.3).
        deviation = np.sqrt(max(0.0, (BLUR * bin_width) ** 2 - 0.25))
        smooth = blur(images, deviation) if deviation else images
        rows, columns = grid(height, bin_width, step), grid(width, bin_width, step)
        described, contrasts = describe(smooth, rows, columns, bin_width)
        count = len(rows) * len(columns)
        is_used = contrasts >= max(contrast, 1e-6)  # never a patch without gradients
        parts.append((described.reshape(-1, count, SIZE), is_used.reshape(-1, count)))
    descriptors, used = zip(*parts, strict=True)
    return jnp.concatenate(descriptors, axis=1), jnp.concatenate(used, axis=1)


def places(height: int, width: int, bin_widths: tuple[int, ...], step: int) -> np.ndarray:
    """Centres (y, x) of the descriptors of `dense`, as shares of the image: float64 [n, 2].

    Raises ValueError as `grid`.
    """
    parts = []
    for bin_width in bin_widths:
        rows, columns = grid(height, bin_width, step), grid(width, bin_width, step)
        y, x = np.meshgrid((rows + 0.5) / height, (columns + 0.5) / width, indexing="ij")
        parts.append(np.stack([y.ravel(), x.ravel()], axis=1))
    return np.concatenate(parts)
