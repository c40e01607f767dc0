"""The computation of convolutions: three primitives, each with a form that is fast on CPUs.

A convolution defines one sum, S(x, w, g) = sum(conv(x, w) * g), that is linear in the input x, the
kernel w and the output's gradient g. Its three partial derivatives are the convolution itself (by
g), the input's gradient (by x) and the kernel's gradient (by w). Each is a primitive here. The
derivatives of each are the other two, so every kind of derivative works: `jax.grad`, `jax.jvp`,
`jax.linearize` and any nesting of them.

On GPUs and TPUs, and on CPUs without oneDNN (`backend.has_onednn`), all three are XLA's
convolutions. With oneDNN, the gradients are written as plain convolutions or matrix products, which
oneDNN computes, and a convolution whose output has one position is a matrix product. These forms
are faster under `backend.compiler_options`; code compiled without these options uses them, too.

Measured on one core of an Intel Xeon (AVX-512), jaxlib 0.12.0.1 with the options of
`backend.compiler_options`, torch 2.14.1; GFLOP/s:

    kernel's gradient, 3x3            XLA   here   torch
    128 x 32x32, 16 channels             18     96     153
    128 x 16x16, 32                      31    118     162
    128 x 8x8, 64                        87    129     164
    8 x 56x56, 64                        37    131     153
    8 x 28x28, 128                       58    146     161
    16 x 13x13, 192 to 384               67    151     152

    input's gradient, in a `lax.scan` as the training loop has it (torch: alone)
    3x3, 128 x 32x32, 16 channels       2.7     81     145
    3x3, stride 2, 8 x 28x28, 128        23    127     157
    1x1, stride 2, 8 x 28x28, 512        26    114     131
"""

import dataclasses
import functools
import itertools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from models.layers import backend, extent

_NHWC = ("NHWC", "HWIO", "NHWC")


@dataclasses.dataclass(frozen=True)
class Geometry:
    """A convolution without its operands. Pairs are (height, width).

    size: of the input map. kernel: of the window. padding: ((before, after), ...) in pixels.
    """

    size: tuple[int, int]
    kernel: tuple[int, int]
    strides: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]
    groups: int = 1
    precision: lax.PrecisionLike = None

    @property
    def out(self) -> tuple[int, int]:
        """The size of the output map."""
        return tuple(
            (n + sum(pad) - k) // s + 1
            for n, pad, k, s in zip(self.size, self.padding, self.kernel, self.strides, strict=True)
        )


# XLA's forms: for shapes, other backends, many groups, and vmap.


def _xla_forward(x, kernel, *, geometry: Geometry):
    return lax.conv_general_dilated(
        x,
        kernel,
        geometry.strides,
        geometry.padding,
        dimension_numbers=_NHWC,
        feature_group_count=geometry.groups,
        precision=geometry.precision,
    )


def _xla_input_gradient(g, kernel, *, geometry: Geometry):
    channels = kernel.shape[2] * geometry.groups
    x = jax.ShapeDtypeStruct((g.shape[0], *geometry.size, channels), g.dtype)
    forward = functools.partial(_xla_forward, geometry=geometry)
    return jax.linear_transpose(lambda x: forward(x, kernel), x)(g)[0]


def _xla_kernel_gradient(x, g, *, geometry: Geometry):
    shape = (*geometry.kernel, x.shape[-1] // geometry.groups, g.shape[-1])
    forward = functools.partial(_xla_forward, geometry=geometry)
    kernel = jax.ShapeDtypeStruct(shape, x.dtype)
    return jax.linear_transpose(lambda kernel: forward(x, kernel), kernel)(g)[0]


# The forms for CPUs.


def _edges(geometry: Geometry) -> list[tuple[int, int]]:
    """The padding that the windows use; negative if they leave out rows or columns."""
    spans = [
        (n - 1) * s + k
        for n, s, k in zip(geometry.out, geometry.strides, geometry.kernel, strict=True)
    ]
    return [
        (low, span - size - low)
        for (low, _), span, size in zip(geometry.padding, spans, geometry.size, strict=True)
    ]


def _pad(x, edges):
    """x with zeros around its map. Negative `edges` cut off rows and columns."""
    if not any(map(any, edges)):
        return x
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((*e, 0) for e in edges), (0, 0, 0)])


_MAX_GROUPS = 4  # XLA computes convolutions with more groups, such as depthwise ones


def _per_group(cpu, xla, a, b, geometry: Geometry):
    """`cpu` applied to each group's part of the operands' last axes; results are concatenated."""
    if geometry.groups > _MAX_GROUPS:
        return xla(a, b, geometry=geometry)
    alone = dataclasses.replace(geometry, groups=1)
    parts = zip(*(jnp.split(t, geometry.groups, axis=-1) for t in (a, b)), strict=True)
    return jnp.concatenate([cpu(p, q, geometry=alone) for p, q in parts], axis=-1)


def _is_product(geometry: Geometry) -> bool:
    """Whether the output has one position, so that the convolution is one matrix product."""
    return geometry.groups == 1 and geometry.out == (1, 1)


def _times_transposed(rows, matrix, geometry: Geometry):
    """rows [n, features] by the transpose of matrix [m, features]: [n, m].

    XLA copies `matrix.T` in memory, and computes `rows` inside the loops of a product with one row:
    together 60 us in place of 2 us for LeNet-5's C5.
    """
    rows, sums = lax.optimization_barrier(rows), (((1,), (1,)), ((), ()))
    return lax.dot_general(rows, matrix, sums, precision=geometry.precision)


def _cpu_forward(x, kernel, *, geometry: Geometry):
    if not _is_product(geometry):
        return _xla_forward(x, kernel, geometry=geometry)
    rows = _pad(x, _edges(geometry)).reshape(x.shape[0], -1)
    matrix = kernel.reshape(-1, kernel.shape[-1])
    return jnp.dot(rows, matrix, precision=geometry.precision)[:, None, None]


def _cpu_input_gradient(g, kernel, *, geometry: Geometry):
    """The input's gradient: with strides, one convolution without strides for each phase.

    With stride s, the inputs s * q + r of phase r meet only the positions s * m + r of the kernel,
    so each phase is a convolution of g with those. oneDNN does not compute XLA's form: with
    strides, that is a convolution over a map with zeros in between. Inside a scan, oneDNN does not
    compute XLA's form without strides either.
    """
    if geometry.groups > 1:
        return _per_group(_cpu_input_gradient, _xla_input_gradient, g, kernel, geometry)
    batch, (kh, kw), channels = g.shape[0], geometry.kernel, kernel.shape[2]
    if _is_product(geometry):
        matrix = kernel.reshape(-1, kernel.shape[-1])
        windows = _times_transposed(g.reshape(batch, -1), matrix, geometry)
        return _pad(
            windows.reshape(batch, kh, kw, channels), [(-a, -b) for a, b in _edges(geometry)]
        )
    (sh, sw), ((top, _), (left, _)) = geometry.strides, geometry.padding
    height, width = geometry.size
    # The rows and columns of one phase; the first ones are in the padding before the map.
    rows, columns = -(-(height + top) // sh), -(-(width + left) // sw)
    parts = []
    for row, column in itertools.product(range(min(sh, kh)), range(min(sw, kw))):
        taps = kernel[row::sh, column::sw]
        before = [n - 1 for n in taps.shape[:2]]
        after = [n - out for n, out in zip((rows, columns), geometry.out, strict=True)]
        phase = lax.conv_general_dilated(
            g,
            taps[::-1, ::-1].transpose(0, 1, 3, 2),
            (1, 1),
            list(zip(before, after, strict=True)),
            dimension_numbers=_NHWC,
            precision=geometry.precision,
        )
        spread = [(row, sh - 1 - row, sh - 1), (column, sw - 1 - column, sw - 1)]
        parts.append(lax.pad(phase, jnp.zeros((), g.dtype), [(0, 0, 0), *spread, (0, 0, 0)]))
    # Without the barrier oneDNN may add a residual branch's gradient along wrong axes, or in a
    # copy: see `backend.compiler_options`.
    total = lax.optimization_barrier(functools.reduce(jnp.add, parts))
    return total[:, top : top + height, left : left + width]


# Limit for a chunk of images and their gradients: about a core's cache.
_CACHE_BYTES = 2**20


def _cpu_kernel_gradient(x, g, *, geometry: Geometry):
    """The kernel's gradient, as convolutions whose output rows are long.

    XLA writes it as a convolution whose window is the whole map of g and whose output is only as
    wide as the kernel, which uses few of oneDNN's registers. Here the columns and channels of the
    input are one axis, over which the columns of g step by `channels`, so the output has a width of
    kernel width * channels. The images are the channels over which the convolution sums. They come
    in chunks that stay in the cache.
    """
    if geometry.groups > 1:
        return _per_group(_cpu_kernel_gradient, _xla_kernel_gradient, x, g, geometry)
    (kh, kw), (sh, sw) = geometry.kernel, geometry.strides
    batch, channels, features = x.shape[0], x.shape[-1], g.shape[-1]
    edges, wide = _edges(geometry), jnp.promote_types(x.dtype, jnp.float32)
    if _is_product(geometry) or (kh, kw) == (1, 1):
        x = _pad(x, edges)
        x = x[:, ::sh, ::sw] if (kh, kw) == (1, 1) else x
        rows = x.reshape(-1, kh * kw * channels)
        product = jnp.dot(rows.T, g.reshape(-1, features), precision=geometry.precision)
        return product.reshape(kh, kw, channels, features)

    def part(x, g):
        x = _pad(x, edges)
        images, height, width, _ = x.shape
        columns = x.transpose(1, 2, 3, 0).reshape(1, height, width * channels, images)
        return lax.conv_general_dilated(
            columns,
            g.transpose(1, 2, 0, 3),
            (1, 1),
            [(0, 0), (0, 0)],
            rhs_dilation=(sh, sw * channels),
            dimension_numbers=_NHWC,
            precision=geometry.precision,
            preferred_element_type=wide,
        )

    # Chunks are larger where adding the sums of small ones would take longer.
    sum_bytes = kh * kw * channels * features * wide.itemsize
    image_bytes = sum(math.prod(t.shape[1:]) * t.dtype.itemsize for t in (x, g))
    size = max(8, max(_CACHE_BYTES, 4 * sum_bytes) // image_bytes)
    if not isinstance(batch, int) or batch < 2 * size:  # not an int: an export for any batch size
        total = part(x, g)
    else:
        count = batch // size
        chunks = [t[: count * size].reshape(count, size, *t.shape[1:]) for t in (x, g)]
        rest = [t[count * size :] for t in (x, g)]
        start = jnp.zeros((1, kh, kw * channels, features), wide)
        total, _ = lax.scan(lambda total, xg: (total + part(*xg), None), start, chunks)
        total = total + part(*rest) if batch % size else total
    return total.reshape(kh, kw, channels, features).astype(x.dtype)


# The primitives.


def _primitive(name: str, xla, cpu) -> Primitive:
    primitive = Primitive(name)
    primitive.def_impl(jax.jit(primitive.bind, static_argnames="geometry"))

    def shape(*args, geometry):
        out = jax.eval_shape(functools.partial(xla, geometry=geometry), *args)
        return jax.core.ShapedArray(out.shape, out.dtype)

    primitive.def_abstract_eval(shape)
    mlir.register_lowering(primitive, mlir.lower_fun(xla, multiple_results=False))
    if backend.has_onednn():
        mlir.register_lowering(
            primitive, mlir.lower_fun(cpu, multiple_results=False), platform="cpu"
        )

    def batched(args, axes, geometry):
        return jax.vmap(functools.partial(xla, geometry=geometry), axes)(*args), 0

    batching.primitive_batchers[primitive] = batched
    return primitive


_forward = _primitive("convolution", _xla_forward, _cpu_forward)
_input_gradient = _primitive("convolution_input_gradient", _xla_input_gradient, _cpu_input_gradient)
_kernel_gradient = _primitive(
    "convolution_kernel_gradient", _xla_kernel_gradient, _cpu_kernel_gradient
)
ad.defbilinear(
    _forward,
    lambda g, x, kernel, **p: _input_gradient.bind(g, kernel, **p),
    lambda g, x, kernel, **p: _kernel_gradient.bind(x, g, **p),
)
ad.defbilinear(
    _input_gradient,
    lambda x, g, kernel, **p: _forward.bind(x, kernel, **p),
    lambda x, g, kernel, **p: _kernel_gradient.bind(x, g, **p),
)
ad.defbilinear(
    _kernel_gradient,
    lambda kernel, x, g, **p: _input_gradient.bind(g, kernel, **p),
    lambda kernel, x, g, **p: _forward.bind(x, kernel, **p),
)


def convolve(x, kernel, window_strides, padding, **kwargs) -> jax.Array:
    """`lax.conv_general_dilated` for linen's `nn.Conv`, fast on CPUs too.

    x: [batch, height, width, in]; kernel: [kh, kw, in / groups, out]; no other dimension numbers.
    If x holds images of several sizes (`extent.padded`), pixels outside an image count as zero.

    Raises ValueError if the padded map is smaller than the kernel.
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


def _convolve(
    x, kernel, window_strides, padding, *, feature_group_count=1, precision=None, **options
) -> jax.Array:
    dilations = {options.get("lhs_dilation"), options.get("rhs_dilation")}
    if isinstance(padding, str) or not dilations <= {None, (1, 1)} or x.shape[0] == 0:
        options = {"dimension_numbers": _NHWC, "precision": precision, **options}
        return lax.conv_general_dilated(
            x, kernel, window_strides, padding, feature_group_count=feature_group_count, **options
        )
    size, window = x.shape[1:3], kernel.shape[:2]
    if any(n + sum(pad) < k for n, pad, k in zip(size, padding, window, strict=True)):
        raise ValueError(
            f"the image is too small: a map of {size[0]}x{size[1]} is smaller than its kernel of"
            f" {window[0]}x{window[1]}"
        )
    # Negative padding is cut off first: on JAX 0.11.2 XLA convolves with it wrongly.
    x = _pad(x, [(min(low, 0), min(high, 0)) for low, high in padding])
    geometry = Geometry(
        size=tuple(x.shape[1:3]),
        kernel=tuple(window),
        strides=tuple(window_strides or (1, 1)),
        padding=tuple((max(low, 0), max(high, 0)) for low, high in padding),
        groups=feature_group_count,
        precision=precision,
    )
    return _forward.bind(x, kernel, geometry=geometry)
