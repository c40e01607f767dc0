"""The CIFAR-10 networks of Krizhevsky's cuda-convnet (2011), to which the AlexNet paper's CIFAR
figures point. Each is named by the test error that its configuration file states.
"""

import functools

import flax.linen as nn
import jax

from models import layers
from models.layers import option

# Deviations of the initial weights (`initW` of the configuration files).
VARIANTS = {
    "26pct": {"conv1": 1e-4, "conv2": 0.01, "conv3": 0.01, "fc64": 0.1, "fc10": 0.1},
    "18pct": {"conv1": 1e-4, "conv2": 0.01, "conv3": 0.01, "fc10": 0.01},
    "13pct": {"conv1": 1e-4, "conv2": 0.01, "local3": 0.04, "local4": 0.04, "fc10": 0.01},
    "11pct": {"conv1": 1e-4, "conv2": 0.01, "local3": 0.04, "local4": 0.04, "fc10": 0.01},
}
# Local response normalisation of the variants that have it.
_NORMS = {
    "18pct": functools.partial(layers.LocalResponseNormWithinMap, 3, 5e-5 / 9),
    "11pct": functools.partial(layers.LocalResponseNorm, 9, 1e-3 / 9, k=1.0),
}


class CudaConvnet(layers.Net):
    """[batch, height, width, 3] -> logits [batch, classes].

    Options in addition to those of `layers.Net`:

    variant: 26pct  (layers-80sec): three convolutions, max then average pooling, fc64;
             18pct: the same without fc64, with LRN within maps after pool1 and pool2;
             13pct (layers-conv-local): two convolutions, two locally connected layers;
             11pct: wider, LRN across nine maps, in the order conv1-pool1-norm1-conv2-norm2-pool2.
    initializer: "paper" draws N(0, s^2) with an s for each layer.
    lrn: acts at norm1 and norm2, for all variants in the places given above.
    pooling: the published windows are 3x3, of stride 2, in ceil mode.

    26pct and 18pct are made for 32x32 images, the other two for crops of 24x24. Each takes any
    size, on which the parameters of fully and locally connected layers depend. A regulariser acts
    on fc64 of 26pct, and on the input of fc10 of the others; the originals have none. Raises
    ValueError for an image too small.
    """

    num_classes: int = 10
    initializer: str = option("paper", ("paper", *layers.INITIALIZERS))
    variant: str = option("18pct", tuple(VARIANTS))
    lrn: str = option("published", layers.LRN)
    pooling: str = option("published", layers.POOLING)

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, drop_scale=1.0) -> jax.Array:
        build = self.builder(train, drop_scale)

        def init(name):
            published = layers.Init("gaussian", VARIANTS[self.variant][name])
            return published if self.initializer == "paper" else build.init

        def conv(x, maps, name):
            return build.activate(build.conv(x, maps, 5, name, init=init(name), padding=2), name)

        def local(x, maps, name):
            options = {"initializer": init(name), "dtype": self.dtype, "name": name}
            x = layers.LocalConv(maps * build.pieces, (3, 3), padding=1, **options)(x)
            return build.activate(x, name)

        def pool(x, kind, name):
            return build.pool(x, name, kind, 3, 2, ceil=True)

        def norm(x, name):
            return build.response_norm(x, name, _NORMS.get(self.variant))

        if self.variant in ("26pct", "18pct"):
            x = norm(pool(conv(x, 32, "conv1"), "max", "pool1"), "norm1")
            x = norm(pool(conv(x, 32, "conv2"), "average", "pool2"), "norm2")
            x = pool(conv(x, 64, "conv3"), "average", "pool3")
            if self.variant == "26pct":
                x = build.hidden(x, 64, "fc64", initializer=init("fc64"))
                return build.classifier(x, "fc10", initializer=init("fc10"))
        else:
            x = norm(pool(conv(x, 64, "conv1"), "max", "pool1"), "norm1")
            x = pool(norm(conv(x, 64, "conv2"), "norm2"), "max", "pool2")
            x = local(x, 64 if self.variant == "11pct" else 32, "local3")
            x = local(x, 32, "local4")
        return build.classifier(x, "fc10", drop="input", initializer=init("fc10"))
