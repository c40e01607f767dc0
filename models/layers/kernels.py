"""How convolutions are computed: the one place for a backend's faster formulation."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from models.layers import extent

_NHWC = ("NHWC", "HWIO", "NHWC")
_FEW_PATCH_BYTES = 8 * 2**20  # patches that stay in a CPU's cache
_LARGE_MAP = 2048  # positions of an output map, about 45 x 45
_STRIP = 4096  # positions of an output map whose views are worked on at a time
_MAX_GROUPS = 4  # more of them, as in a depthwise convolution, are left to XLA


def views(x, window, strides, out_size):
    """The elements of x under each position of the window: kh * kw arrays [b, *out_size, c]."""
    (sh, sw), (out_h, out_w) = strides, out_size
    return [
        x[:, i : i + sh * (out_h - 1) + 1 : sh, j : j + sw * (out_w - 1) + 1 : sw]
        for i in range(window[0])
        for j in range(window[1])
    ]


def _pad(x, padding, value=0.0):
    if not any(map(any, padding)):
        return x
    return jnp.pad(x, ((0, 0), *padding, (0, 0)), constant_values=value)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _canonical(x, kernel, strides, padding, precision):
    """XLA's convolution, with gradients that XLA runs fast inside a loop as well.

    On CPUs XLA brings a convolution's axes into the one order that its matrix-product routine
    takes only at the top level of a program. In a `lax.scan` the convolutions that autodiff
    makes have other orders, and run up to 100 times slower. Here the operands are transposed
    beforehand, so that the gradients too are convolutions NHWC, HWIO -> NHWC. (The price: no
    forward-mode derivatives, `jax.jvp`, of convolutions on a CPU.)
    """
    return lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=_NHWC, precision=precision
    )


def _forward(x, kernel, *static):
    return _canonical(x, kernel, *static), (x, kernel)


def _backward(strides, padding, precision, residuals, g):
    x, kernel = residuals
    (kh, kw), (out_h, out_w) = kernel.shape[:2], g.shape[1:3]
    # What the windows span of an axis, from -low to size + high; high < 0 if not all of it.
    spans = [(n - 1) * s + k for n, s, k in zip((out_h, out_w), strides, (kh, kw), strict=True)]
    edges = [
        (low, span - size - low)
        for (low, _), span, size in zip(padding, spans, x.shape[1:3], strict=True)
    ]
    # Input: the output's gradient, spread by the stride, meets the rotated kernel.
    dx = lax.conv_general_dilated(
        g,
        kernel[::-1, ::-1].swapaxes(2, 3),
        (1, 1),
        [(k - 1 - lo, k - 1 - hi) for k, (lo, hi) in zip((kh, kw), edges, strict=True)],
        lhs_dilation=strides,
        dimension_numbers=_NHWC,
        precision=precision,
    )
    if out_h * out_w < _LARGE_MAP:
        # Kernel: the output's gradient is the kernel that slides over the input; batch and
        # channels change roles.
        dk = lax.conv_general_dilated(
            x.transpose(3, 1, 2, 0),
            g.transpose(1, 2, 0, 3),
            (1, 1),
            edges,
            rhs_dilation=strides,
            dimension_numbers=_NHWC,
            precision=precision,
        ).transpose(1, 2, 0, 3)
        return dx, dk

    # Kernel, large maps: a matrix product for each of its positions, some rows of one example
    # at a time, for then their views stay in the cache.
    x = _pad(x, padding)
    rows = max(d for d in range(1, out_h + 1) if out_h % d == 0 and (d == 1 or d * out_w <= _STRIP))
    strips, span = out_h // rows, (rows - 1) * strides[0] + kh

    def add_strip(total, i):
        example, top = i // strips, i % strips * rows
        image = lax.dynamic_slice(x, (example, top * strides[0], 0, 0), (1, span, *x.shape[2:]))
        gradient = lax.dynamic_slice(g, (example, top, 0, 0), (1, rows, *g.shape[2:]))
        gradient = gradient.reshape(rows * out_w, -1)
        parts = [
            jnp.dot(
                v.reshape(rows * out_w, -1).T,
                gradient,
                precision=precision,
                preferred_element_type=jnp.float32,
            )
            for v in views(image, (kh, kw), strides, (rows, out_w))
        ]
        return total + jnp.stack(parts).reshape(kernel.shape), None

    start = jnp.zeros(kernel.shape, jnp.float32)
    dk, _ = lax.scan(add_strip, start, jnp.arange(len(g) * strips))
    return dx, dk.astype(kernel.dtype)


_canonical.defvjp(_forward, _backward)


def _from_patches(x, kernel, strides, padding, precision, out_size):
    """One matrix product, of the slices under each of the kernel's positions side by side."""
    kh, kw, in_features, features = kernel.shape
    x = _pad(x, padding)
    if out_size == (1, 1):
        patches = x[:, :kh, :kw]
    else:
        patches = jnp.concatenate(views(x, (kh, kw), strides, out_size), axis=-1)
    fan_in = kh * kw * in_features
    matrix = kernel.reshape(fan_in, features)
    y = jnp.dot(patches.reshape(-1, fan_in), matrix, precision=precision)
    return y.reshape(x.shape[0], *out_size, features)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def _few_patches(x, kernel, strides, padding, precision, out_size):
    """`_from_patches` where gradients are wanted; without them XLA's convolution is faster."""
    return _canonical(x, kernel, strides, padding, precision)


def _few_forward(x, kernel, *static):
    return jax.vjp(lambda x, kernel: _from_patches(x, kernel, *static), x, kernel)


def _few_backward(strides, padding, precision, out_size, vjp, g):
    return vjp(g)


_few_patches.defvjp(_few_forward, _few_backward)


def convolve(x, kernel, window_strides, padding, **kwargs) -> jax.Array:
    """`lax.conv_general_dilated` for linen's `nn.Conv`, in a formulation that is fast on CPUs.

    x: [batch, height, width, in]; kernel: [kh, kw, in / groups, out]. On a CPU, the same sums
    in another order:

    - a 1x1 kernel, or one that covers its input: one matrix product;
    - few patches (small images, few channels): slices of the input joined to a matrix of
      patches, and one matrix product, whose gradients are again slices and matrix products
      (only where there are gradients to compute);
    - else XLA's convolution with gradients of our own, see `_canonical`;
    - groups: each by itself.

    Raises ValueError where the padded map is smaller than the kernel.
    """
    if extent.valid(x) is None:
        return _convolve(x, kernel, window_strides, padding, **kwargs)
    pads = [sum(pair) for pair in padding]
    if any(pads):
        x = extent.fill(x)
    y = _convolve(x, kernel, window_strides, padding, **kwargs)

    def change(axis, size):
        return (size + pads[axis] - kernel.shape[axis]) // (window_strides or (1, 1))[axis] + 1

    extent.follow(x, y, *(functools.partial(change, axis) for axis in (0, 1)))
    return y


def _convolve(x, kernel, window_strides, padding, **kwargs) -> jax.Array:
    groups = kwargs.get("feature_group_count", 1)
    precision = kwargs.get("precision")
    dilated = any(d != 1 for k in ("lhs_dilation", "rhs_dilation") for d in kwargs.get(k) or ())
    plain = isinstance(padding, Sequence) and not isinstance(padding, str)
    if plain:
        for size, pads, side in zip(x.shape[1:3], padding, kernel.shape[:2], strict=True):
            if size + sum(pads) < side:
                height, width = x.shape[1:3]
                raise ValueError(
                    f"the image is too small: a {height}x{width} map under a"
                    f" {kernel.shape[0]}x{kernel.shape[1]} kernel"
                )
    unknown = not isinstance(x.shape[0], int)  # the batch of an exported function, for any backend
    if jax.default_backend() != "cpu" or unknown or dilated or not plain or groups > _MAX_GROUPS:
        return lax.conv_general_dilated(x, kernel, window_strides, padding, **kwargs)
    if groups > 1:
        alone = {**kwargs, "feature_group_count": 1}
        parts = zip(jnp.split(x, groups, -1), jnp.split(kernel, groups, -1), strict=True)
        return jnp.concatenate(
            [_convolve(part, k, window_strides, padding, **alone) for part, k in parts], axis=-1
        )
    kh, kw, in_features, _ = kernel.shape
    padding, strides = tuple(map(tuple, padding)), tuple(window_strides or (1, 1))
    out_h, out_w = (
        (n + sum(p) - k) // s + 1
        for n, p, k, s in zip(x.shape[1:3], padding, (kh, kw), strides, strict=True)
    )
    batch, fan_in = x.shape[0], kh * kw * in_features
    patch_bytes = batch * out_h * out_w * fan_in * x.dtype.itemsize
    if (out_h, out_w) == (1, 1) or (kh, kw) == (1, 1):
        return _from_patches(x, kernel, strides, padding, precision, (out_h, out_w))
    if patch_bytes > _FEW_PATCH_BYTES:
        return _canonical(x, kernel, strides, padding, precision)
    return _few_patches(x, kernel, strides, padding, precision, (out_h, out_w))
