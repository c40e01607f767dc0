"""`Net`: the base class of every network, with the options that every network has."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.layers import options
from models.layers.activations import ACTIVATIONS
from models.layers.builder import Builder
from models.layers.dropping import INFERENCES, REGULARISERS, SCALINGS
from models.layers.initializers import RULES
from models.layers.options import option


class Net(nn.Module):
    """[batch, height, width, channels] -> float32 logits [batch, num_classes].

    Called as `net(x, train=False, drop_scale=1.0)`; drop_scale multiplies every drop rate.

    num_classes: number of classes.
    dtype: of the computation. Parameters, statistics and logits are float32.
    device_axis: name of the axis of devices, for BatchNorm across devices.

    Options (a subclass adds its own in the same way):

    activation: a name of `ACTIVATIONS`.
    maxout_pieces: affine pieces of each unit, for activation "maxout" (Goodfellow 2013).
    initializer: a name of `RULES`.
    initializer_scale: the deviation of "gaussian", the bound of "uniform".
    regulariser: "none", "dropout", "dropconnect" or "standout". Each network says where it acts.
    drop_rate: share that dropout and DropConnect drop.
    dropout_scaling: "train" or "test", see `Dropout`.
    dropconnect_inference, dropconnect_samples: see `DropConnect`.
    standout_alpha, standout_beta: see `Standout`.
    """

    num_classes: int = 1000
    dtype: jnp.dtype = jnp.float32
    device_axis: str = "batch"
    activation: str = option("relu", ACTIVATIONS)
    maxout_pieces: int = option(2, options.PIECES)
    initializer: str = option("gaussian", RULES)
    initializer_scale: float = option(0.01, options.POSITIVE)
    regulariser: str = option("none", REGULARISERS)
    drop_rate: float = option(0.5, options.RATE)
    dropout_scaling: str = option("train", SCALINGS)
    dropconnect_inference: str = option("gaussian", INFERENCES)
    dropconnect_samples: int = option(1000, options.COUNT)
    standout_alpha: float = option(1.0, options.NUMBER)
    standout_beta: float = option(0.0, options.NUMBER)

    @nn.nowrap
    def builder(self, train: bool, drop_scale: float | jax.Array = 1.0) -> Builder:
        """Applies layers as the options say. train, drop_scale: as the network is called."""
        return Builder(
            self,
            train,
            drop_scale,
            pieces=self.maxout_pieces if self.activation == "maxout" else 1,
            drop_rate=self.drop_rate,
            dropout_scaling=self.dropout_scaling,
        )


def check_size(x: jax.Array, side: int, larger: bool = False) -> None:
    """Raises ValueError unless images [batch, height, width, channels] are side x side.

    larger: larger images are allowed, too.
    """
    height, width = x.shape[1:3]
    if min(height, width) < side:
        raise ValueError(
            f"the image is too small: {height}x{width}, the network takes {side}x{side}"
        )
    if not larger and (height, width) != (side, side):
        raise ValueError(
            f"the image is {height}x{width}, and the network takes {side}x{side} (larger"
            " images only for a map of logits: module.clone(class_map=True))"
        )
