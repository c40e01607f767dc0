"""Filters, non-linearity, pooling, classifier: the pipeline before deep learning, as a network.

Jarrett 2009 ("What is the best multi-stage architecture for object recognition?") takes this
pipeline apart: must the filters be learned? `config.optimizer.frozen` fixes them.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from configs.rules import Rule, whole
from models import filters, layers
from models.layers import option

_ODD = Rule(lambda value: whole(1, 999).allows(value) and value % 2 == 1, "an odd whole number")


def oriented(key, shape, dtype=jnp.float32, groups: int = 1) -> jax.Array:
    """A linen initializer: the kernel [window, window, in, out] is `filters.oriented_bank`.

    Each input channel has the same filter. Over all channels a filter has the norm that He's rule
    gives on average, sqrt(2). key, groups: not used.
    """
    window, _, channels, maps = shape
    bank = filters.oriented_bank(window, -(-maps // len(filters.PHASES)))[..., :maps]
    return jnp.broadcast_to(bank * (2 / channels) ** 0.5, shape).astype(dtype)


class FilterBank(layers.Net):
    """A convolution `filters`, an activation, pooling `pool` and a linear classifier `output`.

    The regulariser is applied to the input of the classifier.

    filters: "oriented" filters (simple cells), or "drawn" by the option `initializer`: the initial
    weights, which have no biases. maps: number of filters. window: their side. pool_window,
    pool_stride: of the maxima (complex cells).
    """

    num_classes: int = 10
    initializer: str = "he"
    pooling: str = option("published", layers.POOLING)
    filters: str = option("oriented", ("oriented", "drawn"))
    maps: int = option(16, layers.COUNT)
    window: int = option(7, _ODD)
    pool_window: int = option(5, layers.COUNT)
    pool_stride: int = option(4, layers.COUNT)

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, drop_scale=1.0) -> jax.Array:
        build = self.builder(train, drop_scale)
        init = oriented if self.filters == "oriented" else None
        options = {"init": init, "bias": None, "padding": self.window // 2}
        x = build.activate(build.conv(x, self.maps, self.window, "filters", **options), "filters")
        x = build.pool(x, "pool", "max", self.pool_window, self.pool_stride)
        return build.classifier(x, "output", drop="input")
