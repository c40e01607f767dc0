"""VGG, after Simonyan, Zisserman: "Very Deep Convolutional Networks for Large-Scale Image
Recognition", ICLR 2015: the nets A to E of its table 1, and the shallow one of sec. 4.1.
"""

import functools

import flax.linen as nn
import jax

from models import layers

# Table 1: the kernel sides of each block's convolutions; blocks have these maps. "B-5x5" is B with
# one 5x5 in place of each two 3x3, padded by 2, to keep the resolution as the others do (sec. 4.1).
MAPS = (64, 128, 256, 512, 512)
VARIANTS = {
    "A": ((3,), (3,), (3, 3), (3, 3), (3, 3)),
    "A-LRN": ((3,), (3,), (3, 3), (3, 3), (3, 3)),
    "B": ((3, 3), (3, 3), (3, 3), (3, 3), (3, 3)),
    "C": ((3, 3), (3, 3), (3, 3, 1), (3, 3, 1), (3, 3, 1)),
    "D": ((3, 3), (3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)),
    "E": ((3, 3), (3, 3), (3, 3, 3, 3), (3, 3, 3, 3), (3, 3, 3, 3)),
    "B-5x5": ((5,), (5,), (5,), (5,), (5,)),
}
STRIDE = 32  # of the five poolings together


class VGG(layers.Net):
    """[batch, image_size, image_size, 3] -> logits [batch, classes].

    Options beside those of `layers.Net`:

    variant: a key of `VARIANTS`. "A-LRN" has one LRN, with AlexNet's constants, behind conv1_1.
    image_size: 224, as published, or another multiple of 32, for which fc6 has a window of
        image_size / 32 on each side in place of 7.
    lrn: stands behind conv1_1; published are AlexNet's constants for A-LRN, else none.
    class_map: whether larger images are allowed, and logits are a map
        [batch, height, width, classes] of the net applied at every place (sec. 3.2); at image_size
        the map has one cell, equal to the vector.

    Dropout acts on the outputs of fc6 and fc7. Raises ValueError for an image of another size.
    """

    regulariser: str = "dropout"
    variant: str = "D"
    image_size: int = 224
    class_map: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, drop_scale=1.0) -> jax.Array:
        layers.check_size(x, self.image_size, larger=self.class_map)
        style, head = self.style(), self.head(train, drop_scale)
        has_lrn = self.variant == "A-LRN"
        for block, (maps, sizes) in enumerate(zip(MAPS, VARIANTS[self.variant], strict=True), 1):
            for number, size in enumerate(sizes, 1):
                name = f"conv{block}_{number}"
                x = style.conv(maps, size, name, padding=size // 2)(x)
                x = style.activate(x, name)
                if name == "conv1_1":
                    published = functools.partial(style.across_maps, "norm1")
                    x = style.normalise(x, "norm1", published if has_lrn else None)
            x = style.pool(x, f"pool{block}", "max", 2, 2)
        x = head.hidden(x, 4096, "fc6", window=self.image_size // STRIDE)
        x = head.hidden(x, 4096, "fc7", window=1)
        logits = head.classifier(x, "fc8", window=1)
        return logits if self.class_map else logits[:, 0, 0]
