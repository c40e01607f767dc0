"""AlexNet, after Krizhevsky, Sutskever, Hinton: "ImageNet Classification with Deep Convolutional
Neural Networks", NIPS 2012, and torchvision's network of that name, which has one tower.

The second is close to Krizhevsky 2014, "One weird trick for parallelizing convolutional neural
networks", but not equal to it. That paper's footnote gives 64, 192, 384, 384, 256 maps. Its text
says that it has 0.2 % more parameters than two towers, which is true of torchvision's 64, 192, 384,
256, 256 only (the footnote's: 1.4 %). The author's configuration (cuda-convnet2,
layers-imagenet-1gpu.cfg) has torchvision's widths, and LRN after conv1 and conv2, which torchvision
left out.
"""

import functools

import flax.linen as nn
import jax

from models import layers
from models.layers import option

# Maps of conv1 to conv5, and the groups of each.
VARIANTS = {
    "two_tower": ((96, 256, 384, 384, 256), (1, 2, 1, 2, 2)),
    "one_tower": ((64, 192, 384, 256, 256), (1, 1, 1, 1, 1)),
}
# Side of the image -> window, stride and padding of conv1, and side of its maps. The paper says
# 224, but only 227, or 224 and padding, gives its 55x55 maps. 32 is not published: conv1 is that of
# the author's networks for CIFAR-10 (cuda-convnet), and pool5 leaves 3x3 pixels in place of 6x6
# (4x4 if its windows do not overlap).
IMAGE_SIZES = {224: (11, 4, 2, 55), 227: (11, 4, 0, 55), 32: (5, 1, 2, 32)}


class AlexNet(layers.Net):
    """[batch, image_size, image_size, 3] -> logits [batch, classes].

    Options in addition to those of `layers.Net`:

    variant: "two_tower" (2012: conv2, conv4 and conv5 in two groups, conv3 sees both towers;
        60,965,224 parameters) or "one_tower" (torchvision's; 61,100,840).
    image_size: 224 (conv1 padded by 2), 227 (not padded), or 32, which is not published: conv1 has
        5x5 windows of stride 1 in place of 11x11 of stride 4, and fc6 sees pool5's smaller maps.
    width: factor on the maps and on the units of fc6 and fc7, see `layers.widened`.
    lrn: acts after conv1 and conv2, before their pooling. "published" is the "paper" reading in the
        two-tower network, and none in the other, as torchvision distributes it.
    lrn_over: "all_maps", or each "tower" apart from the other, as on the authors' two GPUs (the
        paper leaves it open).
    pooling: the published windows are 3x3, of stride 2. The paper's ablation (sec. 3.4) is
        "non_overlapping".
    bias_start: of the biases in conv2, conv4, conv5, fc6 and fc7 (sec. 5: 1). The others start
        at 0.

    Dropout acts on the outputs of fc6 and fc7 (sec. 4.2), in the one-tower network on their inputs.
    Two devices can share the two-tower network, as in the paper (sec. 3.2): see `layers.divided`.
    Raises ValueError for an image of another size, and for an lrn_over without effect.
    """

    regulariser: str = "dropout"
    dropout_scaling: str = "test"
    variant: str = option("two_tower", tuple(VARIANTS))
    image_size: int = option(224, tuple(IMAGE_SIZES))
    width: float = option(1.0, layers.WIDTH)
    lrn: str = option("published", layers.LRN)
    lrn_over: str = option("all_maps", ("all_maps", "tower"))
    pooling: str = option("published", layers.POOLING)
    bias_start: float = option(1.0, layers.NUMBER)
    class_map: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, drop_scale=1.0) -> jax.Array:
        layers.check_size(x, self.image_size, larger=self.class_map)
        self._check_lrn()
        build = self.builder(train, drop_scale)
        maps, groups = VARIANTS[self.variant]
        norm_groups = 2 // layers.parts() if self.lrn_over == "tower" else 1
        published_norm = None
        if self.towers == 2:
            published_norm = functools.partial(layers.alexnet_norm, groups=norm_groups)

        def conv(x, number, size, bias, **options):
            name, i = f"conv{number}", number - 1
            x = build.conv(x, maps[i], size, name, bias=bias, groups=groups[i], **options)
            return build.activate(x, name)

        def norm(x, name):
            return build.response_norm(x, name, published_norm, norm_groups)

        def pool(x, name):
            return build.pool(x, name, "max", 3, 2)

        one = self.bias_start
        size, stride, padding, side = IMAGE_SIZES[self.image_size]
        for _ in range(3):
            side = build.pooled_size(side, 3, 2)
        x = conv(x, 1, size, 0.0, strides=stride, padding=padding)
        x = pool(norm(x, "norm1"), "pool1")
        x = conv(x, 2, 5, one, padding=2)
        x = pool(norm(x, "norm2"), "pool2")
        x = conv(layers.joined(x), 3, 3, 0.0, padding=1)  # the towers meet here and after conv5
        x = conv(x, 4, 3, one, padding=1)
        x = conv(x, 5, 3, one, padding=1)
        x = pool(x, "pool5")
        drop = "output" if self.towers == 2 else "input"
        x = build.hidden(layers.joined(x), 4096, "fc6", drop, window=side, bias_start=one)
        x = build.hidden(layers.joined(x), 4096, "fc7", drop, window=1, bias_start=one)
        logits = layers.joined_output(build.classifier(layers.joined(x), "fc8", window=1))
        return logits if self.class_map else logits[:, 0, 0]

    @property
    def towers(self) -> int:
        """The number of equal parts of conv1's maps that stay apart until conv3."""
        return 2 if self.variant == "two_tower" else 1

    @nn.nowrap
    def _check_lrn(self) -> None:
        if self.variant == "one_tower" and self.lrn_over == "tower":
            raise ValueError(
                "model.lrn_over=tower: the one_tower network has no towers: set"
                " model.lrn_over=all_maps"
            )
        if self.lrn_over == "tower" and self.lrn in ("none", "within_map"):
            raise ValueError(
                f"model.lrn_over=tower has no effect with model.lrn={self.lrn}: set"
                " model.lrn_over=all_maps"
            )
