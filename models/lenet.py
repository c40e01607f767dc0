"""LeNet-5, after LeCun, Bottou, Bengio, Haffner: "Gradient-Based Learning Applied to Document
Recognition", Proc. IEEE 86(11), 1998, sec. II.B and app. A.

As published it has 60,000 trainable parameters and 340,908 connections. The options turn it
into the nets that are often called LeNet-5 today.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
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


INPUT_SHAPE = (32, 32, 1)
SUBSAMPLING = ("trainable", "average", "max")
OUTPUTS = ("rbf", "softmax")
C3 = ("table", "full")


class LeNet5(nn.Module):
    """LeNet-5: [batch, 32, 32, 1] -> logits [batch, classes].

    With the RBF output the logits are the paper's outputs negated: the class is still the
    argmax, and its value is minus the squared distance between F6 and the class's code.

    num_classes: 10 with output "rbf" (there are codes for the digits), any with "softmax".
    subsampling: "trainable" (the paper's), "average" or "max". The squashing function
        follows it only where it is trainable, as usual for each.
    activation: a key of `layers.ACTIVATIONS`; after C1, C3, C5 and F6, and after S2, S4.
    output: "rbf" (the paper's) or "softmax" (a fully connected layer of 10 units).
    c3: "table" (the paper's connections, 1,516 parameters) or "full" (2,416).
    dtype: dtype of the computation; parameters stay float32, logits are float32.

    Raises ValueError for an unknown option, RBF with other than 10 classes, or an input that
    is not 32x32.

    Not in the paper and chosen here: biases start at zero.
    """

    num_classes: int = 10
    subsampling: str = "trainable"
    activation: str = "scaled_tanh"
    output: str = "rbf"
    c3: str = "table"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        del train  # nothing in it differs in training
        if x.shape[1:3] != (32, 32):
            raise ValueError(f"LeNet-5 takes 32x32 images, not {x.shape[1]}x{x.shape[2]}")
        if self.output == "rbf" and self.num_classes != 10:
            raise ValueError(
                f"model.output=rbf has codes for the 10 digits, not for {self.num_classes}"
                " classes: use model.output=softmax"
            )
        squash = layers.ACTIVATIONS[self.activation]
        init = layers.uniform_fan_in()

        def conv(features, name):
            return layers.Conv(features, (5, 5), kernel_init=init, dtype=self.dtype, name=name)

        def subsample(x, name):
            if self.subsampling == "trainable":
                return squash(layers.Subsampling(dtype=self.dtype, name=name)(x))
            return layers.Pool(self.subsampling, name=name)(x)

        x = squash(conv(6, "c1")(x))
        x = subsample(x, "s2")
        if self.c3 == "table":
            x = layers.TableConv(C3_TABLE, (5, 5), dtype=self.dtype, name="c3")(x)
        else:
            x = conv(16, "c3")(x)
        x = subsample(squash(x), "s4")
        x = squash(conv(120, "c5")(x))
        x = x.reshape(x.shape[0], 120)
        x = squash(layers.Dense(84, kernel_init=init, dtype=self.dtype, name="f6")(x))
        if self.output == "rbf":
            codes = tuple(map(tuple, rbf_codes().tolist()))
            return layers.RBF(codes, name="output")(x)
        dense = layers.Dense(self.num_classes, kernel_init=init, dtype=self.dtype, name="output")
        return dense(x).astype(jnp.float32)
