"""GoogLeNet (Inception v1), after Szegedy et al.: "Going Deeper with Convolutions", 2014, table 1,
and the batch-normalised network that torchvision distributes weights for under the same name.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from models import layers
from models.layers import option

# Table 1: maps of 1x1; 3x3 reduce, 3x3; 5x5 reduce, 5x5; pool projection.
MODULES = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
AUXILIARY_HEADS = {"4a": "aux1", "4d": "aux2"}  # module -> the classifier on its output (sec. 5)
AUXILIARY_DROP_RATE = 0.7  # sec. 5


@dataclasses.dataclass(frozen=True)
class Unit:
    """A convolution, BatchNorm or biases, and the activation: [b, h, w, c] -> [b, h', w', maps]."""

    build: layers.Builder
    batch_norm: bool
    bias_start: float

    def __call__(self, x: jax.Array, maps: int, size: int, name: str, strides: int = 1):
        bias = None if self.batch_norm else self.bias_start
        x = self.build.conv(x, maps, size, name, bias=bias, strides=strides, padding=size // 2)
        if self.batch_norm:
            x = self.build.batch_norm(x, f"{name}_bn", epsilon=1e-3)
        return self.build.activate(x, name)


class Inception(nn.Module):
    """Four paths side by side (fig. 2b): [b, h, w, c] -> [b, h, w, maps of all paths].

    maps: a row of `MODULES`. wide: side of the third path's window, 5 in the paper.
    """

    maps: tuple[int, ...]
    wide: int = 5

    @nn.compact
    def __call__(self, x: jax.Array, unit: Unit) -> jax.Array:
        one, reduce_3, three, reduce_5, five, projection = self.maps
        a = unit(x, one, 1, "1x1")
        b = unit(unit(x, reduce_3, 1, "3x3_reduce"), three, 3, "3x3")
        c = unit(unit(x, reduce_5, 1, "5x5_reduce"), five, self.wide, "5x5")
        pooled = unit.build.pool(x, "pool", "max", 3, 1, padding=1)
        d = unit(pooled, projection, 1, "pool_proj")
        return jnp.concatenate([a, b, c, d], axis=-1)


class AuxiliaryHead(nn.Module):
    """A classifier on an inner layer (sec. 5): [b, h, w, c] -> logits [b, classes]; 14x14 at 224.

    In training the logits are sown as `auxiliary/<name>/logits`. Average pooling 5x5 of stride 3,
    `conv` 1x1 to 128 maps, `fc1` to 1024 units, dropout, `fc2`.
    """

    @nn.compact
    def __call__(self, x: jax.Array, unit: Unit) -> jax.Array:
        if min(x.shape[1:3]) < 5:
            raise ValueError(
                "auxiliary heads need images of at least 79x79, or 20x20 with model.stem=small: use"
                " larger images, or set model.auxiliary_heads=False"
            )
        build = dataclasses.replace(unit.build, drop_rate=AUXILIARY_DROP_RATE)
        x = layers.Pool("average", 5, 3, name="pool")(x)
        x = unit(x, 128, 1, "conv")
        x = build.hidden(x, 1024, "fc1", drop="nothing", bias_start=unit.bias_start)
        logits = build.classifier(x, "fc2", drop="input")
        if build.train:
            self.sow("auxiliary", "logits", logits)
        return logits


class GoogLeNet(layers.Net):
    """[batch, height, width, 3] -> logits [batch, classes]; made for 224x224, takes other sizes.

    Options in addition to those of `layers.Net`:

    normalisation: "lrn" (the paper's) or "batch_norm": the network that torchvision distributes,
        with BatchNorm after every convolution, no biases there, no LRN, and 3x3 windows where the
        paper has 5x5. Its auxiliary heads pool as the paper's. torchvision's pool adaptively to
        4x4, so they differ in training.
    stem: "published", or "small" for images of about 32x32, which is not published: conv1 has 3x3
        windows of stride 1 in place of 7x7 of stride 2, and there is no pool1. The maps of 32x32
        images are then as large as those of 128x128 images with the published stem.
    width: factor on the maps, and on the units of fc1 in the heads, see `layers.widened`.
    lrn: "published" is AlexNet's (the paper gives no constants), none with normalisation
        "batch_norm".
    pooling: the published windows are 3x3, of stride 2, and of stride 1 in the modules.
    auxiliary_heads: the two classifiers on 4a and 4d that training adds (sec. 5). In training their
        logits are sown as `auxiliary/aux1/logits`, `aux2`. The weights of their fc1 fit the size of
        the images with which the network is initialised.
    bias_start: of all biases but those of the three classifiers, which start at 0.

    Dropout acts on the input of `fc` (40 %), and of the auxiliary classifiers (70 %). Raises
    ValueError for an image too small. The paper says nothing about the initialisation: it is that
    of Caffe's bvlc_googlenet.
    """

    initializer: str = "xavier_fan_in"
    regulariser: str = "dropout"
    drop_rate: float = 0.4
    normalisation: str = option("lrn", ("lrn", "batch_norm"))
    stem: str = option("published", ("published", "small"))
    width: float = option(1.0, layers.WIDTH)
    batch_norm: str = option("per_device", layers.BATCH_NORM)
    lrn: str = option("published", layers.LRN)
    pooling: str = option("published", layers.POOLING)
    auxiliary_heads: bool = option(True)
    bias_start: float = option(0.2, layers.NUMBER)
    class_map: bool = False
    image_size: int = 224

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, drop_scale=1.0) -> jax.Array:
        build = self.builder(train, drop_scale)
        batch_norm = self.normalisation == "batch_norm"
        unit = Unit(build, batch_norm, self.bias_start)
        is_small = self.stem == "small"
        # The side of conv1's map for an image of image_size.
        side = self.image_size if is_small else -(-self.image_size // 2)

        def norm(x, name):
            return build.response_norm(x, name, None if batch_norm else layers.alexnet_norm)

        def pool(x, name, window=3):
            nonlocal side
            side = build.pooled_size(side, window, 2, ceil=True)
            return build.pool(x, name, "max", window, 2, ceil=True)

        with_heads = self.auxiliary_heads and (train or self.is_initializing())
        heads = AUXILIARY_HEADS if with_heads else {}
        x = unit(x, 64, 3, "conv1") if is_small else unit(x, 64, 7, "conv1", strides=2)
        x = norm(x if is_small else pool(x, "pool1"), "norm1")
        x = unit(x, 64, 1, "conv2_reduce")
        x = norm(unit(x, 192, 3, "conv2"), "norm2")
        x = pool(x, "pool2")
        for name, maps in MODULES.items():
            x = Inception(maps, 3 if batch_norm else 5, name=f"inception_{name}")(x, unit)
            if name in heads:
                AuxiliaryHead(name=heads[name])(x, unit)
            if name == "3b":
                x = pool(x, "pool3")
            if name == "4e":
                x = pool(x, "pool4", window=2 if batch_norm else 3)  # torchvision's is 2x2
        window = side if self.class_map else None
        return build.pooled_classifier(x, "pool5", "fc", window, drop="input")
