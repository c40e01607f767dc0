"""Local response normalisation across and within maps, and batch normalisation."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from models.layers import extent
from models.layers.cost import not_counted

# The three common readings of AlexNet's n=5, alpha=1e-4, beta=0.75: (k, factor on the sum of
# squares). paper: Krizhevsky 2012, sec. 3.3, to the letter. cuda_convnet: the author's code, which
# divides alpha by n. caffe: the same division, and k=1 (PyTorch, too).
LRN_VARIANTS = {"paper": (2.0, 1e-4), "cuda_convnet": (2.0, 1e-4 / 5), "caffe": (1.0, 1e-4 / 5)}


def _power(x: jax.Array, beta: float) -> jax.Array:
    """x ** -beta."""
    if beta == 0.75:  # two square roots cost a fraction of a general power
        root = lax.rsqrt(x)
        return root * jnp.sqrt(root)
    return x**-beta


class LocalResponseNorm(nn.Module):
    """a_i / (k + alpha * sum of a_j^2 over the `size` maps around i)^beta (Krizhevsky 2012).

    [b, h, w, c] -> the same; computed in float32. alpha multiplies the plain sum: give alpha/n if a
    source divides. groups: parts of the maps, each normalised by its own maps only.
    Raises ValueError for an even size.
    """

    size: int = 5
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 2.0
    groups: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if self.size % 2 == 0:
            raise ValueError(f"LRN over {self.size} maps has no centre: give an odd size")
        dtype, x = x.dtype, x.astype(jnp.float32)
        towers = jnp.square(x).reshape(*x.shape[:-1], self.groups, -1)
        # The gradient of a window sum is a window sum. On a CPU the gradients of slices, and a
        # product with a banded matrix, were slower.
        total = lax.reduce_window(
            towers, 0.0, lax.add, (1, 1, 1, 1, self.size), (1,) * 5, "SAME"
        ).reshape(x.shape)
        return (x * _power(self.k + self.alpha * total, self.beta)).astype(dtype)

    cost = not_counted


def alexnet_norm(
    variant: str = "paper", groups: int = 1, name: str | None = None
) -> LocalResponseNorm:
    """AlexNet's normalisation over five maps, in one reading of `LRN_VARIANTS`."""
    k, alpha = LRN_VARIANTS[variant]
    return LocalResponseNorm(5, alpha, k=k, groups=groups, name=name)


class LocalResponseNormWithinMap(nn.Module):
    """a / (k + alpha * sum of a^2 over the size x size pixels around)^beta, map by map.

    cuda-convnet's `rnorm`. [b, h, w, c] -> the same; computed in float32. alpha multiplies the
    plain sum: give scale / size^2 if a source divides. Raises ValueError for an even size.
    """

    size: int = 3
    alpha: float = 5e-5 / 9
    beta: float = 0.75
    k: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if self.size % 2 == 0:
            raise ValueError(f"LRN over {self.size} pixels has no centre: give an odd size")
        dtype, x = x.dtype, x.astype(jnp.float32)
        half, (height, width) = self.size // 2, x.shape[1:3]
        padded = jnp.pad(jnp.square(extent.fill(x)), ((0, 0), (half, half), (half, half), (0, 0)))
        rows = sum(padded[:, i : i + height] for i in range(self.size))
        total = sum(rows[:, :, i : i + width] for i in range(self.size))
        return (x * _power(self.k + self.alpha * total, self.beta)).astype(dtype)

    cost = not_counted  # an output sees a window, which published receptive fields do not count


class BatchNorm(nn.BatchNorm):
    """Batch normalisation (Ioffe & Szegedy 2015) of each map over the batch and all positions.

    Parameters `scale` (gamma) and `bias` (beta); collection `batch_stats`: `mean`, `var`, float32.
    axis_name: axis of devices over which it normalises; None: each device by itself.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5

    cost = not_counted
