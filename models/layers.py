"""The primitives that every model is built from, and what each of them costs.

Models convolve, pool and connect only through the modules of this file, so that padding
(explicit, PyTorch-style integers), the dtype policy and a backend's faster formulation have
one place. Parameters are float32; `dtype` is the dtype of the computation.

A module that does arithmetic also has `cost(in_shape, out_shape) -> Cost`, which
`models.summary` reads. Shapes there leave the batch out: (height, width, channels) or
(features,).
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# --------------------------------------------------------------------------- activations


def scaled_tanh(x: jax.Array) -> jax.Array:
    """1.7159 tanh(2x/3), so that f(1) = 1 and f(-1) = -1 (LeCun 1998, app. A)."""
    return 1.7159 * jnp.tanh(x * (2.0 / 3.0))


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "scaled_tanh": scaled_tanh,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "relu": jax.nn.relu,
}

# ------------------------------------------------------------------------ initialisation


def uniform_fan_in(scale: float = 2.4) -> nn.initializers.Initializer:
    """U(-scale/F, +scale/F), F the number of inputs of a unit (LeCun 1998, app. A).

    For kernels shaped [..., inputs, units]; F is the product of all but the last axis.
    """

    def init(key, shape, dtype=jnp.float32):
        bound = scale / math.prod(shape[:-1])
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


# --------------------------------------------------------------------------- description


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one application of a layer to one example takes.

    macs: multiply-accumulates of weights with activations (biases are not counted).
    connections: LeCun's count, where a bias is a connection too; None where the convention
        does not apply.
    window, stride: extent and step of the sliding window in units of the layer's input, from
        which the receptive field follows; a layer that sees everything has the input's size.
    """

    macs: int
    connections: int | None
    window: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)


# ------------------------------------------------------------------------------- kernels

# Above this many bytes of patches a convolution on a CPU is left to XLA: the patches of a
# large image would cost more memory traffic than they save.
_MAX_PATCH_BYTES = 256 * 2**20


def convolve(x, kernel, window_strides, padding, **kwargs) -> jax.Array:
    """`lax.conv_general_dilated` for linen's `nn.Conv`, faster on CPUs where that is easy.

    x: [batch, height, width, in]; kernel: [kh, kw, in / groups, out]. XLA's CPU convolution
    leaves most of the hardware idle in gradients, and runs on one thread inside a
    `lax.scan`. Slicing the patches out and multiplying matrices computes the same sums (in
    another order), and its gradient is again slices and matrix products.
    """
    groups = kwargs.get("feature_group_count", 1)
    dilated = any(
        d != 1 for d in (*kwargs.get("lhs_dilation", ()), *kwargs.get("rhs_dilation", ()))
    )
    plain = isinstance(padding, Sequence) and not isinstance(padding, str)
    if jax.default_backend() == "cpu" and groups == 1 and not dilated and plain:
        kh, kw, in_features, features = kernel.shape
        x = jnp.pad(x, ((0, 0), *padding, (0, 0))) if any(map(any, padding)) else x
        batch, height, width, _ = x.shape
        sh, sw = window_strides
        out_h, out_w = (height - kh) // sh + 1, (width - kw) // sw + 1
        patch_bytes = batch * out_h * out_w * kh * kw * in_features * x.dtype.itemsize
        if patch_bytes <= _MAX_PATCH_BYTES:
            matrix = kernel.reshape(-1, features)
            if (out_h, out_w) == (1, 1):  # the kernel covers its input: one matrix product
                patches = x[:, :kh, :kw].reshape(batch, -1)
            else:
                patches = jnp.concatenate(
                    [
                        x[:, i : i + sh * (out_h - 1) + 1 : sh, j : j + sw * (out_w - 1) + 1 : sw]
                        for i in range(kh)
                        for j in range(kw)
                    ],
                    axis=-1,
                ).reshape(-1, matrix.shape[0])
            return jnp.dot(patches, matrix, precision=kwargs.get("precision")).reshape(
                batch, out_h, out_w, features
            )
        padding = ((0, 0), (0, 0))
    return lax.conv_general_dilated(x, kernel, window_strides, padding, **kwargs)


def _window_sum(x: jax.Array, window: int) -> jax.Array:
    """Sums of non-overlapping window x window fields. [b, h, w, c] -> [b, h/w, w/w, c]."""
    batch, height, width, channels = x.shape
    out_h, out_w = height // window, width // window
    x = x[:, : out_h * window, : out_w * window]
    # A reshape and a sum: XLA's reduce_window (and its gradient) is slower on every backend.
    return x.reshape(batch, out_h, window, out_w, window, channels).sum(axis=(2, 4))


# -------------------------------------------------------------------------------- layers


class Conv(nn.Conv):
    """2-D convolution (a correlation: the kernel is not flipped), zero padding given as ints.

    [batch, height, width, in] -> [batch, height', width', features]. Parameters `kernel`
    [kh, kw, in / groups, features] and `bias` [features].
    """

    padding: int | Sequence[int] = 0
    conv_general_dilated: Callable | None = convolve

    def cost(self, in_shape, out_shape) -> Cost:
        window = tuple(self.kernel_size)
        stride = (self.strides,) * 2 if isinstance(self.strides, int) else self.strides
        fan_in = math.prod(window) * in_shape[-1] // self.feature_group_count
        units = math.prod(out_shape)
        return Cost(
            macs=units * fan_in,
            connections=units * (fan_in + self.use_bias),
            window=window,
            stride=tuple(stride or (1, 1)),
        )


class TableConv(nn.Module):
    """Convolution in which output map m sees only the input maps `table[m]` (LeCun 1998, table I).

    [batch, height, width, in] -> [batch, height', width', len(table)]. The parameter `kernel`
    [kh, kw, pairs] holds the existing weights and no others, one [kh, kw] slice for each
    (input map, output map) pair in the order of the table; `bias` is [len(table)]. Weights
    start uniform in +-scale / fan-in with each output map's own fan-in.

    table: for each output map, the input maps that it sees.
    """

    table: tuple[tuple[int, ...], ...]
    kernel_size: tuple[int, int]
    init_scale: float = 2.4
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        pairs = [(i, m) for m, inputs in enumerate(self.table) for i in inputs]
        window = math.prod(self.kernel_size)
        bounds = np.array(
            [self.init_scale / (window * len(self.table[m])) for _, m in pairs], np.float32
        )

        def kernel_init(key, shape, dtype=jnp.float32):
            return bounds * jax.random.uniform(key, shape, dtype, -1.0, 1.0)

        kernel = self.param("kernel", kernel_init, (*self.kernel_size, len(pairs)))
        bias = self.param("bias", nn.initializers.zeros, (len(self.table),))
        # The sparse kernel is spread over a dense one for the arithmetic: position
        # (input, output) takes its pair's slice, or the zero slice appended at the end.
        slot = np.full((x.shape[-1], len(self.table)), len(pairs))
        for n, (i, m) in enumerate(pairs):
            slot[i, m] = n
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


class Dense(nn.Dense):
    """Fully connected layer, [batch, in] -> [batch, features]: `kernel` [in, features], `bias`."""

    def cost(self, in_shape, out_shape) -> Cost:
        fan_in = math.prod(in_shape)
        return Cost(
            macs=fan_in * self.features, connections=self.features * (fan_in + self.use_bias)
        )


class Subsampling(nn.Module):
    """LeNet's trainable subsampling, before its squashing function (LeCun 1998, sec. II.B).

    The four inputs of a 2x2 field are *added*, multiplied by one trainable `coefficient` a
    map, and one trainable `bias` a map is added. [b, h, w, c] -> [b, h/2, w/2, c].
    """

    window: int = 2
    init_scale: float = 2.4
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        bound = self.init_scale / self.window**2  # a unit has window^2 inputs

        def coefficient_init(key, shape, dtype=jnp.float32):
            return jax.random.uniform(key, shape, dtype, -bound, bound)

        coefficient = self.param("coefficient", coefficient_init, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        x, coefficient, bias = nn.dtypes.promote_dtype(x, coefficient, bias, dtype=self.dtype)
        return coefficient * _window_sum(x, self.window) + bias

    def cost(self, in_shape, out_shape) -> Cost:
        units = math.prod(out_shape)
        return Cost(
            macs=units,  # one product a unit: the sum is taken first
            connections=units * (self.window**2 + 1),
            window=(self.window,) * 2,
            stride=(self.window,) * 2,
        )


class Pool(nn.Module):
    """Max or average pooling, `kind` "max" | "average"; padding in zeros is not supported.

    [b, h, w, c] -> [b, h', w', c] with h' = floor((h - window) / stride) + 1.
    """

    kind: str
    window: int = 2
    stride: int = 2

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape, strides = (self.window,) * 2, (self.stride,) * 2
        if self.kind == "max":
            return nn.max_pool(x, shape, strides, padding="VALID")
        if self.kind == "average":
            if self.window == self.stride:
                return _window_sum(x, self.window) / self.window**2
            return nn.avg_pool(x, shape, strides, padding="VALID")
        raise ValueError(f"pooling kind {self.kind!r}: choose max or average")

    def cost(self, in_shape, out_shape) -> Cost:
        return Cost(
            macs=0,
            connections=math.prod(out_shape) * self.window**2,
            window=(self.window,) * 2,
            stride=(self.stride,) * 2,
        )


class RBF(nn.Module):
    """Euclidean radial basis functions with fixed centres (LeCun 1998, eq. 7).

    [batch, features] -> [batch, classes] *logits* -y_i, y_i = sum_j (x_j - centre_ij)^2: the
    paper's output negated, so that the largest logit is the paper's argmin. No parameters.
    Computed in float32 whatever comes in.

    centres: [classes, features] of +-1, as nested tuples.
    """

    centres: tuple[tuple[int, ...], ...]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        centres = jnp.asarray(self.centres, jnp.float32)
        difference = x.astype(jnp.float32)[:, None, :] - centres
        return -jnp.sum(difference * difference, axis=-1)

    def cost(self, in_shape, out_shape) -> Cost:
        weights = math.prod(in_shape) * math.prod(out_shape)
        return Cost(macs=weights, connections=weights)
