"""Nets before convolution: the linear classifier, the multi-layer perceptron, and for comparison
a fully connected, a locally connected and a convolutional layer of as many units.

The MLPs are those that LeCun 1998 (sec. III.C) measures on MNIST: 28x28-300-10 and so on.
"""

import flax.linen as nn
import jax

from models import layers

CONNECTIONS = ("full", "local", "shared")


class MLP(layers.Net):
    """Perceptrons: [batch, ...] -> logits, by fully connected layers `h1`, `h2`, ..., `output`.

    hidden: units of the hidden layers; () is the linear classifier. input_drop_rate: share of
    the input that dropout drops (Srivastava 2014, app. A: 0.2), with regulariser "dropout".
    """

    num_classes: int = 10
    activation: str = "scaled_tanh"
    initializer: str = "lecun1998"
    hidden: tuple[int, ...] = (300,)
    input_drop_rate: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, drop_scale=1.0) -> jax.Array:
        head = self.head(train, drop_scale)
        if self.input_drop_rate and self.regulariser == "dropout":
            x = head.drop(x, "input", rate=self.input_drop_rate)
        for number, units in enumerate(self.hidden, start=1):
            x = head.hidden(x, units, f"h{number}")
        return head.classifier(x, "output")


class Connectivity(layers.Net):
    """One hidden layer `h1` of maps as large as the image, connected in one of three ways.

    How convolution lowers the number of weights: on 200x200 pixels, ten maps are 400,000 units,
    which take 16e9 weights if each sees the whole image, 40e6 if each sees a window of 10x10, and
    1,000 if all units of a map share theirs.

    connection: "full", "local" or "shared". maps: of the hidden layer. window: side of what
    a unit sees, for local and shared; around the unit, zeros beyond the edge. bias: whether units
    have one.
    """

    num_classes: int = 10
    initializer: str = "he"
    connection: str = "local"
    maps: int = 10
    window: int = 10
    bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, drop_scale=1.0) -> jax.Array:
        style, head = self.style(), self.head(train, drop_scale)
        batch, height, width, _ = x.shape
        maps = style.width(self.maps)
        before = (self.window - 1) // 2
        pads = ((before, self.window - 1 - before),) * 2
        shared = dict(use_bias=self.bias, dtype=self.dtype, name="h1")
        if self.connection == "full":
            layer = layers.FullyConnected(height * width * maps, initializer=style.init, **shared)
            h = layer(x).reshape(batch, height, width, maps)
        elif self.connection == "local":
            layer = layers.LocalConv(
                maps, (self.window,) * 2, padding=pads, initializer=style.init, **shared
            )
            h = layer(x)
        else:
            layer = layers.Conv(
                maps, (self.window,) * 2, padding=pads, kernel_init=style.init, **shared
            )
            h = layer(x)
        h = style.normalise(style.activate(h, "h1"), "norm1")
        return head.classifier(h, "output", drop="input")
