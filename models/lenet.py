"""LeNet-5, after LeCun, Bottou, Bengio, Haffner: "Gradient-Based Learning Applied to Document
Recognition", Proc. IEEE 86(11), 1998, sec. II.B and app. A.

As published it has 60,000 trainable parameters and 340,908 connections. The options turn it
into the nets that are often called LeNet-5 today.
"""

import flax.linen as nn
import jax
import numpy as np

from models import layers

# Table I: the S2 maps that each of the 16 C3 maps is connected to.
C3_TABLE = (
    *((0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5)),
    *((0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5)),
    *((0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5)),
    (0, 1, 2, 3, 4, 5),
)

# Fig. 3: the digits' stylised images, 7 wide and 12 high, a byte a row, most significant bit
# left. The odd bar on top of 0, 2, 4 and 5 is the paper's: it tells them from O, Z, u and S.
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

    Row-major 12x7 pictures, +1 is ink.
    """
    rows = np.array([list(bytes.fromhex(digit)) for digit in _DIGIT_ROWS], np.uint8)
    bits = np.unpackbits(rows[..., None], axis=-1)[..., 1:]  # a row is the low 7 bits
    return (2 * bits.reshape(10, 84).astype(np.int8)) - 1


SUBSAMPLING = ("trainable", "average", "max")
OUTPUTS = ("rbf", "softmax")
C3 = ("table", "full")


class LeNet5(layers.Net):
    """LeNet-5: [batch, 32, 32, 1] -> logits [batch, classes].

    With the RBF output the logits are the paper's outputs negated: the class is still the
    argmax, and its value is minus the squared distance between F6 and the class's code.
    Options beside those of `layers.Net`:

    num_classes: 10 with output "rbf" (there are codes for the digits), any with "softmax".
    subsampling: "trainable" (the paper's), "average" or "max". The squashing function
        follows it only where it is trainable, as usual for each.
    activation: after C1, C3, C5 and F6, and after S2, S4.
    output: "rbf" (the paper's) or "softmax" (a fully connected layer of 10 units).
    c3: "table" (the paper's connections, 1,516 parameters) or "full" (2,416).

    A regulariser acts on F6; the paper has none. Raises ValueError for RBF with other than 10
    classes, or an input that is not 32x32. Not in the paper and chosen here: biases start at 0.
    """

    num_classes: int = 10
    activation: str = "scaled_tanh"
    initializer: str = "lecun1998"
    subsampling: str = "trainable"
    output: str = "rbf"
    c3: str = "table"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, drop_scale=1.0) -> jax.Array:
        if x.shape[1:3] != (32, 32):
            raise ValueError(f"LeNet-5 takes 32x32 images, not {x.shape[1]}x{x.shape[2]}")
        if self.output == "rbf" and self.num_classes != 10:
            raise ValueError(
                f"model.output=rbf has codes for the 10 digits, not for {self.num_classes}"
                " classes: use model.output=softmax"
            )
        style, head = self.style(), self.head(train, drop_scale)

        def subsample(x, name):
            if self.subsampling == "trainable":
                layer = layers.Subsampling(
                    pieces=style.pieces, initializer=style.init, dtype=self.dtype, name=name
                )
                return style.activate(layer(x), name)
            return style.pool(x, name, self.subsampling, 2, 2)

        if self.subsampling == "trainable" and self.pooling != "published":
            raise ValueError(
                f"model.pooling={self.pooling}: trainable subsampling does not overlap: set"
                " model.subsampling to max or average"
            )
        x = style.normalise(style.activate(style.conv(6, 5, "c1")(x), "c1"), "norm1")
        x = subsample(x, "s2")
        if self.c3 == "table":
            table = tuple(inputs for inputs in C3_TABLE for _ in range(style.pieces))
            c3 = layers.TableConv(
                table, (5, 5), initializer=style.init, dtype=self.dtype, name="c3"
            )
        else:
            c3 = style.conv(16, 5, "c3")
        x = subsample(style.activate(c3(x), "c3"), "s4")
        x = style.activate(style.conv(120, 5, "c5")(x), "c5")
        x = head.hidden(x, 84, "f6")
        if self.output == "rbf":
            codes = tuple(map(tuple, rbf_codes().tolist()))
            return layers.RBF(codes, name="output")(x)
        return head.classifier(x, "output")
