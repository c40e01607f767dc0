"""ResNet and its plain counterparts, after He, Zhang, Ren, Sun: "Deep Residual Learning for Image
Recognition", 2015: table 1 for ImageNet, sec. 4.2 for CIFAR-10.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from models import layers

# Table 1: blocks of conv2_x to conv5_x, and whether they are bottlenecks.
DEPTHS = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
}
CIFAR_DEPTHS = (20, 32, 44, 56, 110, 1202)
SHORTCUTS = ("A", "B", "C", "none")
STRIDES = ("v1", "v1.5")
POOL1_PADDINGS = (1, 0)  # the second in ceil mode


class Block(nn.Module):
    """Two 3x3 convolutions, or a bottleneck of 1x1, 3x3, 1x1, and their shortcut (fig. 5).

    [b, h, w, c] -> [b, h / stride, w / stride, maps (times 4 for a bottleneck)]. Layers
    `conv1`, `bn1`, ..., and `projection`, `projection_bn` where the shortcut has them.

    shortcut: see `ResNet`. stride_at: the bottleneck's convolution that strides, 1 (v1) or 2
        (v1.5). zero_gamma: the last BatchNorm's gamma starts at 0.
    """

    maps: int
    stride: int
    bottleneck: bool
    shortcut: str
    stride_at: int
    zero_gamma: bool
    style: layers.Style

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        sizes = (1, 3, 1) if self.bottleneck else (3, 3)
        features = (self.maps, self.maps, 4 * self.maps) if self.bottleneck else (self.maps,) * 2
        style, y = self.style, x
        for number, (size, width) in enumerate(zip(sizes, features, strict=True), 1):
            stride = self.stride if number == self.stride_at else 1
            y = style.conv(width, size, f"conv{number}", stride, padding=size // 2, bias=None)(y)
            last = number == len(sizes)
            start = nn.initializers.constant(0.0 if last and self.zero_gamma else 1.0)
            y = style.batch_norm(f"bn{number}", train, scale_init=start)(y)
            if not last:
                y = style.activate(y, f"conv{number}")
        if self.shortcut == "none":
            return style.activate(y, f"conv{number}")
        if style.activation == "maxout":
            # The largest of pieces that all had the shortcut added is the largest, and it.
            y = style.activate(y, f"conv{number}")
            return y + self._shortcut(x, y.shape[-1], train)
        return style.activate(y + self._shortcut(x, y.shape[-1], train), f"conv{number}")

    def _shortcut(self, x, features: int, train: bool) -> jax.Array:
        changes = x.shape[-1] != features or self.stride != 1
        if self.shortcut == "C" or (self.shortcut == "B" and changes):
            style = self.style
            projection = layers.Conv(
                features,
                (1, 1),
                strides=self.stride,
                use_bias=False,
                kernel_init=style.init,
                dtype=style.dtype,
                name="projection",
            )
            return style.batch_norm("projection_bn", train)(projection(x))
        if changes:
            # Option A: every stride-th pixel, and zeros in place of the new maps. The paper does
            # not say where the zeros go: here behind, as in fb.resnet.torch.
            x = x[:, :: self.stride, :: self.stride]
            x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, features - x.shape[-1])))
        return x


class _Stages(layers.Net):
    """What the ImageNet and the CIFAR nets share.

    shortcut: "A" identity, strided and padded with zero maps where dimensions change;
        "B" a 1x1 projection (with BatchNorm) there; "C" a projection everywhere (sec. 3.3, 4.1);
        "none": the plain net, which has no shortcuts.
    zero_gamma: each block's last BatchNorm starts at gamma 0, so that blocks start as
        identities (Goyal 2017; not in this paper).
    class_map: logits are a map [batch, height, width, classes] of the net applied at every place:
        the last pooling takes windows as large as the map of an image of `image_size` ("the
        fully-convolutional form", sec. 3.4). At that size the map has one cell, equal to the
        vector.
    """

    initializer: str = "he"
    shortcut: str = "B"
    zero_gamma: bool = False
    class_map: bool = False
    image_size: int = 224

    @nn.nowrap
    def run_stages(self, x, train, first, stages, bottleneck, stride_at=1) -> jax.Array:
        """first: maps of the first stage. stages: blocks of each, named conv2_1, conv2_2, ..."""
        if self.shortcut == "none" and self.zero_gamma:
            raise ValueError(
                "model.zero_gamma=True: a plain net's blocks would put out zero and never learn;"
                " choose a shortcut of A, B, C"
            )
        style = self.style()
        for stage, blocks in enumerate(stages):
            for number in range(blocks):
                x = Block(
                    maps=first * 2**stage,
                    stride=2 if stage > 0 and number == 0 else 1,
                    bottleneck=bottleneck,
                    shortcut=self.shortcut,
                    stride_at=stride_at,
                    zero_gamma=self.zero_gamma,
                    style=style,
                    name=f"conv{stage + 2}_{number + 1}",
                )(x, train)
        return x

    @nn.nowrap
    def classify(self, x, head: layers.Head, side: int) -> jax.Array:
        """The last map to logits. side: of the last map of an image of `image_size`."""
        window = side if self.class_map else None
        init = layers.Init("gaussian", 0.01)
        return head.pooled_classifier(x, "pool", "fc", window, drop="input", init=init)


def _halved(side: int, times: int = 1) -> int:
    """What convolutions of stride 2 leave of a side; they pad so that odd ones are rounded up."""
    return -(-side // 2**times)


class ResNet(_Stages):
    """[batch, height, width, 3] -> logits [batch, classes]; made for 224x224, takes any size.

    Options beside those of `layers.Net`:

    depth: a key of `DEPTHS`.
    shortcut, zero_gamma, class_map: see above. The paper's table 2 has shortcut A for 18 and 34
        layers (so that they equal the plain nets in parameters), B for 50 and more; B is what
        others call ResNet-18 and -34.
    stride: of the bottlenecks that halve the map: "v1" in the first 1x1 (the paper's released
        nets) or "v1.5" in the 3x3 (torchvision's). Raises ValueError for v1.5 without bottlenecks.
    pool1_padding: pixels on each side of the first pooling: 1, or 0 and windows that reach over the
        far edges (ceil mode), as in the authors' released nets; at 224x224 both give 56x56. The
        paper does not say.

    A regulariser acts on the input of `fc`; the paper has none. Initialisation is He's with
    fan-in; `fc` starts with N(0, 0.01^2), which is not in the paper.
    """

    depth: int = 50
    stride: str = "v1"
    pool1_padding: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, drop_scale=1.0) -> jax.Array:
        stages, bottleneck = DEPTHS[self.depth]
        if self.stride == "v1.5" and not bottleneck:
            raise ValueError(
                f"model.stride=v1.5: ResNet-{self.depth} has no bottlenecks to place it in: use v1"
            )
        style = self.style()
        x = style.conv(64, 7, "conv1", stride=2, padding=3, bias=None)(x)
        x = style.activate(style.batch_norm("bn1", train)(x), "conv1")
        x = style.normalise(x, "norm1")
        padding = {"padding": self.pool1_padding, "ceil": self.pool1_padding == 0}
        x = style.pool(x, "pool1", "max", 3, 2, **padding)
        x = self.run_stages(x, train, 64, stages, bottleneck, 2 if self.stride == "v1.5" else 1)
        side = style.pooled(_halved(self.image_size), 3, 2, **padding)
        return self.classify(x, self.head(train, drop_scale), _halved(side, times=3))


class CifarResNet(_Stages):
    """[batch, 32, 32, 3] -> logits [batch, classes] (sec. 4.2); takes any size.

    Three stages of n blocks with 16, 32, 64 maps: 6 n + 2 layers. Options beside those of
    `layers.Net`:

    depth: 6 n + 2, one of `CIFAR_DEPTHS`.
    shortcut, zero_gamma, class_map: as in `ResNet`; the paper has shortcut A, so that residual
        and plain nets have the same parameters.

    A regulariser acts on the input of `fc`; the paper has none.
    """

    num_classes: int = 10
    shortcut: str = "A"
    image_size: int = 32
    depth: int = 20

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, drop_scale=1.0) -> jax.Array:
        style = self.style()
        x = style.conv(16, 3, "conv1", padding=1, bias=None)(x)
        x = style.activate(style.batch_norm("bn1", train)(x), "conv1")
        x = style.normalise(x, "norm1")
        x = self.run_stages(x, train, 16, ((self.depth - 2) // 6,) * 3, bottleneck=False)
        return self.classify(x, self.head(train, drop_scale), _halved(self.image_size, times=2))
