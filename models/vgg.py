"""VGG, after Simonyan, Zisserman: "Very Deep Convolutional Networks for Large-Scale Image
Recognition", ICLR 2015: the networks A to E of its table 1, and the shallow one of sec. 4.1.
"""

import flax.linen as nn
import jax

from models import layers
from models.layers import option

# Table 1: the kernel sizes of each block's convolutions, and the maps of each block. "B-5x5" is B
# with one 5x5 in place of each two 3x3. It is padded by 2, to keep the resolution (sec. 4.1).
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


class VGG(layers.Net):
    """[batch, image_size, image_size, 3] -> logits [batch, classes].

    Options in addition to those of `layers.Net`:

    variant: a key of `VARIANTS`. "A-LRN" has one LRN, with AlexNet's constants, after conv1_1.
    image_size: 224, as published, or another multiple of 32: fc6 then has windows of
        image_size / 32 on each side in place of 7.
    width: factor on the maps and on the units of fc6 and fc7, see `layers.widened`.
    lrn: acts after conv1_1. "published" is AlexNet's for A-LRN, and none for the others.
    pooling: the published windows are 2x2, of stride 2.

    Dropout acts on the outputs of fc6 and fc7. Raises ValueError for an image of another size.
    """

    regulariser: str = "dropout"
    variant: str = option("D", tuple(VARIANTS))
    image_size: int = option(224, layers.MULTIPLE_OF_32)
    width: float = option(1.0, layers.WIDTH)
    lrn: str = option("published", layers.LRN)
    pooling: str = option("published", layers.POOLING)
    class_map: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, drop_scale=1.0) -> jax.Array:
        layers.check_size(x, self.image_size, larger=self.class_map)
        build = self.builder(train, drop_scale)
        published_norm = layers.alexnet_norm if self.variant == "A-LRN" else None
        for block, (maps, sizes) in enumerate(zip(MAPS, VARIANTS[self.variant], strict=True), 1):
            for number, size in enumerate(sizes, 1):
                name = f"conv{block}_{number}"
                x = build.activate(build.conv(x, maps, size, name, padding=size // 2), name)
                if name == "conv1_1":
                    x = build.response_norm(x, "norm1", published_norm)
            x = build.pool(x, f"pool{block}", "max", 2, 2)
        x = build.hidden(x, 4096, "fc6", window=self.image_size // 32)  # five poolings halve it
        x = build.hidden(x, 4096, "fc7", window=1)
        logits = build.classifier(x, "fc8", window=1)
        return logits if self.class_map else logits[:, 0, 0]
