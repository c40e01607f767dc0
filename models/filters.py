"""Image filters with fixed weights, from before weights were learned.

The lecture begins here: a filter is a small window of weights that slides over an image, and a
convolutional network learns these weights. In the lecture's order: convolution as a sliding sum;
mean, Gaussian and bilateral filter; Sobel's edges and Harris's corners; the simple and complex
cells of the visual cortex. notebooks/filters.ipynb is the lesson.

All functions are pure and compiled. Images are [batch, height, width, channels] of any real
numbers, such as uint8 from 0 to 255 or floats from 0 to 1; integers become float32. Results have
the units of the image, unless a function says otherwise. Lengths are in pixels, angles in radians.
Every channel is filtered alone, except by `convolve`, `sliding_sum` and `bilateral`.

`border` says what lies beyond the edge of an image with the columns a b c d:

    reflect    c b | a b c d | c b    OpenCV's default (BORDER_REFLECT_101)
    symmetric  b a | a b c d | d c    SciPy's default (which calls it "reflect")
    zero       0 0 | a b c d | 0 0    what convolutional networks do
    none       nothing: the result has only places whose window lies within the image. It is smaller

Bad input raises ValueError: another rank, a window without a middle, a sigma that is not positive,
a size, stride or number that is not whole.
"""

import functools
import math
import numbers
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from models.layers import Pool, kernels

BORDERS = {"reflect": "reflect", "symmetric": "symmetric", "zero": "constant", "none": ""}


@functools.partial(jax.jit, static_argnames="stride")
def sliding_sum(x, kernel, stride: int = 1) -> jax.Array:
    """Convolution written out: each output is the sum of a window times the kernel.

    x: [batch, height, width, in]. kernel: [rows, columns, in, out]. The result is [batch, height',
    width', out], without a border. As in every convolutional network, the kernel is not flipped
    (mathematicians call this a cross-correlation). `convolve` gives the same numbers faster.
    """
    x, kernel = _checked(x, kernel, stride)
    _check_fits(x.shape[1:3], kernel.shape[:2])
    rows, columns = kernel.shape[:2]
    height, width = (x.shape[1] - rows) // stride + 1, (x.shape[2] - columns) // stride + 1
    total = 0.0
    for row in range(rows):
        for column in range(columns):
            # The pixel at this place of the window, for all windows at once: one every `stride`.
            pixels = x[:, row::stride, column::stride][:, :height, :width]
            total += pixels @ kernel[row, column]  # the sum over the input channels
    return total


@functools.partial(jax.jit, static_argnames=("border", "stride"))
def convolve(x, kernel, border: str = "none", stride: int = 1) -> jax.Array:
    """`sliding_sum` by the primitive that the networks use, and with a border.

    x: [batch, height, width, in]. kernel: [rows, columns, in, out], both odd unless border is
    "none". Result: [batch, height', width', out].
    """
    x, kernel = _checked(x, kernel, stride)
    x = _padded(x, kernel.shape[:2], border)
    return kernels.convolve(
        x, kernel, (stride, stride), ((0, 0), (0, 0)), precision=lax.Precision.HIGHEST
    )


@functools.partial(jax.jit, static_argnames=("size", "border"))
def mean(x, size: int, border: str = "reflect") -> jax.Array:
    """The mean of size x size pixels (box filter)."""
    weights = np.full(_odd("size", size), 1 / size)
    return _separable(x, weights, weights, border)


@functools.partial(jax.jit, static_argnames=("sigma", "radius", "border"))
def gaussian(x, sigma: float, radius: int | None = None, border: str = "reflect") -> jax.Array:
    """The mean with the weights of a Gaussian of standard deviation sigma.

    radius: where the weights are cut off; None: four sigma, as in SciPy.
    """
    sigma = _positive("sigma", sigma)
    radius = int(4 * sigma + 0.5) if radius is None else _radius(radius)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    weights /= weights.sum()
    return _separable(x, weights, weights, border)


@functools.partial(jax.jit, static_argnames=("sigma_space", "sigma_value", "radius", "border"))
def bilateral(
    x, sigma_space: float, sigma_value: float, radius: int | None = None, border: str = "reflect"
) -> jax.Array:
    """A Gaussian mean that stops at edges (Tomasi and Manduchi 1998, "Bilateral filtering").

    A pixel's weight is the product of two Gaussians: of its distance (sigma_space) and of its
    difference in value (sigma_value, in the units of the image). In a colour image the difference
    is the Euclidean distance of the colours, and all channels have the same weights. So the filter
    is not linear, and no convolution equals it.

    radius: of the round window; None: three sigma_space. Grey images give the numbers of OpenCV,
    whose difference of colours is the sum over channels of the absolute differences.
    """
    sigma_space = _positive("sigma_space", sigma_space)
    sigma_value = _positive("sigma_value", sigma_value)
    radius = math.ceil(3 * sigma_space) if radius is None else _radius(radius)
    size = 2 * radius + 1
    padded = _padded(_images(x), (size, size), border)
    batch, height, width, channels = padded.shape
    shape = (batch, height - 2 * radius, width - 2 * radius, channels)
    middle = lax.dynamic_slice(padded, (0, radius, radius, 0), shape)

    def add(place, sums):
        row, column = place // size, place % size
        pixels = lax.dynamic_slice(padded, (0, row, column, 0), shape)
        distance = (row - radius) ** 2 + (column - radius) ** 2  # squared, as the difference
        difference = jnp.square(pixels - middle).sum(axis=-1, keepdims=True)
        exponent = -0.5 * (distance / sigma_space**2 + difference / sigma_value**2)
        weight = jnp.where(distance <= radius**2, jnp.exp(exponent), 0)
        return sums[0] + weight * pixels, sums[1] + weight

    start = jnp.zeros_like(middle), jnp.zeros_like(middle[..., :1])
    total, weights = lax.fori_loop(0, size**2, add, start)
    return total / weights


# The derivative and, across it, the smoothing of Sobel's operator.
_DERIVATIVE, _SMOOTHING = np.array([-1.0, 0.0, 1.0]), np.array([1.0, 2.0, 1.0])


@functools.partial(jax.jit, static_argnames="border")
def sobel_x(x, border: str = "reflect") -> jax.Array:
    """Sobel's horizontal derivative: positive where the image gets lighter to the right.

    Not scaled, as in SciPy and OpenCV: if the image rises by 1 for each pixel, the result is 8.
    (Sobel and Feldman 1968; published in Duda and Hart 1973, p. 271.)
    """
    return _separable(x, _SMOOTHING, _DERIVATIVE, border)


@functools.partial(jax.jit, static_argnames="border")
def sobel_y(x, border: str = "reflect") -> jax.Array:
    """Sobel's vertical derivative: positive where the image gets lighter downwards."""
    return _separable(x, _DERIVATIVE, _SMOOTHING, border)


@functools.partial(jax.jit, static_argnames="border")
def sobel_magnitude(x, border: str = "reflect") -> jax.Array:
    """The length of the gradient (`sobel_x`, `sobel_y`): how strong an edge is."""
    squared = sobel_x(x, border) ** 2 + sobel_y(x, border) ** 2
    # The derivative of the root is infinite at 0.
    return jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1)), 0)


@functools.partial(jax.jit, static_argnames=("sigma", "k", "border"))
def harris(x, sigma: float = 1.0, k: float = 0.05, border: str = "reflect") -> jax.Array:
    """Harris's corner response, det M - k (trace M)^2 (Harris and Stephens 1988, sec. 3).

    M is the matrix of the products of Sobel's derivatives, averaged by `gaussian` with this sigma.
    If both of its eigenvalues are large, the image changes in every direction: a corner, and the
    response is positive. At an edge it is negative, and in a flat region about 0. Its unit is the
    fourth power of the image's.
    """
    dx, dy = sobel_x(x, border), sobel_y(x, border)
    xx, xy, yy = (
        gaussian(product, sigma, border=border) for product in (dx * dx, dx * dy, dy * dy)
    )
    return xx * yy - xy * xy - k * (xx + yy) ** 2


@functools.partial(jax.jit, static_argnames=("radius", "share"))
def peaks(response, radius: int = 3, share: float = 0.01) -> jax.Array:
    """Where a response such as Harris's is largest within radius: bool, of the same shape.

    Only values above `share` times the largest of their map count.
    """
    response, radius = _images(response), _radius(radius)
    largest = Pool("max", 2 * radius + 1, 1, padding=radius).apply({}, response)
    least = share * response.max(axis=(1, 2), keepdims=True)
    return (response == largest) & (response > jnp.maximum(least, 0))


def gabor(
    size: int, wavelength: float, angle: float, phase: float, sigma: float, aspect: float = 0.5
) -> np.ndarray:
    """A Gabor function, [size, size]: a wave in a Gaussian window.

    It describes the receptive field of a simple cell (Marcelja 1980; Daugman 1985, eq. 1).

    wavelength: of the wave, in pixels. angle: of the direction in which the wave runs; 0: to the
    right, so that its stripes are vertical; pi / 2: downwards. phase: 0 for a light stripe in the
    middle, pi / 2 for an edge. sigma: deviation of the Gaussian along the wave; across it, the
    deviation is sigma / aspect.
    """
    _positive("wavelength", wavelength), _positive("sigma", sigma), _positive("aspect", aspect)
    along = np.arange(_odd("size", size)) - size // 2
    y, x = np.meshgrid(along, along, indexing="ij")
    u = x * math.cos(angle) + y * math.sin(angle)
    v = -x * math.sin(angle) + y * math.cos(angle)
    window = np.exp(-0.5 * (u**2 + (aspect * v) ** 2) / sigma**2)
    return window * np.cos(2 * math.pi * u / wavelength - phase)


PHASES = (0.0, math.pi / 2, math.pi, 3 * math.pi / 2)


def oriented_bank(size: int = 11, angles: int = 4) -> np.ndarray:
    """Gabor functions at evenly spaced angles, each in four PHASES: [size, size, 1, 4 * angles].

    The filters of one angle follow each other. Their waves are half as long as the window, and the
    Gaussian's deviation is a quarter of it. Each filter has mean 0, so that a flat region gives no
    response, and norm 1.
    """
    _count("angles", angles)
    if size < 3:
        raise ValueError(f"size: {size}: give 3 or more pixels")
    bank = [
        gabor(size, size / 2, math.pi * number / angles, phase, size / 4)
        for number in range(angles)
        for phase in PHASES
    ]
    bank = np.stack(bank, axis=-1)[:, :, None].astype(np.float32)
    bank -= bank.mean(axis=(0, 1))
    return bank / np.linalg.norm(bank, axis=(0, 1))


@functools.partial(jax.jit, static_argnames=("border", "stride"))
def simple_cells(x, bank, border: str = "reflect", stride: int = 1) -> jax.Array:
    """A bank of filters and a rectifier: each cell answers to one pattern at one place.

    (Hubel and Wiesel 1962; the S cells of Fukushima 1980.) x: [batch, height, width, in]. bank:
    [rows, columns, in, filters]. Result: [batch, height', width', filters], at least 0.
    """
    return jnp.maximum(convolve(x, bank, border, stride), 0)


@functools.partial(jax.jit, static_argnames=("phases", "window", "stride"))
def complex_cells(simple, phases: int = 4, window: int = 5, stride: int = 1) -> jax.Array:
    """The largest of neighbouring simple cells: the same pattern, wherever in the window it is.

    (Hubel and Wiesel 1962; the maximum is that of Riesenhuber and Poggio 1999.) simple: [batch,
    height, width, filters], as many filters in sequence as `phases` are of one angle. Result:
    [batch, height', width', filters / phases], without a border.
    """
    simple = _images(simple)
    batch, height, width, filters = simple.shape
    _count("phases", phases), _count("window", window), _count("stride", stride)
    if filters % phases:
        raise ValueError(f"{filters} simple cells are no multiple of {phases} phases")
    of_angle = simple.reshape(batch, height, width, filters // phases, phases).max(axis=-1)
    return Pool("max", window, stride).apply({}, of_angle)


def _separable(x, down: Sequence[float], across: Sequence[float], border: str) -> jax.Array:
    """Every channel alone, by a kernel that is the product of a column and a row of weights."""
    x = _images(x)
    batch, height, width, channels = x.shape
    maps = x.transpose(0, 3, 1, 2).reshape(batch * channels, height, width, 1)
    for axis, weights in enumerate((down, across)):
        kernel = np.expand_dims(weights, (1 - axis, 2, 3))
        maps = convolve(maps, jnp.asarray(kernel, x.dtype), border)
    return maps.reshape(batch, channels, *maps.shape[1:3]).transpose(0, 2, 3, 1)


def _padded(x: jax.Array, window: tuple[int, int], border: str) -> jax.Array:
    """The images with a border, so that a result with this window has the size of the image."""
    if border not in BORDERS:
        raise ValueError(f"border: {border!r}: choose one of {', '.join(BORDERS)}")
    if border != "none":
        before = [_odd("the window's side", side) // 2 for side in window]
        x = jnp.pad(x, ((0, 0), *((n, n) for n in before), (0, 0)), BORDERS[border])
    _check_fits(x.shape[1:3], window)
    return x


def _check_fits(size: Sequence[int], window: Sequence[int]) -> None:
    if any(n < k for n, k in zip(size, window, strict=True)):
        raise ValueError(
            f"the image is too small: it is {size[0]}x{size[1]}, and the window"
            f" {window[0]}x{window[1]}"
        )


def _images(x) -> jax.Array:
    """The images as floats."""
    x = jnp.asarray(x)
    if x.ndim != 4 or 0 in x.shape[1:]:
        raise ValueError(
            f"images of the shape {list(x.shape)}: give [batch, height, width, channels]"
        )
    return x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.float32)


def _checked(x, kernel, stride: int) -> tuple[jax.Array, jax.Array]:
    """Images, and a kernel that fits their channels."""
    x, kernel = _images(x), jnp.asarray(kernel)
    _count("stride", stride)
    if kernel.ndim != 4 or kernel.shape[2] != x.shape[-1]:
        raise ValueError(
            f"a kernel of the shape {list(kernel.shape)} for images of {x.shape[-1]} channels: give"
            f" [rows, columns, {x.shape[-1]}, filters]"
        )
    return x, kernel.astype(x.dtype)


def _count(name: str, value: int) -> None:
    if not isinstance(value, numbers.Integral) or value < 1:
        raise ValueError(f"{name}: {value}: give a whole number, 1 or more")


def _odd(name: str, size: int) -> int:
    if not isinstance(size, numbers.Integral) or size < 1 or size % 2 != 1:
        raise ValueError(f"{name}: {size}: give an odd number, so that a pixel is in the middle")
    return size


def _radius(radius: int) -> int:
    if radius < 0 or radius != int(radius):
        raise ValueError(f"radius: {radius}: give a whole number of pixels, 0 or more")
    return radius


def _positive(name: str, value: float) -> float:
    if not 0 < value < math.inf:
        raise ValueError(f"{name}: {value}: give a number above 0")
    return value
