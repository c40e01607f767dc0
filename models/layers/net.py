"""`Net`: the base class of every network, with the options that every network has."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.layers.builder import Builder
from models.layers.options import shared_option


class Net(nn.Module):
    """[batch, height, width, channels] -> float32 logits [batch, num_classes].

    Call it as `network(x, train=False, drop_scale=1.0)`. drop_scale multiplies every drop rate.

    num_classes: number of classes.
    dtype: type of the computation. Parameters, statistics and logits are float32.
    device_axis: name of the axis of devices, for BatchNorm across devices.
    fixed_statistics: names of BatchNorm layers that normalise in training as in evaluation, with
        their running statistics, and do not change them.

    `configs.schema` explains the other options, which every network has. A subclass adds its own
    options with `option`. Its docstring states where the regulariser is applied. Options of several
    networks: `lrn`, `pooling`, `batch_norm` and `width`, see `Builder`.

    class_map, of some networks: the network is applied at every place of a larger image, and the
        logits are a map [batch, height, width, classes] (Simonyan & Zisserman 2015, sec. 3.2). For
        an image of `image_size` the map has one cell, which is equal to the usual logits.
    """

    num_classes: int = 1000
    dtype: jnp.dtype = jnp.float32
    device_axis: str = "batch"
    fixed_statistics: tuple[str, ...] = ()
    activation: str = shared_option("activation")
    maxout_pieces: int = shared_option("maxout_pieces")
    initializer: str = shared_option("initializer")
    initializer_scale: float = shared_option("initializer_scale")
    regulariser: str = shared_option("regulariser")
    drop_rate: float = shared_option("drop_rate")
    dropout_scaling: str = shared_option("dropout_scaling")
    dropconnect_inference: str = shared_option("dropconnect_inference")
    dropconnect_samples: int = shared_option("dropconnect_samples")
    standout_alpha: float = shared_option("standout_alpha")
    standout_beta: float = shared_option("standout_beta")

    @nn.nowrap
    def builder(self, train: bool, drop_scale: float | jax.Array = 1.0) -> Builder:
        """A `Builder` with this network's options. train, drop_scale: arguments of the call."""
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

    larger: True if larger images are allowed.
    """
    height, width = x.shape[1:3]
    if min(height, width) < side:
        raise ValueError(
            f"the image is too small: it is {height}x{width}, and the network takes {side}x{side}"
        )
    if not larger and (height, width) != (side, side):
        raise ValueError(
            f"the image is {height}x{width}, and the network takes {side}x{side} (larger"
            " images only for a map of logits: module.clone(class_map=True))"
        )
