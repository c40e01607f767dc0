"""LeNet-5, after LeCun, Bottou, Bengio, Haffner: "Gradient-Based Learning Applied to Document
Recognition", Proc. IEEE 86(11), 1998, sec. II.B and app. A.

As published it has 60,000 trainable parameters and 340,908 connections. Options give the networks
that are often called LeNet-5 today.
"""

import flax.linen as nn
import jax
import numpy as np

from models import layers
from models.layers import option

# Table I: the maps of S2 that each of the 16 maps of C3 is connected to.
C3_TABLE = (
    *((0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5)),
    *((0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5)),
    *((0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5)),
    (0, 1, 2, 3, 4, 5),
)

# Fig. 3: stylised images of the digits, 7 pixels wide and 12 high. Each byte is a row; its most
# significant bit is on the left. The bar on top of 0, 2, 4 and 5 is the paper's: it distinguishes
# them from O, Z, u and S.
_DIGIT_ROWS = (
    "3e001c3663636363361c0000",
    "0c1c3c0c0c0c0c0c0c3f0000",
    "3e003e6343061c30607f0000",
    "7f03060c1e030303633e0000",
    "3e00003333736363673f0303",
    "3e007f60603c1e03633e0000",
    "1e3060607e736363733e0000",
    "7f0303060c0c181818180000",
    "3e6363633e636363633e0000",
    "3e676363673f0303063c0000",
)


def rbf_codes() -> np.ndarray:
    """The fixed RBF centres of the ten digits (LeCun 1998, fig. 3): int8 [10, 84] of +-1.

    Each code is a picture of 12x7 pixels, row by row; +1 is ink.
    """
    rows = np.array([list(bytes.fromhex(digit)) for digit in _DIGIT_ROWS], np.uint8)
    bits = np.unpackbits(rows[..., None], axis=-1)[..., 1:]  # a row is the low 7 bits
    return (2 * bits.reshape(10, 84).astype(np.int8)) - 1


class LeNet5(layers.Net):
    """LeNet-5: [batch, 32, 32, 1] -> logits [batch, classes].

    With the RBF output the logits are the paper's outputs negated: the class is the argmax, and its
    logit is minus the squared distance between F6 and the code of the class.
    Options in addition to those of `layers.Net`:

    num_classes: 10 with output "rbf" (there are codes for the digits), any with "softmax".
    subsampling: "trainable" (the paper's), "average" or "max". The activation follows it only where
        it is trainable, as usual for each.
    pooling: "overlapping" makes the windows of max and average subsampling 3x3, of stride 2.
    activation: after C1, C3, C5 and F6, and after trainable S2, S4.
    output: "rbf" (the paper's) or "softmax" (a fully connected layer of 10 units).
    c3: "table" (the paper's connections, 1,516 parameters) or "full" (2,416).

    A regulariser acts on F6; the paper has none. Raises ValueError for RBF with other than 10
    classes, and for an input that is not 32x32. Biases start at 0, on which the paper is silent.
    """

    num_classes: int = 10
    activation: str = "scaled_tanh"
    initializer: str = "lecun1998"
    subsampling: str = option("trainable", ("trainable", "average", "max"))
    pooling: str = option("published", ("published", "overlapping"))
    output: str = option("rbf", ("rbf", "softmax"))
    c3: str = option("table", ("table", "full"))

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, drop_scale=1.0) -> jax.Array:
        self._check(x)
        build = self.builder(train, drop_scale)

        def conv(x, maps, name):
            return build.activate(build.conv(x, maps, 5, name), name)

        def subsample(x, name):
            if self.subsampling != "trainable":
                return build.pool(x, name, self.subsampling, 2, 2)
            layer = layers.Subsampling(
                pieces=build.pieces, initializer=build.init, dtype=self.dtype, name=name
            )
            return build.activate(layer(x), name)

        def conv_by_table(x, name):
            table = tuple(inputs for inputs in C3_TABLE for _ in range(build.pieces))
            layer = layers.TableConv(
                table, (5, 5), initializer=build.init, dtype=self.dtype, name=name
            )
            return build.activate(layer(x), name)

        x = conv(x, 6, "c1")
        x = subsample(x, "s2")
        x = conv_by_table(x, "c3") if self.c3 == "table" else conv(x, 16, "c3")
        x = subsample(x, "s4")
        x = conv(x, 120, "c5")
        x = build.hidden(x, 84, "f6")
        if self.output == "rbf":
            codes = tuple(map(tuple, rbf_codes().tolist()))
            return layers.RBF(codes, name="output")(x)
        return build.classifier(x, "output")

    @nn.nowrap
    def _check(self, x: jax.Array) -> None:
        if x.shape[1:3] != (32, 32):
            raise ValueError(f"LeNet-5 takes 32x32 images, not {x.shape[1]}x{x.shape[2]}")
        if self.output == "rbf" and self.num_classes != 10:
            raise ValueError(
                f"model.output=rbf has codes for the 10 digits, not for {self.num_classes}"
                " classes: use model.output=softmax"
            )
        if self.subsampling == "trainable" and self.pooling != "published":
            raise ValueError(
                f"model.pooling={self.pooling}: trainable subsampling does not overlap: set"
                " model.subsampling to max or average"
            )
