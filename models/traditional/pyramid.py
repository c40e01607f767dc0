"""The spatial pyramid: codes pooled over the cells of several grids (Lazebnik 2006, sec. 3).

Levels 1x1, 2x2 and 4x4 have 21 cells, so that M words give an image 21 M numbers.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from models.traditional.sift import normalised

POOLING = ("sum", "max")


def cells(places: np.ndarray, levels: Sequence[tuple[int, int]]) -> list[np.ndarray]:
    """The numbers of the descriptors in each cell, level by level and row by row.

    places: centres (y, x) as shares of the image, [n, 2]. levels: (rows, columns) of each grid.
    """
    members = []
    for rows, columns in levels:
        y, x = np.minimum(np.int64(places * (rows, columns)), (rows - 1, columns - 1)).T
        members += [np.flatnonzero(y * columns + x == cell) for cell in range(rows * columns)]
    return members


def pool(codes: jax.Array, members: Sequence[np.ndarray], kind: str) -> jax.Array:
    """The codes of each cell pooled, [cells, words]; zeros for a cell without descriptors.

    codes: [n, words]. members: of `cells`. kind: of POOLING; the sum of codes of `nearest_word` is
    a histogram. A descriptor that does not count has a code of zeros.
    """
    of_cell = {"sum": lambda part: part.sum(axis=0), "max": lambda part: part.max(axis=0)}[kind]
    empty = jnp.zeros(codes.shape[1:], codes.dtype)
    return jnp.stack([of_cell(codes[m]) if len(m) else empty for m in members])


def per_cell(pooled: jax.Array, order: int) -> jax.Array:
    """Pooled codes with a norm of 1 in each cell (zeros stay). order: 1 or 2, of the norm."""
    if order == 2:
        return normalised(pooled)
    norms = jnp.abs(pooled).sum(axis=-1, keepdims=True)
    return pooled / jnp.where(norms > 0, norms, 1)


def chi2_map(histograms: jax.Array, interval: float = 0.6) -> jax.Array:
    """Three numbers for each number x >= 0: [..., m] -> [..., 3 m].

    Products of these vectors are nearly the chi2 kernel, sum 2 x y / (x + y), so that a linear SVM
    takes the place of one with that kernel (Vedaldi and Zisserman 2010, sec. 3). interval: between
    samples of the kernel's spectrum; with this one, the kernel of two histograms (0 to 1) is
    wrong by at most about 0.05. Relative to small values this can be much.
    """
    is_positive = histograms > 0
    x = jnp.where(is_positive, histograms, 1)
    wave = jnp.sqrt(2 * x * interval / jnp.cosh(jnp.pi * interval))
    angle = interval * jnp.log(x)
    parts = jnp.sqrt(x * interval), wave * jnp.cos(angle), wave * jnp.sin(angle)
    return jnp.concatenate([jnp.where(is_positive, part, 0) for part in parts], axis=-1)
