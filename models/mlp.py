"""Networks before convolution: the linear classifier and the multi-layer perceptron. And a fully
connected, a locally connected and a convolutional layer with the same units, for comparison.

The perceptrons are those that LeCun 1998 (sec. III.C) measures on MNIST: 28x28-300-10 and so on.
"""

import dataclasses

import flax.linen as nn
import jax

from models import layers
from models.layers import option


class MLP(layers.Net):
    """Perceptrons: [batch, ...] -> logits, by fully connected layers `h1`, `h2`, ..., `output`.

    hidden: units of the hidden layers; () is the linear classifier. input_drop_rate: share of
    the input that dropout drops (Srivastava 2014, app. A: 0.2), with regulariser "dropout".
    """

    num_classes: int = 10
    activation: str = "scaled_tanh"
    initializer: str = "lecun1998"
    hidden: tuple[int, ...] = option((300,), layers.SIZES)
    input_drop_rate: float = option(0.0, layers.FRACTION)

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, drop_scale=1.0) -> jax.Array:
        build = self.builder(train, drop_scale)
        if self.input_drop_rate and self.regulariser == "dropout":
            x = dataclasses.replace(build, drop_rate=self.input_drop_rate).drop(x, "input")
        for number, units in enumerate(self.hidden, start=1):
            x = build.hidden(x, units, f"h{number}")
        return build.classifier(x, "output")


class Connectivity(layers.Net):
    """One hidden layer `h1` of maps as large as the image, connected in one of three ways.

    It shows how convolution reduces the number of weights. On 200x200 pixels, ten maps are 400,000
    units. They have 16e9 weights if each unit sees the whole image, 40e6 if each sees a window of
    10x10, and 1,000 if all units of a map share their weights.

    connection: "full", "local" or "shared". maps: of the hidden layer. window: side of what a
    unit sees, for local and shared; it lies around the unit, with zeros beyond the edge of the
    image. bias: whether units have one.
    """

    num_classes: int = 10
    initializer: str = "he"
    connection: str = option("local", ("full", "local", "shared"))
    maps: int = option(10, layers.COUNT)
    window: int = option(10, layers.COUNT)
    bias: bool = option(True)

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, drop_scale=1.0) -> jax.Array:
        build = self.builder(train, drop_scale)
        batch, height, width, _ = x.shape
        before = (self.window - 1) // 2
        padding = ((before, self.window - 1 - before),) * 2
        maps, options = self.maps * build.pieces, {"initializer": build.init, "dtype": self.dtype}
        options |= {"use_bias": self.bias, "name": "h1"}
        if self.connection == "full":
            h = layers.FullyConnected(height * width * maps, **options)(x)
            h = h.reshape(batch, height, width, maps)
        elif self.connection == "local":
            h = layers.LocalConv(maps, (self.window,) * 2, padding=padding, **options)(x)
        else:
            bias = 0.0 if self.bias else None
            h = build.conv(x, self.maps, self.window, "h1", bias=bias, padding=padding)
        return build.classifier(build.activate(h, "h1"), "output", drop="input")
