"""Maxout networks, after Goodfellow, Warde-Farley, Mirza, Courville, Bengio: "Maxout Networks",
ICML 2013; widths and windows from the authors' configuration files (pylearn2).
"""

import dataclasses

import flax.linen as nn
import jax

from models import layers

# Layers from the input on: ("conv", maps, pieces, window, padding, pool window, pool stride) or
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

    Options beside those of `layers.Net`:

    variant: a key of `VARIANTS`: 28x28x1 for mnist_dense and mnist_conv, 32x32x3 for cifar10.
    maxout_pieces: of every layer; 0: each layer's own, as published.
    input_drop_rate: share of the image that dropout drops; drop_rate is for the inputs of the
        layers behind (never inputs of the max, sec. 3).
    input_dropout_scaling: "none", as in the authors' files (`input_scales: {'h0': 1.}`): the image
        is neither divided by the share kept in training nor multiplied by it in tests; or as
        dropout_scaling, "train", "test". The inputs of the other layers are scaled by that.

    Pooling is max, in cuda-convnet's ceil mode. The columns' norms are limited by the
    optimizer (`config.optimizer.max_norms`). Raises ValueError for an image too small, and for
    normalisation or pooling in mnist_dense, which has no maps.
    """

    num_classes: int = 10
    activation: str = "maxout"
    maxout_pieces: int = 0
    initializer: str = "uniform"
    initializer_scale: float = 0.005
    regulariser: str = "dropout"
    variant: str = "mnist_dense"
    input_drop_rate: float = 0.2
    input_dropout_scaling: str = "none"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, drop_scale=1.0) -> jax.Array:
        for option in ("lrn", "pooling") if self.variant == "mnist_dense" else ():
            value = getattr(self, option)
            if value not in ("published", "none"):
                raise ValueError(f"model.{option}={value}: mnist_dense has no maps: use published")
        for number, (kind, units, pieces, *window) in enumerate(VARIANTS[self.variant]):
            name = f"h{number}"
            style = self.style()
            if self.activation == "maxout":
                style = dataclasses.replace(style, pieces=self.maxout_pieces or pieces)
            head = layers.Head(self, style, train, drop_scale)
            dropping = {}
            if number == 0:
                dropping = dict(rate=self.input_drop_rate, scaling=self.input_dropout_scaling)
            if kind == "dense":
                x = head.hidden(x, units, name, drop="input", **dropping)
                continue
            size, padding, pool_window, pool_stride = window
            x = head.drop(x, name, **dropping)
            x = style.activate(style.conv(units, size, name, padding=padding)(x), name)
            if number == 0:
                x = style.normalise(x, "norm0")
            x = style.pool(x, f"pool{number}", "max", pool_window, pool_stride, ceil=True)
        return head.classifier(x, "y", drop="input")
