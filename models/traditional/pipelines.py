"""The traditional pipelines as one model: SIFT, a code, a spatial pyramid, a linear classifier.

vq      histograms of visual words, chi2 kernel (Lazebnik 2006; settings of Chatfield 2011)
sparse  sparse codes, the largest of each cell (ScSPM: Yang 2009, Boureau 2010)
llc     locality-constrained linear codes, the largest of each cell (Wang 2010)
fisher  improved Fisher vectors (Perronnin 2010; settings of Chatfield 2011)

Everything after the fit is one function of the image, as that of a network: so evaluation,
prediction and export are those of the networks. Nothing is learned step by step. `Pipeline.fit`
takes the codebook and the classifier from scikit-learn (`fitting`).
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from configs.rules import between
from models import layers
from models.layers import option
from models.layers.cost import Cost
from models.traditional import encoders, pyramid, sift

ENCODERS = ("vq", "sparse", "llc", "fisher")
CODEBOOK = "codebook"  # the collection of what is fitted to descriptors, without labels
_CODES_AT_ONCE = 2**24  # numbers in the codes of the images that are encoded together


class Representation(nn.Module):
    """[batch, height, width, 1 or 3], values 0 to 1, -> vectors of length 1, [batch, size].

    The fields are options of `Pipeline`. Raises ValueError for an image that is smaller than a
    SIFT patch.
    """

    encoder: str
    words: int
    dimensions: int
    bin_widths: tuple[int, ...]
    step: int
    contrast: float
    levels: tuple[int, ...]
    kernel: str
    penalty: float
    neighbours: int

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        height, width = images.shape[1:3]
        places = sift.places(height, width, self.bin_widths, self.step)
        members = pyramid.cells(places, [(side, side) for side in self.levels])
        codebook, pool = self._codebook(), {"fisher": self._fisher}.get(self.encoder, self._codes)
        together = max(1, _CODES_AT_ONCE // (len(places) * self.words))
        # An exported file takes any number of images, one at a time.
        count = images.shape[0]
        together = min(together, count) if isinstance(count, int) else None
        vectors = jax.lax.map(
            lambda described: pool(*described, codebook, members).ravel(),
            self.describe(images),
            batch_size=together,
        )
        return sift.normalised(vectors)

    @nn.nowrap
    def describe(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """SIFT descriptors [batch, n, 128], and which of them are used, bool [batch, n]."""
        return sift.dense(images, self.bin_widths, self.step, self.contrast)

    def _codebook(self) -> dict[str, jax.Array]:
        """The fitted arrays. Before the fit, words are random directions."""
        words, size = self.words, sift.SIZE

        def draw(*shape) -> jax.Array:
            return sift.normalised(jax.random.normal(self.make_rng("params"), shape))

        starts = {"words": lambda: draw(words, size)}
        if self.encoder == "fisher":
            starts = {
                "mean": lambda: jnp.zeros(size),  # of the descriptors
                "basis": lambda: jnp.eye(size, self.dimensions),  # the largest principal directions
                "shares": lambda: jnp.full(words, 1 / words),  # of the mixture's components
                "means": lambda: draw(words, self.dimensions),
                "deviations": lambda: jnp.ones((words, self.dimensions)),
            }
        return {name: self.variable(CODEBOOK, name, start).value for name, start in starts.items()}

    def _codes(self, x, used, codebook, members) -> jax.Array:
        """Pooled codes of an image's descriptors x [n, 128]: [cells, words or 3 words]."""
        words = codebook["words"]
        if self.encoder == "vq":
            codes = encoders.nearest_word(x, words)
        elif self.encoder == "sparse":
            codes = jnp.abs(encoders.sparse(x, words, self.penalty))  # Yang 2009, eq. 8
        else:
            codes = encoders.llc(x, words, self.neighbours)
        codes *= used[:, None]
        pooled = pyramid.pool(codes, members, "sum" if self.encoder == "vq" else "max")
        if self.encoder != "sparse":
            pooled = pyramid.per_cell(pooled, 1 if self.encoder == "vq" else 2)
        return pyramid.chi2_map(pooled) if self.kernel == "chi2" else pooled

    def _fisher(self, x, used, codebook, members) -> jax.Array:
        """Improved Fisher vectors of the cells, [cells, 2 words dimensions]."""
        x = (x - codebook["mean"]) @ codebook["basis"]
        mixture = encoders.Mixture(*(codebook[name] for name in encoders.Mixture._fields))
        probabilities = encoders.posteriors(x, mixture) * used[:, None]
        sums = jnp.stack([encoders.moments(x[m], probabilities[m]) for m in members])
        vectors = jax.vmap(encoders.fisher, in_axes=(0, None))(sums, mixture)
        return pyramid.per_cell(encoders.signed_root(vectors), 2)

    def cost(self, in_shape, out_shape) -> Cost:
        """Not counted; every number depends on whole cells of the image."""
        return Cost(macs=0, connections=None, window=tuple(in_shape[:2]))


class Pipeline(layers.Net):
    """A traditional pipeline: `representation` and a linear classifier, `svm`.

    encoder: one of ENCODERS. words: of the codebook; components of the mixture with "fisher".
    dimensions: principal components of the descriptors, with "fisher".
    bin_widths, step: sides of SIFT's spatial bins, and distance of the patches, in pixels.
    contrast: smallest contrast of a patch that is used, see `sift.describe`.
    levels: the pyramid's grids: (1, 2, 4) are 1x1, 2x2 and 4x4 cells.
    kernel: "chi2" maps the histograms, so that the SVM is nearly one with this kernel.
    penalty: of the l1 norm, with "sparse". neighbours: words of a code, with "llc".
    svm_c: the SVM's constant C; 0: the best of four on a fifth of the training images.
    samples: descriptors to which the codebook is fitted.

    The regulariser is applied nowhere, and there are no activations.
    """

    num_classes: int = 102
    encoder: str = option("vq", ENCODERS)
    words: int = option(600, layers.COUNT)
    dimensions: int = option(80, between(1, sift.SIZE))
    bin_widths: tuple[int, ...] = option((4, 6, 8, 10), layers.SIZES)
    step: int = option(4, layers.COUNT)
    contrast: float = option(0.005, between(0, 1))
    levels: tuple[int, ...] = option((1, 2, 4), layers.SIZES)
    kernel: str = option("chi2", ("linear", "chi2"))
    penalty: float = option(0.15, between(0, 1, "()"))
    neighbours: int = option(5, layers.COUNT)
    svm_c: float = option(0.0, between(0, 10**6))
    samples: int = option(100_000, layers.COUNT)

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, drop_scale=1.0) -> jax.Array:
        self._check()
        vectors = self.representation("representation")(x.astype(jnp.float32))
        return self.builder(train, drop_scale).classifier(vectors, "svm")

    @nn.nowrap
    def representation(self, name: str | None = None) -> Representation:
        """The part before the classifier. name: None for a module of its own."""
        fields = [
            field for field in Representation.__dataclass_fields__ if hasattr(Pipeline, field)
        ]
        options = {
            field: getattr(self, field) for field in fields if field not in ("name", "parent")
        }
        return Representation(**options, **({"name": name} if name else {"parent": None}))

    @nn.nowrap
    def fit(
        self, batches: Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]], seed: int
    ) -> tuple[dict, np.ndarray, np.ndarray]:
        """The variables for a training set; its logits float32 [n, classes]; its labels [n].

        batches: gives the training set once: input float32 [b, height, width, channels] and labels
        [b]. Equal calls give equal results. Raises UserError for too few descriptors or classes.
        """
        from models.traditional import fitting  # scikit-learn

        return fitting.fit(self, batches, seed)

    @property
    def least_samples(self) -> int:
        """How many descriptors the codebook needs."""
        return max(self.words, self.dimensions if self.encoder == "fisher" else 0)

    @nn.nowrap
    def fit_bytes(self, params: Mapping[str, Any], examples: int) -> int:
        """Most bytes that `fit` needs for a training set. params: parameters, or their shapes."""
        from models.traditional import fitting  # scikit-learn

        return fitting.fit_bytes(params["svm"]["kernel"].shape[0], examples)

    @nn.nowrap
    def _check(self) -> None:
        """Raises ValueError for options that do not go together."""
        if not self.bin_widths or not self.levels:
            raise ValueError("give model.bin_widths and model.levels at least one value each")
        if self.encoder == "fisher" and self.kernel == "chi2":
            raise ValueError("Fisher vectors are not histograms: set model.kernel=linear")
        if self.encoder == "llc" and self.neighbours > self.words:
            raise ValueError(
                f"model.neighbours={self.neighbours} is more than model.words={self.words}: lower"
                " it, or raise model.words"
            )
        if self.samples < self.least_samples:
            raise ValueError(
                f"model.samples={self.samples}: {self.words} words with {self.encoder} need at"
                f" least {self.least_samples}: raise it"
            )
