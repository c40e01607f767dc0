"""Maxout networks, after Goodfellow, Warde-Farley, Mirza, Courville, Bengio: "Maxout Networks",
ICML 2013; widths and windows from the authors' configuration files (pylearn2).
"""

import dataclasses

import flax.linen as nn
import jax

from models import layers
from models.layers import option

# Layers, the first one first: ("conv", maps, pieces, window, padding, pool window, pool stride) or
# ("dense", units, pieces).
VARIANTS = {
    "mnist_dense": (("dense", 240, 5), ("dense", 240, 5)),
    "mnist_conv": (
        ("conv", 48, 2, 8, 0, 4, 2),
        ("conv", 48, 2, 8, 3, 4, 2),
        ("conv", 24, 4, 5, 3, 2, 2),
    ),
    "cifar10": (
        ("conv", 96, 2, 8, 4, 4, 2),
        ("conv", 192, 2, 8, 3, 4, 2),
        ("conv", 192, 2, 5, 3, 2, 2),
        ("dense", 500, 5),
    ),
}


class MaxoutNet(layers.Net):
    """[batch, height, width, channels] -> logits [batch, classes]: layers `h0`, `h1`, ..., `y`.

    Options in addition to those of `layers.Net`:

    variant: a key of `VARIANTS`: 28x28x1 for mnist_dense and mnist_conv, 32x32x3 for cifar10.
    maxout_pieces: of every layer; 0: as published, different for each layer.
    input_drop_rate: share of the image that dropout drops. drop_rate is for the inputs of the
        other layers. (Inputs of the max itself are never dropped, sec. 3.)
    input_dropout_scaling: "none", as in the authors' files (`input_scales: {'h0': 1.}`): the image
        is neither divided by the share kept in training nor multiplied by it in tests. "train" and
        "test" are as for dropout_scaling, which is for the inputs of the other layers.
    pooling: the published pooling is max, in cuda-convnet's ceil mode.

    The optimizer limits the norms of the columns (`config.optimizer.max_norms`). Raises ValueError
    for an image too small, and for pooling in mnist_dense, which has no maps.
    """

    num_classes: int = 10
    activation: str = "maxout"
    maxout_pieces: int = option(0, layers.PIECES_OR_PUBLISHED)
    initializer: str = "uniform"
    initializer_scale: float = 0.005
    regulariser: str = "dropout"
    variant: str = option("mnist_dense", tuple(VARIANTS))
    input_drop_rate: float = option(0.2, layers.FRACTION)
    input_dropout_scaling: str = option("none", ("none", "train", "test"))
    pooling: str = option("published", layers.POOLING)

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, drop_scale=1.0) -> jax.Array:
        if self.variant == "mnist_dense" and self.pooling != "published":
            raise ValueError(
                f"model.pooling={self.pooling}: mnist_dense has no pooling: set"
                " model.pooling=published"
            )
        build = self.builder(train, drop_scale)
        on_image = dataclasses.replace(
            build, drop_rate=self.input_drop_rate, dropout_scaling=self.input_dropout_scaling
        )
        for number, (kind, units, pieces, *window) in enumerate(VARIANTS[self.variant]):
            name = f"h{number}"
            layer = build if number else on_image
            if self.activation == "maxout":
                layer = dataclasses.replace(layer, pieces=self.maxout_pieces or pieces)
            if kind == "dense":
                x = layer.hidden(x, units, name, drop="input")
                continue
            size, padding, pool_window, pool_stride = window
            x = layer.conv(layer.drop(x, name), units, size, name, padding=padding)
            x = layer.activate(x, name)
            x = layer.pool(x, f"pool{number}", "max", pool_window, pool_stride, ceil=True)
        return build.classifier(x, "y", drop="input")
