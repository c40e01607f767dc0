"""What every network of the canon shares: the options that a config sets for any of them.

`Net` is the base class with these options as fields, `Style` what its convolutional layers need
of them, `Head` makes its fully connected layers and the regulariser that goes with them.
"""

import dataclasses
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.layers import activations
from models.layers.convolution import Conv, FullyConnected
from models.layers.dropping import DropConnect, Dropout, Standout
from models.layers.initializers import Init
from models.layers.normalization import (
    LRN_VARIANTS,
    BatchNorm,
    LocalResponseNorm,
    LocalResponseNormWithinMap,
)
from models.layers.pooling import GlobalAveragePool, Pool, output_size

LRN = ("published", "none", *LRN_VARIANTS, "within_map")
POOLING = ("published", "max", "average", "overlapping", "non_overlapping")


@dataclasses.dataclass(frozen=True)
class Style:
    """How layers compute, start and end. Its methods make linen modules of the calling one."""

    dtype: jnp.dtype
    activation: str
    pieces: int
    init: Init
    lrn: str
    pooling: str
    batch_norm_axis: str | None

    def width(self, features: int) -> int:
        """Channels to make so that `features` are left by the activation (maxout: more)."""
        return features * self.pieces if self.activation == "maxout" else features

    def conv(
        self,
        features: int,
        size: int,
        name: str,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        bias: float | None = 0.0,
        init: Init | None = None,
    ) -> Conv:
        """A convolution whose output is to be activated. bias: its start; None: no bias."""
        init = init or self.init

        def kernel_init(key, shape, dtype=jnp.float32):
            fan_out = math.prod(shape) // shape[-2] // groups
            return init.draw(key, shape, math.prod(shape[:-1]), fan_out, dtype)

        return Conv(
            self.width(features),
            (size, size),
            strides=stride,
            padding=padding,
            feature_group_count=groups,
            use_bias=bias is not None,
            kernel_init=kernel_init,
            bias_init=nn.initializers.constant(bias or 0.0),
            dtype=self.dtype,
            name=name,
        )

    def activate(self, x: jax.Array, name: str) -> jax.Array:
        """The activation behind layer `name`, called as `activations.layer_name` says."""
        own = activations.layer_name(name, self.activation)
        return activations.Activation(self.activation, self.pieces, name=own)(x)

    def normalise(
        self,
        x: jax.Array,
        name: str,
        published: Callable[[], nn.Module] | None = None,
        groups: int = 1,
    ) -> jax.Array:
        """Local response normalisation where the net has its place for it.

        published: makes the linen module that the net has there; None where it has none. groups:
        towers, see `LocalResponseNorm`.
        """
        if self.lrn == "published":
            return published()(x) if published else x
        if self.lrn == "none":
            return x
        if self.lrn == "within_map":
            return LocalResponseNormWithinMap(name=name)(x)
        return self.across_maps(name, self.lrn, groups)(x)

    def across_maps(self, name: str, variant: str = "paper", groups: int = 1) -> LocalResponseNorm:
        """AlexNet's normalisation over five maps, in one reading of `LRN_VARIANTS`."""
        k, alpha = LRN_VARIANTS[variant]
        return LocalResponseNorm(5, alpha, k=k, groups=groups, name=name)

    def pool(
        self,
        x: jax.Array,
        name: str,
        kind: str,
        window: int,
        stride: int,
        padding: int = 0,
        ceil: bool = False,
    ) -> jax.Array:
        """Pooling as published, given by the arguments, or as the option `pooling` changes it."""
        return Pool(*self._pooling(kind, window, stride, padding, ceil), name=name)(x)

    def pooled(self, size: int, window: int, stride: int, padding=0, ceil=False) -> int:
        """How many pixels of an axis `pool` leaves."""
        _, *geometry = self._pooling("max", window, stride, padding, ceil)
        return output_size(size, *geometry)

    def _pooling(self, kind, window, stride, padding, ceil) -> tuple:
        if self.pooling in ("max", "average"):
            kind = self.pooling
        elif self.pooling == "overlapping" and window == stride > 1:
            window, ceil = stride + 1, True  # as many windows as without
        elif self.pooling == "non_overlapping" and window > stride > 1:
            window, padding = stride, 0
        return kind, window, stride, padding, ceil

    def batch_norm(self, name: str, train: bool, **options) -> BatchNorm:
        return BatchNorm(
            use_running_average=not train,
            axis_name=self.batch_norm_axis,
            dtype=self.dtype,
            name=name,
            **options,
        )


class Net(nn.Module):
    """[batch, height, width, channels] -> float32 logits [batch, num_classes].

    `__call__(x, train=False, drop_scale=1.0)`; drop_scale multiplies every drop rate.

    num_classes: of the logits.
    dtype: of the computation; parameters, statistics and logits are float32.
    activation: a name of `activations.ACTIVATIONS`. maxout_pieces: affine pieces a unit, for
        "maxout" (Goodfellow 2013).
    initializer: a name of `initializers.RULES`. initializer_scale: for gaussian and uniform.
    regulariser: of the layers that the net drops in: "none", "dropout", "dropconnect" or
        "standout". drop_rate: share dropped (not for standout, whose rates follow from its
        units by standout_alpha and standout_beta).
    dropout_scaling: "train" | "test", see `Dropout`.
    dropconnect_inference, dropconnect_samples: see `DropConnect`.
    lrn: local response normalisation: "published" (where and as the net has it), "none", a reading
        of AlexNet's among `LRN_VARIANTS`, or "within_map" (cuda-convnet's, 3x3 pixels). It
        stands where the net has it, else behind the activation of the first layer.
    pooling: "published", "max" or "average" for all local pooling; "overlapping" makes windows one
        pixel larger than their stride, "non_overlapping" as large.
    batch_norm_axis: axis of devices over which BatchNorm normalises; None: each its own.
    """

    num_classes: int = 1000
    dtype: jnp.dtype = jnp.float32
    activation: str = "relu"
    maxout_pieces: int = 2
    initializer: str = "gaussian"
    initializer_scale: float = 0.01
    regulariser: str = "none"
    drop_rate: float = 0.5
    dropout_scaling: str = "train"
    dropconnect_inference: str = "gaussian"
    dropconnect_samples: int = 1000
    standout_alpha: float = 1.0
    standout_beta: float = 0.0
    lrn: str = "published"
    pooling: str = "published"
    batch_norm_axis: str | None = None

    @nn.nowrap
    def style(self) -> Style:
        slope = activations.NEGATIVE_SLOPES.get(self.activation, 0.0)
        return Style(
            dtype=self.dtype,
            activation=self.activation,
            pieces=self.maxout_pieces if self.activation == "maxout" else 1,
            init=Init(self.initializer, self.initializer_scale, slope),
            lrn=self.lrn,
            pooling=self.pooling,
            batch_norm_axis=self.batch_norm_axis,
        )

    @nn.nowrap
    def head(self, train: bool, drop_scale) -> "Head":
        return Head(self, self.style(), train, drop_scale)


@dataclasses.dataclass(frozen=True)
class Head:
    """Makes a net's fully connected layers, each with its share of the regulariser.

    Dropout acts on a layer's input or output, DropConnect on its weights, standout on its
    output (or input, for the layers whose input is dropped).
    """

    net: Net
    style: Style
    train: bool
    drop_scale: float | jax.Array

    def hidden(
        self,
        x: jax.Array,
        features: int,
        name: str,
        window: int | None = None,
        bias: float = 0.0,
        drop: str = "output",
        rate: float | None = None,
        scaling: str | None = None,
        init: Init | None = None,
    ) -> jax.Array:
        """A fully connected layer and its activation.

        drop: what dropout acts on: its "output", its "input" or "nothing". rate, scaling: of
        dropping, if not the net's.
        """
        net = self.net
        if net.regulariser == "dropconnect" and drop != "nothing":
            return self._drop_connect(
                x, self.style.width(features), name, window, bias, init, rate, net.activation
            )
        if drop == "input":
            x = self.drop(x, name, rate=rate, scaling=scaling)
        pre = self._linear(x, self.style.width(features), name, window, bias, init)
        y = self.style.activate(pre, name)
        return self.drop(y, name, pre, rate, scaling) if drop == "output" else y

    def classifier(
        self,
        x: jax.Array,
        name: str,
        window: int | None = None,
        drop: str = "nothing",
        rate: float | None = None,
        init: Init | None = None,
    ) -> jax.Array:
        """The last layer: float32 logits. drop: "input" or "nothing"; rate as in `hidden`."""
        classes = self.net.num_classes
        if self.net.regulariser == "dropconnect" and drop == "input":
            y = self._drop_connect(x, classes, name, window, 0.0, init, rate, None)
        else:
            x = self.drop(x, name, rate=rate) if drop == "input" else x
            y = self._linear(x, classes, name, window, 0.0, init)
        return y.astype(jnp.float32)

    def pooled_classifier(
        self, x: jax.Array, pool: str, name: str, window: int | None, **options
    ) -> jax.Array:
        """Average pooling `pool` over the whole map and the classifier, as of GoogLeNet and ResNet.

        window: None: logits are [batch, classes]. Otherwise a map of them [batch, h, w, classes],
        of which each comes from the mean over window x window pixels. Other options: as in
        `classifier`.
        """
        if window is None:
            return self.classifier(GlobalAveragePool(name=pool)(x), name, **options)
        if min(x.shape[1:3]) < window:
            raise ValueError(
                f"the image is too small: {pool} needs a {window}x{window} map, and gets"
                f" {x.shape[1]}x{x.shape[2]}"
            )
        x = Pool("average", window, 1, name=pool)(x)
        logits = self.classifier(x.reshape(-1, x.shape[-1]), name, **options)
        return logits.reshape(*x.shape[:3], -1)

    def drop(
        self, x: jax.Array, name: str, pre: jax.Array | None = None, rate=None, scaling=None
    ) -> jax.Array:
        """x under dropout or standout, as the net has it. pre: x before its activation. rate,
        scaling: as in `hidden`."""
        net = self.net
        if net.regulariser == "dropout":
            rate = net.drop_rate if rate is None else rate
            dropout = Dropout(rate, scaling or net.dropout_scaling, name=f"{name}_dropout")
            return dropout(x, self.train, self.drop_scale)
        if net.regulariser == "standout":
            # A maxout unit has several inputs: its output is the one that won.
            pre = x if pre is None or pre.shape != x.shape else pre
            return Standout(net.standout_alpha, net.standout_beta, name=f"{name}_standout")(
                x, pre, self.train, self.drop_scale
            )
        return x

    def _linear(self, x, features, name, window, bias, init):
        return FullyConnected(
            features,
            window,
            initializer=init or self.style.init,
            bias_start=bias,
            dtype=self.style.dtype,
            name=name,
        )(x)

    def _drop_connect(self, x, features, name, window, bias, init, rate, activation):
        return DropConnect(
            features,
            window,
            initializer=init or self.style.init,
            bias_start=bias,
            dtype=self.style.dtype,
            rate=self.net.drop_rate if rate is None else rate,
            activation=activation,
            pieces=self.style.pieces,
            inference=self.net.dropconnect_inference,
            samples=self.net.dropconnect_samples,
            name=name,
        )(x, self.train, self.drop_scale)


def check_size(x: jax.Array, side: int, larger: bool = False) -> None:
    """Raises ValueError unless images [b, h, w, c] are side x side (or at least, if `larger`)."""
    height, width = x.shape[1:3]
    if min(height, width) < side:
        raise ValueError(f"the image is too small: {height}x{width}, the net takes {side}x{side}")
    if not larger and (height, width) != (side, side):
        raise ValueError(
            f"the image is {height}x{width}, and the net takes {side}x{side} (larger ones only for"
            " a map of logits: module.clone(class_map=True))"
        )
