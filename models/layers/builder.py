"""`Builder` applies layers with the options of a network."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.layers import activations, division
from models.layers.convolution import Conv, FullyConnected
from models.layers.dropping import DropConnect, Dropout, Standout
from models.layers.initializers import Init
from models.layers.normalization import (
    LRN_VARIANTS,
    BatchNorm,
    LocalResponseNormWithinMap,
    alexnet_norm,
)
from models.layers.pooling import GlobalAveragePool, Pool

BATCH_NORM = ("per_device", "across_devices")
LRN = ("published", "none", *LRN_VARIANTS, "within_map")
POOLING = ("published", "max", "average", "overlapping", "non_overlapping")


def widened(features: int, width: float) -> int:
    """The number of maps or units that a network of this width has in place of `features`.

    It is the nearest even number, and at least 2, so that AlexNet's two towers can share it.
    """
    return features if width == 1 else max(2, 2 * round(features * width / 2))


@dataclasses.dataclass(frozen=True)
class Builder:
    """Each method takes an array, applies a layer called `name` to it, and returns the result.

    A layer becomes a child of the linen module whose `__call__` is running. Therefore a `Builder`
    can be passed to blocks. Before a maxout activation, a layer computes `pieces` times the given
    number of features, and maxout reduces them to the given number.

    If the network has the option `width`, convolutions and hidden layers have `widened(features,
    width)` features in place of the given number. Classifiers have one output for each class. If
    devices share the network (`division`), each computes its part of these features.

    network: the network whose options are used.
    train, drop_scale: arguments of the network's call.
    pieces, drop_rate, dropout_scaling: options of the network. `dataclasses.replace` makes a
        Builder for layers with other values.
    """

    network: nn.Module
    train: bool
    drop_scale: float | jax.Array
    pieces: int
    drop_rate: float
    dropout_scaling: str

    @property
    def init(self) -> Init:
        """The rule for initial weights."""
        network = self.network
        slope = activations.NEGATIVE_SLOPES.get(network.activation, 0.0)
        return Init(network.initializer, network.initializer_scale, slope)

    def conv(
        self,
        x: jax.Array,
        features: int,
        size: int,
        name: str,
        *,
        bias: float | None = 0.0,
        init: Init | None = None,
        activated: bool = True,
        groups: int = 1,
        **options: Any,
    ) -> jax.Array:
        """A convolution with windows of size x size: [b, h, w, c] -> [b, h', w', features].

        bias: initial value of the biases; None: no biases. init: rule for the weights; by default
        the network's. activated: whether an activation follows. options: `Conv`'s strides, padding.
        """
        features = self._widened(features)
        return Conv(
            features * self.pieces if activated else features,
            (size, size),
            feature_group_count=max(1, groups // division.parts()),
            use_bias=bias is not None,
            kernel_init=functools.partial(init or self.init, groups=groups),
            bias_init=nn.initializers.constant(bias or 0.0),
            dtype=self.network.dtype,
            name=name,
            **options,
        )(x)

    def _widened(self, features: int) -> int:
        return widened(features, getattr(self.network, "width", 1.0)) // division.parts()

    def activate(self, x: jax.Array, name: str, shortcut: jax.Array | None = None) -> jax.Array:
        """The activation of x, or of x + shortcut. name: the layer that x is the output of."""
        name = activations.layer_name(name, self.network.activation)
        return activations.Activation(self.network.activation, self.pieces, name=name)(x, shortcut)

    def batch_norm(self, x: jax.Array, name: str, **options: Any) -> jax.Array:
        """Batch normalisation over the images that the network's option `batch_norm` says.

        "per_device": each device normalises its images; "across_devices": those of all devices.
        options: of `BatchNorm`.
        """
        across = self.network.batch_norm == "across_devices"
        layer = BatchNorm(
            axis_name=self.network.device_axis if across else None,
            dtype=self.network.dtype,
            name=name,
            **options,
        )
        is_fixed = "/".join(layer.path) in self.network.fixed_statistics
        return layer(x, use_running_average=is_fixed or not self.train)

    def response_norm(
        self,
        x: jax.Array,
        name: str,
        published: Callable[..., nn.Module] | None = None,
        groups: int = 1,
    ) -> jax.Array:
        """Local response normalisation as the network's option `lrn` says.

        "published": as in the published network; "none"; a name of `LRN_VARIANTS`: AlexNet's over
        five maps, in that interpretation; "within_map": cuda-convnet's over 3x3 pixels.

        published: constructor of the published layer; None if the network has no such layer here.
        groups: number of groups of maps that are normalised separately.
        """
        lrn = self.network.lrn
        if lrn == "none" or (lrn == "published" and published is None):
            return x
        if lrn == "published":
            return published(name=name)(x)
        if lrn == "within_map":
            return LocalResponseNormWithinMap(name=name)(x)
        return alexnet_norm(lrn, groups, name=name)(x)

    def pool(
        self, x: jax.Array, name: str, kind: str, window: int, stride: int, **edges: Any
    ) -> jax.Array:
        """Pooling as published, or as the network's option `pooling` changes it.

        "published": no change; "max" or "average": that kind; "overlapping": windows one pixel
        larger than the stride; "non_overlapping": windows as large as the stride.

        kind, window, stride, edges (padding, ceil): as published, see `Pool`.
        """
        return Pool(*self._pooling(kind, window, stride, **edges), name=name)(x)

    def pooled_size(self, size: int, window: int, stride: int, **edges: Any) -> int:
        """The number of pixels that `pool` leaves of `size` along an axis."""
        return Pool(*self._pooling("max", window, stride, **edges), parent=None).output_size(size)

    def _pooling(self, kind, window, stride, padding=0, ceil=False) -> tuple:
        pooling = getattr(self.network, "pooling", "published")
        if pooling in ("max", "average"):
            kind = pooling
        elif pooling == "overlapping" and window == stride > 1:
            window, ceil = stride + 1, True  # the number of windows stays the same
        elif pooling == "non_overlapping" and window > stride > 1:
            window, padding = stride, 0
        return kind, window, stride, padding, ceil

    def hidden(
        self, x: jax.Array, features: int, name: str, drop: str = "output", **options: Any
    ) -> jax.Array:
        """A fully connected layer, its activation, and the network's regulariser.

        drop: what dropout and standout drop: the layer's "output", its "input" or "nothing".
        DropConnect drops the layer's weights in the first two cases.
        options: window, initializer, bias_start of `FullyConnected`.
        """
        features = self._widened(features) * self.pieces
        return self._fully_connected(x, features, name, drop, self.network.activation, **options)

    def classifier(
        self, x: jax.Array, name: str, drop: str = "nothing", **options: Any
    ) -> jax.Array:
        """The last fully connected layer: float32 logits [b, classes].

        drop: "input" or "nothing". options: as in `hidden`.
        """
        classes = self.network.num_classes // division.parts()
        return self._fully_connected(x, classes, name, drop, None, **options).astype(jnp.float32)

    def _fully_connected(self, x, features, name, drop, activation, **options) -> jax.Array:
        network = self.network
        options = {"initializer": self.init, "dtype": network.dtype, "name": name} | options
        if network.regulariser == "dropconnect" and drop != "nothing":
            return DropConnect(
                features,
                **options,
                rate=self.drop_rate,
                activation=activation,
                pieces=self.pieces,
                inference=network.dropconnect_inference,
                samples=network.dropconnect_samples,
            )(x, self.train, self.drop_scale)
        x = self.drop(x, name) if drop == "input" else x
        before = FullyConnected(features, **options)(x)
        y = self.activate(before, name) if activation else before
        return self.drop(y, name, before) if drop == "output" else y

    def pooled_classifier(
        self, x: jax.Array, pool: str, name: str, window: int | None, **options: Any
    ) -> jax.Array:
        """Average pooling, named `pool`, over the whole map, and the classifier `name`.

        window: None for logits [b, classes]. Otherwise the result is a map of logits
        [b, h, w, classes], each from the mean over window x window pixels.
        options: as in `classifier`. Raises ValueError for a map smaller than the window.
        """
        if window is None:
            return self.classifier(GlobalAveragePool(name=pool)(x), name, **options)
        if min(x.shape[1:3]) < window:
            raise ValueError(
                f"the image is too small: {pool} needs a {window}x{window} map, but its input is"
                f" {x.shape[1]}x{x.shape[2]}"
            )
        x = Pool("average", window, 1, name=pool)(x)
        logits = self.classifier(x.reshape(-1, x.shape[-1]), name, **options)
        return logits.reshape(*x.shape[:3], -1)

    def drop(self, x: jax.Array, name: str, before: jax.Array | None = None) -> jax.Array:
        """Applies dropout or standout to x, if one of them is the network's regulariser.

        before: x before its activation.
        """
        network = self.network
        if network.regulariser == "dropout":
            dropout = Dropout(self.drop_rate, self.dropout_scaling, name=f"{name}_dropout")
            return dropout(x, self.train, self.drop_scale)
        if network.regulariser == "standout":
            # A maxout unit has several inputs. The largest is used, which is the unit's output x.
            before = x if before is None or before.shape != x.shape else before
            alpha, beta = network.standout_alpha, network.standout_beta
            standout = Standout(alpha, beta, name=f"{name}_standout")
            return standout(x, before, self.train, self.drop_scale)
        return x
