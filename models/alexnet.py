"""AlexNet, after Krizhevsky, Sutskever, Hinton: "ImageNet Classification with Deep Convolutional
Neural Networks", NIPS 2012, and torchvision's net of that name, which has one tower.

The second is after Krizhevsky 2014, "One weird trick for parallelizing convolutional neural
networks", but not exactly. That paper's footnote gives 64, 192, 384, 384, 256 maps, its text 0.2 %
more parameters than two towers have, which only torchvision's 64, 192, 384, 256, 256 fit (the
footnote's: 1.4 %). Its author's configuration (cuda-convnet2, layers-imagenet-1gpu.cfg) has
torchvision's widths, and LRN behind conv1 and conv2, which torchvision left out.
"""

import functools

import flax.linen as nn
import jax

from models import layers

# Maps of conv1 to conv5, and the groups of each.
VARIANTS = {
    "two_tower": ((96, 256, 384, 384, 256), (1, 2, 1, 2, 2)),
    "one_tower": ((64, 192, 384, 256, 256), (1, 1, 1, 1, 1)),
}
# Side of the image -> padding of conv1. The paper says 224, but only 227, or 224 and padding,
# gives its 55x55 maps.
IMAGE_SIZES = {224: 2, 227: 0}
LRN_OVER = ("all_maps", "tower")


class AlexNet(layers.Net):
    """[batch, image_size, image_size, 3] -> logits [batch, classes].

    Options beside those of `layers.Net`:

    variant: "two_tower" (2012: conv2, conv4 and conv5 in two groups, conv3 sees both towers;
        60,965,224 parameters) or "one_tower" (torchvision's; 61,100,840).
    image_size: 224 (conv1 padded by 2) or 227 (not padded).
    lrn: stands after conv1 and conv2, before their pooling; "published" is the "paper" reading in
        the two-tower net and none in the other, as torchvision distributes it.
    lrn_over: "all_maps", or each "tower" by itself as on the authors' two GPUs (the paper
        leaves it open).
    pooling: published are 3x3 windows of stride 2; the paper's ablation (sec. 3.4) is
        "non_overlapping".
    bias_start: of the biases in conv2, conv4, conv5, fc6 and fc7 (sec. 5: 1); the others 0.
    class_map: whether larger images are allowed, and logits are a map
        [batch, height, width, classes] of the net applied at every place.

    Dropout acts on the outputs of fc6 and fc7 (sec. 4.2), in the one-tower net on their
    inputs. Raises ValueError for an image of another size.
    """

    regulariser: str = "dropout"
    dropout_scaling: str = "test"
    variant: str = "two_tower"
    image_size: int = 224
    lrn_over: str = "all_maps"
    bias_start: float = 1.0
    class_map: bool = False

    @property
    def towers(self) -> int:
        """How many equal parts the maps of conv1 fall into that only conv3 joins again."""
        return 2 if self.variant == "two_tower" else 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, drop_scale=1.0) -> jax.Array:
        layers.check_size(x, self.image_size, larger=self.class_map)
        if self.variant == "one_tower" and self.lrn_over == "tower":
            raise ValueError("model.lrn_over=tower: the one_tower net has no towers: use all_maps")
        if self.lrn_over == "tower" and self.lrn in ("none", "within_map"):
            raise ValueError(f"model.lrn_over=tower: model.lrn={self.lrn} sees no other maps")
        style, head = self.style(), self.head(train, drop_scale)
        maps, groups = VARIANTS[self.variant]

        def conv(x, i, size, stride=1, padding=0, bias=0.0):
            name = f"conv{i}"
            layer = style.conv(
                maps[i - 1], size, name, stride, padding, groups=groups[i - 1], bias=bias
            )
            return style.activate(layer(x), name)

        def norm(x, i):
            name, towers = f"norm{i}", 2 if self.lrn_over == "tower" else 1
            published = functools.partial(style.across_maps, name, groups=towers)
            has_lrn = self.variant == "two_tower"
            return style.normalise(x, name, published if has_lrn else None, towers)

        def pool(x, i):
            return style.pool(x, f"pool{i}", "max", 3, 2)

        one = self.bias_start
        x = pool(norm(conv(x, 1, 11, stride=4, padding=IMAGE_SIZES[self.image_size]), 1), 1)
        x = pool(norm(conv(x, 2, 5, padding=2, bias=one), 2), 2)
        x = conv(x, 3, 3, padding=1)
        x = conv(x, 4, 3, padding=1, bias=one)
        x = pool(conv(x, 5, 3, padding=1, bias=one), 5)
        drop = "output" if self.variant == "two_tower" else "input"
        x = head.hidden(x, 4096, "fc6", window=6, bias=one, drop=drop)
        x = head.hidden(x, 4096, "fc7", window=1, bias=one, drop=drop)
        logits = head.classifier(x, "fc8", window=1)
        return logits if self.class_map else logits[:, 0, 0]
