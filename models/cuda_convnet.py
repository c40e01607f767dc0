"""The CIFAR-10 nets of Krizhevsky's cuda-convnet (2011), to which the AlexNet paper's CIFAR
figures point: named by the test error that their configuration files state.
"""

import flax.linen as nn
import jax

from models import layers

VARIANTS = ("26pct", "18pct", "13pct", "11pct")

# Deviations of the initial weights (`initW` of the configuration files).
_STARTS = {
    "26pct": {"conv1": 1e-4, "conv2": 0.01, "conv3": 0.01, "fc64": 0.1, "fc10": 0.1},
    "18pct": {"conv1": 1e-4, "conv2": 0.01, "conv3": 0.01, "fc10": 0.01},
    "13pct": {"conv1": 1e-4, "conv2": 0.01, "local3": 0.04, "local4": 0.04, "fc10": 0.01},
    "11pct": {"conv1": 1e-4, "conv2": 0.01, "local3": 0.04, "local4": 0.04, "fc10": 0.01},
}


class CudaConvnet(layers.Net):
    """[batch, height, width, 3] -> logits [batch, classes].

    Options beside those of `layers.Net`:

    variant: 26pct  (layers-80sec): three convolutions, max then average pooling, fc64;
             18pct: the same without fc64, LRN within maps behind pool1 and pool2;
             13pct (layers-conv-local): two convolutions, two locally connected layers;
             11pct: wider, LRN across nine maps, in the order conv1-pool1-norm1-conv2-norm2-pool2.
    initializer: "paper" draws N(0, s^2) with each layer's own s.

    26pct and 18pct are made for 32x32 images, the other two for crops of 24x24; each takes any
    size, and the fully and locally connected layers' parameters depend on it. All pooling is 3x3
    of stride 2 in ceil mode. A regulariser acts on fc64 of 26pct, and on the input of fc10 of
    the others; the originals have none. Raises ValueError for an image too small.
    """

    num_classes: int = 10
    initializer: str = "paper"
    variant: str = "18pct"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, drop_scale=1.0) -> jax.Array:
        style, head = self.style(), self.head(train, drop_scale)

        def start(name):
            own = layers.Init("gaussian", _STARTS[self.variant][name])
            return own if self.initializer == "paper" else style.init

        def conv(x, maps, name):
            x = style.conv(maps, 5, name, padding=2, init=start(name))(x)
            return style.activate(x, name)

        def local(x, maps, name):
            layer = layers.LocalConv(
                style.width(maps), (3, 3), 1, initializer=start(name), dtype=self.dtype, name=name
            )
            return style.activate(layer(x), name)

        def pool(x, kind, name):
            return style.pool(x, name, kind, 3, 2, ceil=True)

        def normalise(x, name):
            published = {
                "18pct": lambda: layers.LocalResponseNormWithinMap(3, 5e-5 / 9, name=name),
                "11pct": lambda: layers.LocalResponseNorm(9, 1e-3 / 9, k=1.0, name=name),
            }
            return style.normalise(x, name, published.get(self.variant))

        if self.variant in ("26pct", "18pct"):
            x = normalise(pool(conv(x, 32, "conv1"), "max", "pool1"), "norm1")
            x = normalise(pool(conv(x, 32, "conv2"), "average", "pool2"), "norm2")
            x = pool(conv(x, 64, "conv3"), "average", "pool3")
            if self.variant == "26pct":
                x = head.hidden(x, 64, "fc64", init=start("fc64"))
                return head.classifier(x, "fc10", init=start("fc10"))
        else:
            x = normalise(pool(conv(x, 64, "conv1"), "max", "pool1"), "norm1")
            x = pool(normalise(conv(x, 64, "conv2"), "norm2"), "max", "pool2")
            x = local(x, 64 if self.variant == "11pct" else 32, "local3")
            x = local(x, 32, "local4")
        return head.classifier(x, "fc10", drop="input", init=start("fc10"))
