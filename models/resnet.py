"""ResNet and plain networks of He, Zhang, Ren, Sun: "Deep Residual Learning for Image
Recognition", 2015. Table 1 has the networks for ImageNet, sec. 4.2 those for CIFAR-10.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from models import layers
from models.layers import option

# Table 1: numbers of blocks in conv2_x to conv5_x, and whether the blocks are bottlenecks.
DEPTHS = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
}
CIFAR_DEPTHS = (20, 32, 44, 56, 110, 1202)


class Block(nn.Module):
    """Two 3x3 convolutions, or a bottleneck of 1x1, 3x3, 1x1, with a shortcut (fig. 5).

    [b, h, w, c] -> [b, h / stride, w / stride, maps (times 4 for a bottleneck)]. The layers are
    `conv1`, `bn1`, ..., and `projection`, `projection_bn` if the shortcut is a projection.

    shortcut, shortcut_padding, zero_gamma: see `_Stages`. stride_at: number of the convolution that
    has the stride.
    """

    maps: int
    stride: int
    shortcut: str
    shortcut_padding: str
    zero_gamma: bool
    bottleneck: bool = False
    stride_at: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, build: layers.Builder) -> jax.Array:
        maps = self.maps
        bottleneck, basic = ((1, maps), (3, maps), (1, 4 * maps)), ((3, maps), (3, maps))
        convolutions = bottleneck if self.bottleneck else basic
        y = x
        for number, (size, features) in enumerate(convolutions, 1):
            name, last = f"conv{number}", number == len(convolutions)
            strides = self.stride if number == self.stride_at else 1
            gamma = nn.initializers.constant(0.0 if last and self.zero_gamma else 1.0)
            y = build.conv(y, features, size, name, bias=None, strides=strides, padding=size // 2)
            y = build.batch_norm(y, f"bn{number}", scale_init=gamma)
            if not last:
                y = build.activate(y, name)
        return build.activate(y, name, self._shortcut(x, features, build))

    def _shortcut(self, x, features: int, build: layers.Builder) -> jax.Array | None:
        if self.shortcut == "none":
            return None
        changes = x.shape[-1] != features or self.stride != 1
        if self.shortcut == "C" or (self.shortcut == "B" and changes):
            name = "projection"
            x = build.conv(x, features, 1, name, bias=None, activated=False, strides=self.stride)
            return build.batch_norm(x, f"{name}_bn")
        if changes:
            # Option A: every stride-th pixel, and additional maps of zeros.
            x = x[:, :: self.stride, :: self.stride]
            added = features - x.shape[-1]
            before = added // 2 if self.shortcut_padding == "both_sides" else 0
            x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (before, added - before)))
        return x


class _Stages(layers.Net):
    """The parts that the ImageNet and the CIFAR networks share.

    shortcut: "A": identities, strided and padded with zero maps where the dimensions change;
        "B": a 1x1 projection (with BatchNorm) where they change, otherwise identities;
        "C": projections everywhere (sec. 3.3, 4.1); "none": the plain network without shortcuts.
    shortcut_padding: where shortcut A has its zero maps, which the paper does not say: "after" the
        others, as in fb.resnet.torch, or "both_sides": one half before and one half after them, as
        in some networks for CIFAR-10. Pretrained weights fit only one of them.
    zero_gamma: each block's last BatchNorm starts with gamma 0, so that blocks start as
        identities (Goyal 2017; not in this paper).
    class_map: "the fully-convolutional form" of sec. 3.4.
    """

    initializer: str = "he"
    shortcut: str = option("B", ("A", "B", "C", "none"))
    shortcut_padding: str = option("after", ("after", "both_sides"))
    zero_gamma: bool = option(False)
    batch_norm: str = option("per_device", layers.BATCH_NORM)
    class_map: bool = False
    image_size: int = 224

    @nn.nowrap
    def stages(self, x, build, maps, blocks, **options) -> jax.Array:
        """Blocks named conv2_1, conv2_2, ...

        maps: number of maps in the first stage. blocks: number of blocks in each stage. options:
        `Block`'s bottleneck, stride_at.
        """
        if self.shortcut == "none" and self.zero_gamma:
            raise ValueError(
                "model.zero_gamma=True: the blocks of a plain network would output zero and never"
                " learn: choose a shortcut of A, B, C"
            )
        if self.shortcut != "A" and self.shortcut_padding != "after":
            raise ValueError(
                f"model.shortcut_padding={self.shortcut_padding}: only shortcut A is padded: set"
                " model.shortcut_padding=after"
            )
        for stage, count in enumerate(blocks):
            for number in range(count):
                x = Block(
                    maps=maps * 2**stage,
                    stride=2 if stage > 0 and number == 0 else 1,
                    shortcut=self.shortcut,
                    shortcut_padding=self.shortcut_padding,
                    zero_gamma=self.zero_gamma,
                    **options,
                    name=f"conv{stage + 2}_{number + 1}",
                )(x, build)
        return x

    @nn.nowrap
    def classify(self, x, build, side: int) -> jax.Array:
        """Pooling and classifier. side: height of the last map for an image of `image_size`."""
        window, init = side if self.class_map else None, layers.Init("gaussian", 0.01)
        return build.pooled_classifier(x, "pool", "fc", window, drop="input", initializer=init)


def _halved(side: int, times: int = 1) -> int:
    """The side of a map after convolutions of stride 2, whose padding rounds odd sides up."""
    return -(-side // 2**times)


class ResNet(_Stages):
    """[batch, height, width, 3] -> logits [batch, classes]; made for 224x224, takes any size.

    Options in addition to those of `layers.Net`:

    depth: a key of `DEPTHS`.
    shortcut, shortcut_padding, zero_gamma, class_map: see `_Stages`. In the paper's table 2, 18
        and 34 layers have shortcut A, and thus as many parameters as the plain networks; 50 and
        more layers have B. ResNet-18 and -34 of other projects have B.
    stride: the convolution with stride 2, in bottlenecks that halve the map: "v1" the first 1x1
        (as in the authors' released networks), or "v1.5" the 3x3 (as in torchvision). Raises
        ValueError for v1.5 without bottlenecks.
    pool1_padding: padding of the first pooling: 1 pixel, or 0 and windows that extend beyond the
        bottom and right edges (ceil mode), as in the authors' released networks. Both give 56x56
        for 224x224 images. The paper does not state it.
    pooling: changes pool1, whose published windows are 3x3 with stride 2.

    A regulariser acts on the input of `fc`; the paper has none. Weights are initialised with He's
    rule and fan-in. `fc` starts with N(0, 0.01^2), which is not in the paper.
    """

    depth: int = option(50, tuple(DEPTHS))
    stride: str = option("v1", ("v1", "v1.5"))
    pool1_padding: int = option(1, (1, 0))
    pooling: str = option("published", layers.POOLING)

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, drop_scale=1.0) -> jax.Array:
        blocks, bottleneck = DEPTHS[self.depth]
        if self.stride == "v1.5" and not bottleneck:
            raise ValueError(
                f"model.stride=v1.5: ResNet-{self.depth} has no bottleneck blocks: set"
                " model.stride=v1"
            )
        build = self.builder(train, drop_scale)
        padding = {"padding": self.pool1_padding, "ceil": self.pool1_padding == 0}
        x = build.conv(x, 64, 7, "conv1", bias=None, strides=2, padding=3)
        x = build.activate(build.batch_norm(x, "bn1"), "conv1")
        x = build.pool(x, "pool1", "max", 3, 2, **padding)
        stride_at = 1 if self.stride == "v1" else 2
        x = self.stages(x, build, 64, blocks, bottleneck=bottleneck, stride_at=stride_at)
        side = build.pooled_size(_halved(self.image_size), 3, 2, **padding)
        return self.classify(x, build, _halved(side, times=3))


class CifarResNet(_Stages):
    """[batch, 32, 32, 3] -> logits [batch, classes] (sec. 4.2); takes any size.

    Three stages of n blocks with 16, 32, 64 maps: 6 n + 2 layers.

    Options in addition to those of `layers.Net`:

    depth: 6 n + 2, one of `CIFAR_DEPTHS`.
    shortcut, shortcut_padding, zero_gamma, class_map: see `_Stages`. The paper uses shortcut A, so
        that residual and plain networks have the same number of parameters.

    A regulariser acts on the input of `fc`; the paper has none.
    """

    num_classes: int = 10
    shortcut: str = "A"
    image_size: int = 32
    depth: int = option(20, CIFAR_DEPTHS)

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, drop_scale=1.0) -> jax.Array:
        build = self.builder(train, drop_scale)
        x = build.conv(x, 16, 3, "conv1", bias=None, padding=1)
        x = build.activate(build.batch_norm(x, "bn1"), "conv1")
        x = self.stages(x, build, 16, ((self.depth - 2) // 6,) * 3)
        return self.classify(x, build, _halved(self.image_size, times=2))
