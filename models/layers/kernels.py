"""How convolutions are computed: the one place for a backend's faster formulation."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

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
