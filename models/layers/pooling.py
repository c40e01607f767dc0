"""Pooling: max, average, overlapping, ceil mode, global, and LeNet's trainable subsampling."""

import functools
import math
import os

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from models.layers import extent
from models.layers.cost import Cost
from models.layers.initializers import Init

KINDS = ("max", "average")


def _first_maximum(a, b):
    """The maximum (NaN if a or b is). If a = b, the gradient goes to a, as in max pooling."""
    return jnp.where((a >= b) | jnp.isnan(a), a, b)


def _in_slices(x, layer: "Pool", pads, out_size) -> jax.Array:
    """Maxima or sums of the windows: first along rows, then along columns, by strided slices.

    The gradients of slices are padded sums. `lax.reduce_window` is slower on a CPU, most of all the
    gradient of its maximum, select-and-scatter. Milliseconds on one core of an Intel Xeon
    (AVX-512), jaxlib 0.12.0.1, forward / forward and backward:

        maximum            slices        reduce_window
        8x112x112x64, 3/2  3.3 / 18.4     10.6 / 114.2
        16x55x55x64, 3/2   0.6 /  4.5      4.6 /  50.0
        4x224x224x64, 2/2  2.3 / 22.8      3.2 / 153.7
        8x28x28x192, 3/1   1.3 /  4.7      7.4 /  66.5
    """
    start, op = (-jnp.inf, _first_maximum) if layer.kind == "max" else (0.0, jnp.add)
    stride = layer.stride
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)), constant_values=start)
    for axis, count in ((2, out_size[1]), (1, out_size[0])):
        span = stride * (count - 1) + 1
        slices = [lax.slice_in_dim(x, i, i + span, stride, axis=axis) for i in range(layer.window)]
        x = functools.reduce(op, slices)
    return x


def _reduced(x, layer: "Pool", pads, out_size) -> jax.Array:
    """Maxima or sums of the windows, by `lax.reduce_window`."""
    start, op = (-jnp.inf, lax.max) if layer.kind == "max" else (0.0, lax.add)
    return nn.pool(x, start, op, (layer.window,) * 2, (layer.stride,) * 2, pads)


def _wants_slices() -> bool:
    """Whether slices are used: on CPUs for speed; on GPUs if XLA must be deterministic.

    select-and-scatter is not deterministic on a GPU, and does not compile under this flag.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    return jax.default_backend() == "cpu" or "--xla_gpu_deterministic_ops=true" in flags


def pool(x: jax.Array, layer: "Pool") -> jax.Array:
    """The output of the layer for x."""
    window, stride, padding = layer.window, layer.stride, layer.padding
    size = x.shape[1:3]
    out_size = [layer.output_size(n) for n in size]
    if min(out_size) < 1:
        raise ValueError(
            f"the image is too small: a map of {size[0]}x{size[1]} is smaller than its window of"
            f" {window}x{window}"
        )
    spans = [(count - 1) * stride + window for count in out_size]
    pads = [(padding, max(0, span - n - padding)) for span, n in zip(spans, size, strict=True)]
    if layer.kind == "average" and window == stride and not any(map(any, pads)):
        return window_sum(x, window) / window**2
    if padding or layer.ceil:
        x = extent.fill(x, -jnp.inf if layer.kind == "max" else 0.0)
    reduce = _in_slices if _wants_slices() else _reduced
    pooled = reduce(x, layer, pads, out_size)
    return pooled if layer.kind == "max" else pooled / divisor(x, layer)


def divisor(x: jax.Array, layer: "Pool") -> jax.Array:
    """What average pooling of x divides the sum of each window by: [b or 1, h', w', 1].

    It is the number of pixels of the window that lie in the image or its padding, as in torch.
    """
    size, sizes = x.shape[1:3], extent.valid(x)
    sizes = np.array([size]) if sizes is None else sizes
    padded = sizes + 2 * layer.padding
    rows, columns = (
        jnp.clip(padded[:, axis, None] - np.arange(n) * layer.stride, 1, layer.window)
        for axis, n in enumerate(map(layer.output_size, size))
    )
    return (rows[:, :, None, None] * columns[:, None, :, None]).astype(x.dtype)


def window_sum(x: jax.Array, window: int) -> jax.Array:
    """Sums of non-overlapping window x window fields. [b, h, w, c] -> [b, h/w, w/w, c]."""
    batch, height, width, channels = x.shape
    out_h, out_w = height // window, width // window
    x = x[:, : out_h * window, : out_w * window]
    # A reshape and a sum: on a CPU, XLA's reduce_window and its gradient are slower.
    return x.reshape(batch, out_h, window, out_w, window, channels).sum(axis=(2, 4))


class Pool(nn.Module):
    """Max or average pooling over a square window, overlapping if stride < window.

    [b, h, w, c] -> [b, h', w', c]. kind: "max" | "average". padding: pixels on each side: minus
    infinity for max; for average zeros, which are counted. ceil: see `output_size`; the part of a
    window beyond the edge is not counted. Raises ValueError for a map that is too small.
    """

    kind: str
    window: int = 2
    stride: int = 2
    padding: int = 0
    ceil: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = pool(x, self)
        extent.follow(x, y, self.output_size)
        return y

    @nn.nowrap
    def output_size(self, size: int) -> int:
        """The number of windows along an axis of `size` pixels.

        Floor mode: whole windows only. Ceil mode (cuda-convnet, Caffe): the last window may extend
        beyond the edge, but must begin inside the image or in the padding before it.
        """
        span = size + 2 * self.padding - self.window
        if not self.ceil:
            return span // self.stride + 1
        count = -(-span // self.stride) + 1
        # Sizes may be arrays, too.
        return count - ((count - 1) * self.stride >= size + self.padding)

    def cost(self, in_shape, out_shape) -> Cost:
        return Cost(
            macs=0,
            connections=math.prod(out_shape) * self.window**2,
            window=(self.window,) * 2,
            stride=(self.stride,) * 2,
            before=(self.padding,) * 2,
        )


class GlobalAveragePool(nn.Module):
    """The mean over all positions: [b, h, w, c] -> [b, c]."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        sizes = extent.valid(x)
        if sizes is None:
            return x.mean(axis=(1, 2))
        return x.mean(axis=(1, 2), where=extent.mask(x.shape[1:3], sizes))

    def cost(self, in_shape, out_shape) -> Cost:
        return Cost(macs=0, connections=math.prod(in_shape), window=tuple(in_shape[:2]))


class Subsampling(nn.Module):
    """LeNet's trainable subsampling, before its squashing function (LeCun 1998, sec. II.B).

    The four inputs of a 2x2 window are *added* and multiplied by a trainable `coefficient`, and a
    trainable `bias` is added; each map has one of both, or `pieces` of both for maxout.
    [b, h, w, c] -> [b, h/2, w/2, c * pieces].
    """

    window: int = 2
    pieces: int = 1
    initializer: Init = Init("lecun1998")
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (x.shape[-1] * self.pieces,)
        # A unit has window^2 inputs, each of which goes to one unit only.
        draw = functools.partial(self.initializer.draw, fan_in=self.window**2, fan_out=1)
        coefficient = self.param("coefficient", draw, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        x, coefficient, bias = nn.dtypes.promote_dtype(x, coefficient, bias, dtype=self.dtype)
        total = window_sum(x, self.window)
        return coefficient * jnp.repeat(total, self.pieces, axis=-1) + bias

    def cost(self, in_shape, out_shape) -> Cost:
        units = math.prod(out_shape)
        return Cost(
            macs=units,  # one product for each unit, after the sum
            connections=units * (self.window**2 + 1),
            window=(self.window,) * 2,
            stride=(self.window,) * 2,
        )
