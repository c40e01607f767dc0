"""Convolutions, locally connected and fully connected layers.

Parameters are float32; `dtype` is the dtype of the computation. Padding is explicit, in the style
of PyTorch.
"""

import functools
import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from models.layers.cost import Cost, before, weighted_cost
from models.layers.initializers import Init
from models.layers.kernels import convolve


class Conv(nn.Conv):
    """2-D convolution (a correlation: the kernel is not flipped), zero padding given as ints.

    [batch, height, width, in] -> [batch, height', width', features]. Parameters `kernel`
    [kh, kw, in / groups, features] and `bias` [features]. Raises ValueError if the padded image is
    smaller than the kernel.
    """

    padding: int | Sequence[int] = 0
    conv_general_dilated: Callable | None = convolve

    def cost(self, in_shape, out_shape) -> Cost:
        strides = self.strides or 1
        return weighted_cost(
            out_shape,
            math.prod(self.kernel_size) * in_shape[-1] // self.feature_group_count,
            self.use_bias,
            window=tuple(self.kernel_size),
            stride=(strides,) * 2 if isinstance(strides, int) else tuple(strides),
            before=before(self.padding),
        )


class TableConv(nn.Module):
    """Convolution in which output map m sees only the input maps `table[m]` (LeCun 1998, table I).

    [batch, height, width, in] -> [batch, height', width', len(table)]. The parameter `kernel`
    [kh, kw, pairs] holds only the weights that exist, one [kh, kw] slice for each (input map,
    output map) pair in the order of the table; `bias` is [len(table)]. The weights of an output
    map are drawn by its fan-in.

    table: for each output map, the input maps that it sees.
    """

    table: tuple[tuple[int, ...], ...]
    kernel_size: tuple[int, int]
    initializer: Init = Init("lecun1998")
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        pairs = [(i, m) for m, inputs in enumerate(self.table) for i in inputs]
        window = math.prod(self.kernel_size)
        fan_in = np.array([window * len(self.table[m]) for _, m in pairs], np.float32)
        seen_by = np.bincount([i for i, _ in pairs], minlength=x.shape[-1])
        fan_out = np.array([window * seen_by[i] for i, _ in pairs], np.float32)
        draw = functools.partial(self.initializer.draw, fan_in=fan_in, fan_out=fan_out)
        kernel = self.param("kernel", draw, (*self.kernel_size, len(pairs)))
        bias = self.param("bias", nn.initializers.zeros, (len(self.table),))
        # The computation uses a dense kernel: position (input, output) has the slice of its pair,
        # or the zero slice that is appended at the end.
        slot = np.full((x.shape[-1], len(self.table)), len(pairs))
        slot[tuple(zip(*pairs, strict=True))] = range(len(pairs))
        dense = jnp.pad(kernel, ((0, 0), (0, 0), (0, 1)))[:, :, slot]
        x, dense, bias = nn.dtypes.promote_dtype(x, dense, bias, dtype=self.dtype)
        y = convolve(x, dense, (1, 1), ((0, 0), (0, 0)), dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return y + bias

    def cost(self, in_shape, out_shape) -> Cost:
        weights = math.prod(self.kernel_size) * sum(map(len, self.table))
        positions = math.prod(out_shape[:2])
        return Cost(
            macs=positions * weights,
            connections=positions * (weights + len(self.table)),
            window=self.kernel_size,
        )


class LocalConv(nn.Module):
    """Locally connected layer: windows as in a convolution, but each position has its own weights.

    [b, h, w, in] -> [b, h', w', features], stride 1. Parameters `kernel`
    [h', w', kh, kw, in, features] and `bias` [h', w', features]. padding: zeros
    ((before, after), ...) along height and width, or one number for all four sides.
    """

    features: int
    kernel_size: tuple[int, int]
    padding: int | tuple[tuple[int, int], tuple[int, int]] = 0
    use_bias: bool = True
    initializer: Init = Init("gaussian")
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kh, kw = self.kernel_size
        pads = ((self.padding,) * 2,) * 2 if isinstance(self.padding, int) else self.padding
        out_h, out_w = (
            size + sum(pad) - k + 1
            for size, pad, k in zip(x.shape[1:3], pads, (kh, kw), strict=True)
        )
        fans = {"fan_in": kh * kw * x.shape[-1], "fan_out": kh * kw * self.features}
        shape = (out_h, out_w, kh, kw, x.shape[-1], self.features)
        kernel = self.param("kernel", functools.partial(self.initializer.draw, **fans), shape)
        bias = None
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (out_h, out_w, self.features))
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
        views = [x[:, i : i + out_h, j : j + out_w] for i in range(kh) for j in range(kw)]
        # Positions come first: each is a matrix product, in the order for which oneDNN has kernels.
        # `backend.compiler_options` explains the barriers here and in the derivatives.
        patches = jnp.stack(views, axis=3).reshape(x.shape[0], out_h * out_w, -1).swapaxes(0, 1)
        matrices = kernel.reshape(out_h * out_w, -1, self.features)
        y = jnp.matmul(*lax.optimization_barrier((patches, matrices)))
        y = lax.optimization_barrier(y)
        y = y.swapaxes(0, 1).reshape(x.shape[0], out_h, out_w, self.features)
        return y if bias is None else y + bias

    def cost(self, in_shape, out_shape) -> Cost:
        fan_in, window = math.prod(self.kernel_size) * in_shape[-1], tuple(self.kernel_size)
        pads = before(self.padding)
        return weighted_cost(out_shape, fan_in, self.use_bias, window=window, before=pads)


class FullyConnected(nn.Module):
    """Fully connected layer, which can also slide over a map larger than its native size.

    Without `window` the input is flattened: [b, ...] -> [b, features]; parameters `kernel`
    [in, features], `bias` [features]. With `window`: [b, h, w, c] -> [b, h', w', features],
    `kernel` [window, window, c, features], and h' = w' = 1 at the native size. So a network can be
    applied fully convolutionally without converting its weights (Simonyan & Zisserman 2015, sec.
    3.2).
    """

    features: int
    window: int | None = None
    use_bias: bool = True
    initializer: Init = Init("gaussian")
    bias_start: float = 0.0
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x, kernel, bias = weights_and_input(self, x)
        y = multiply(x, kernel)
        return y if bias is None else y + bias

    def cost(self, in_shape, out_shape) -> Cost:
        if self.window:
            fan_in, window = self.window**2 * in_shape[-1], (self.window,) * 2
        else:
            fan_in = math.prod(in_shape)
            window = tuple(in_shape[:2]) if len(in_shape) == 3 else (1, 1)
        return weighted_cost(out_shape, fan_in, self.use_bias, window=window)


def weights_and_input(layer, x: jax.Array):
    """(input, kernel, bias) of a layer with the fields of `FullyConnected`, in the layer's dtype.

    The input is flattened unless the layer has a window. bias is None if the layer has none. Raises
    ValueError if the map is smaller than the window.
    """
    if layer.window is None:
        x = x.reshape(x.shape[0], -1)
        shape = (x.shape[-1], layer.features)
    else:
        if min(x.shape[1:3]) < layer.window:
            raise ValueError(
                f"the image is too small: {layer.name} needs a {layer.window}x{layer.window} map,"
                f" but its input is {x.shape[1]}x{x.shape[2]}"
            )
        shape = (layer.window, layer.window, x.shape[-1], layer.features)
    fans = {"fan_in": math.prod(shape[:-1]), "fan_out": shape[-1]}
    kernel = layer.param("kernel", functools.partial(layer.initializer.draw, **fans), shape)
    bias = None
    if layer.use_bias:
        start = nn.initializers.constant(layer.bias_start)
        bias = layer.param("bias", start, (layer.features,))
    return nn.dtypes.promote_dtype(x, kernel, bias, dtype=layer.dtype)


def multiply(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x [b, in] by kernel [in, out], or kernel [k, k, c, out] slid over x [b, h, w, c]."""
    if kernel.ndim == 2:
        return jnp.dot(x, kernel)
    return convolve(x, kernel, (1, 1), ((0, 0), (0, 0)), dimension_numbers=("NHWC", "HWIO", "NHWC"))
