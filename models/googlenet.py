"""GoogLeNet (Inception v1), after Szegedy et al.: "Going Deeper with Convolutions", 2014, table 1,
and the batch-normalised net that torchvision distributes weights for under the same name.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from models import layers

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
NORMALISATIONS = ("lrn", "batch_norm")
AUXILIARY_DROP_RATE = 0.7  # sec. 5


@dataclasses.dataclass(frozen=True)
class Unit:
    """A convolution with what follows it: biases and the activation, or BatchNorm and it."""

    style: layers.Style
    batch_norm: bool
    train: bool
    bias_start: float

    def __call__(self, x, features, size, name, stride=1):
        bias = None if self.batch_norm else self.bias_start
        x = self.style.conv(features, size, name, stride, padding=size // 2, bias=bias)(x)
        if self.batch_norm:
            x = self.style.batch_norm(f"{name}_bn", self.train, epsilon=1e-3)(x)
        return self.style.activate(x, name)


class Inception(nn.Module):
    """Four paths side by side (fig. 2b): [b, h, w, c] -> [b, h, w, maps of all paths].

    maps: a row of `MODULES`. wide: side of the third path's window, 5 in the paper.
    """

    maps: tuple[int, ...]
    unit: Unit
    wide: int = 5

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        one, reduce_3, three, reduce_5, five, projection = self.maps
        a = self.unit(x, one, 1, "1x1")
        b = self.unit(self.unit(x, reduce_3, 1, "3x3_reduce"), three, 3, "3x3")
        c = self.unit(self.unit(x, reduce_5, 1, "5x5_reduce"), five, self.wide, "5x5")
        pooled = self.unit.style.pool(x, "pool", "max", 3, 1, padding=1)
        d = self.unit(pooled, projection, 1, "pool_proj")
        return jnp.concatenate([a, b, c, d], axis=-1)


class GoogLeNet(layers.Net):
    """[batch, height, width, 3] -> logits [batch, classes]; made for 224x224, takes larger ones.

    Options beside those of `layers.Net`:

    normalisation: "lrn" (the paper's) or "batch_norm": the net that torchvision distributes,
        with BatchNorm behind every convolution, no biases there, no LRN, and 3x3 windows where the
        paper has 5x5. Its auxiliary heads pool as the paper's; torchvision's pool adaptively to
        4x4, so that theirs differ in training.
    lrn: published is AlexNet's (the paper gives no constants), none in the "batch_norm" net.
    auxiliary_heads: the two classifiers on 4a and 4d that training adds (sec. 5). Their logits
        are sown as `auxiliary/aux1/logits`, `aux2` in training. Their fc1 has weights for the
        size of the images that the net is made with.
    class_map: logits are a map [batch, height, width, classes] of the net applied at every place:
        pool5 takes windows as large as the map of an image of `image_size`. At that size the map
        has one cell, equal to the vector.

    bias_start: of all biases but the three classifiers', which start at 0.

    Dropout acts on the input of `fc` (40 %) and, at 70 %, of the auxiliary classifiers. Raises
    ValueError for an image too small. The paper says nothing of the initialisation: it is that of
    Caffe's bvlc_googlenet.
    """

    initializer: str = "xavier_fan_in"
    regulariser: str = "dropout"
    drop_rate: float = 0.4
    normalisation: str = "lrn"
    auxiliary_heads: bool = True
    bias_start: float = 0.2
    class_map: bool = False
    image_size: int = 224

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, drop_scale=1.0) -> jax.Array:
        head = self.head(train, drop_scale)
        batch_norm = self.normalisation == "batch_norm"
        style = self.style()
        unit = Unit(style, batch_norm, train, self.bias_start)

        def norm(x, name):
            published = functools.partial(style.across_maps, name)
            return style.normalise(x, name, None if batch_norm else published)

        cells = -(-self.image_size // 2)  # of such an image's map along an axis, behind conv1

        def pool(x, name, window=3):
            nonlocal cells
            cells = style.pooled(cells, window, 2, ceil=True)
            return style.pool(x, name, "max", window, 2, ceil=True)

        x = unit(x, 64, 7, "conv1", stride=2)
        x = norm(pool(x, "pool1"), "norm1")
        x = unit(x, 64, 1, "conv2_reduce")
        x = norm(unit(x, 192, 3, "conv2"), "norm2")
        x = pool(x, "pool2")
        for name, maps in MODULES.items():
            x = Inception(maps, unit, 3 if batch_norm else 5, name=f"inception_{name}")(x)
            if name in ("4a", "4d") and self.auxiliary_heads and (train or self.is_initializing()):
                number = 1 if name == "4a" else 2
                AuxiliaryHead(unit, name=f"aux{number}")(x, head)
            if name == "3b":
                x = pool(x, "pool3")
            if name == "4e":
                # torchvision's net has a 2x2 window here.
                x = pool(x, "pool4", window=2 if batch_norm else 3)
        window = cells if self.class_map else None
        return head.pooled_classifier(x, "pool5", "fc", window, drop="input")


class AuxiliaryHead(nn.Module):
    """Classifier on an inner layer (sec. 5): [b, h, w, c] -> logits [b, classes]; 14x14 at 224.

    They are sown as `auxiliary/<name>/logits` in training. Average pooling 5x5 of stride 3,
    `conv` 1x1 to 128, `fc1` to 1024, dropout, `fc2`.
    """

    unit: Unit

    @nn.compact
    def __call__(self, x: jax.Array, head: layers.Head) -> jax.Array:
        if min(x.shape[1:3]) < 5:
            raise ValueError(
                "auxiliary heads need images of at least 79x79: give such, or set"
                " model.auxiliary_heads=False"
            )
        x = layers.Pool("average", 5, 3, name="pool")(x)
        x = self.unit(x, 128, 1, "conv")
        x = head.hidden(x, 1024, "fc1", bias=self.unit.bias_start, drop="nothing")
        logits = head.classifier(x, "fc2", drop="input", rate=AUXILIARY_DROP_RATE)
        if head.train:
            self.sow("auxiliary", "logits", logits)
        return logits
