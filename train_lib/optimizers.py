"""SGD with momentum, weight decay, second derivatives and variants by layer: one optax chain."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from configs import patterns
from train_lib.schedules import Rate, changed, make_momentum

# The parameters that decay, by their names, for each value of config.optimizer.decayed.
# He 2015 does not say which decay. The README of fb.resnet.torch says that in the paper only the
# weights of convolutions do; config.optimizer.layer_decays = {"fc": 0.0} leaves out the
# classifier's weights, too. Decay would turn PReLU into ReLU (He 2015, sec. 2.1).
DECAYS: dict[str, Callable[[str], bool]] = {
    "kernels": lambda name: name == "kernel",  # no biases and no coefficients of maps
    "all": lambda name: name != "slope",
}


def layer_of(path) -> str:
    """The layer of a parameter, as "conv1" or "conv2_1/bn1", from its path in the tree."""
    return "/".join(part.key for part in path[:-1])


def _for_each_parameter(change: Callable, field: str, by_layer: Mapping[str, float], default):
    """change(value, path, update, parameter) -> update, as an optax transformation without a state.

    by_layer: the values of config.optimizer.`field`, by names or patterns of layers. default: the
    value of the other layers. `init` raises UserError for an unknown layer.
    """

    def values(params):
        layers = {layer_of(path): None for path, _ in jax.tree.leaves_with_path(params)}
        return patterns.by_layer(by_layer, layers, f"optimizer.{field}")

    def init(params):
        values(params)
        return optax.EmptyState()

    def update(updates, state, params):
        chosen = values(params)

        def changed(path, leaf, parameter):
            return change(chosen.get(layer_of(path), default), path, leaf, parameter)

        return jax.tree.map_with_path(changed, updates, params), state

    return optax.GradientTransformation(init, update)


def add_decay(
    everywhere: float, by_layer: Mapping[str, float], decays: Callable[[str], bool]
) -> optax.GradientTransformation:
    """Adds wd * w to the gradient of the parameters for whose names `decays` is true.

    everywhere: wd. by_layer: wd of the layers with these names instead.
    """

    def add(decay, path, update, weight):
        return update + decay * weight if decay and decays(path[-1].key) else update

    return _for_each_parameter(add, "layer_decays", by_layer, everywhere)


def scale_by_layer(bias: float, by_layer: Mapping[str, float]) -> optax.GradientTransformation:
    """Factors on the rate: that of the layer, times `bias` for leaves named `bias`.

    BatchNorm's beta is such a leaf.
    """

    def scale(factor, path, update, _):
        return update * (factor * bias if path[-1].key == "bias" else factor)

    return _for_each_parameter(scale, "layer_rates", by_layer, 1.0)


class RampedTrace(NamedTuple):
    """step: updates made, int32. velocity: as the parameters."""

    step: jax.Array
    velocity: Any


def trace_by_schedule(momentum: optax.Schedule) -> optax.GradientTransformation:
    """v = m v + g with the momentum m of the step: `optax.trace` takes a constant."""

    def init(params):
        return RampedTrace(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update(updates, state, params=None):
        del params
        m = momentum(state.step)
        velocity = jax.tree.map(
            lambda v, g: jnp.asarray(m, v.dtype) * v + g, state.velocity, updates
        )
        return velocity, RampedTrace(state.step + 1, velocity)

    return optax.GradientTransformation(init, update)


class Curvature(NamedTuple):
    """diagonal: second derivatives of the loss by the parameters, a tree as the parameters."""

    diagonal: Any


def divide_by_curvature(mu: float) -> optax.GradientTransformation:
    """Divides the gradient of each parameter by mu + h (LeCun 1998, eq. 18 and app. C).

    h are the second derivatives in the state. They are 0 until `with_curvature` sets them.
    """

    def init(params):
        return Curvature(jax.tree.map(jnp.zeros_like, params))

    def update(updates, state, params=None):
        del params
        return jax.tree.map(lambda g, h: g * (1 / (mu + h)), updates, state.diagonal), state

    return optax.GradientTransformation(init, update)


def with_curvature(opt_state, diagonal):
    """The optimizer's state with these second derivatives, a tree as the parameters."""
    return changed(opt_state, Curvature, lambda _: Curvature(diagonal))


def limit_norms(everywhere: float, by_layer: Mapping[str, float]) -> optax.GradientTransformation:
    """Max-norm: after the update, each unit's weight vector is scaled into a ball around 0.

    everywhere: the radius for all kernels, 0 for no limit. by_layer: radii of the layers with
    these names instead. Biases do not count (Srivastava 2014, sec. 5.1; Goodfellow 2013 and the
    authors' code). Kernels [..., in, out] have a vector for each output; those of a locally
    connected layer one for each position and map. LeNet's C3 table has no limit.
    """

    def limit(radius, path, update, weight):
        if path[-1].key != "kernel" or not radius or weight.ndim not in (2, 4, 6):
            return update
        axes = tuple(range(weight.ndim - 1)) if weight.ndim < 6 else (2, 3, 4)
        moved = weight + update
        norm = jnp.sqrt(jnp.square(moved).sum(axis=axes, keepdims=True))
        return moved * jnp.minimum(1.0, radius / jnp.maximum(norm, 1e-12)) - weight

    return _for_each_parameter(limit, "max_norms", by_layer, everywhere)


def make_optimizer(
    section, rate: Rate | optax.Schedule, steps_per_epoch: float = 1.0
) -> optax.GradientTransformationExtraArgs:
    """SGD with momentum and coupled weight decay, from a config's `optimizer` section.

    g = gradient + weight_decay * w (neither half nor twice it), then
    "pytorch": v = m v + g, w -= rate v;  "caffe" (Krizhevsky 2012, sec. 5):
    v = m v + rate g, w -= v. They differ once the rate changes. With `curvature_examples`, g is
    divided by mu + h before (see `divide_by_curvature`). Factors on the rate are applied
    together with the rate. `averaging` is not part of the optimizer: see `steps.averaged`.

    rate: a bare schedule is a rate without rules. steps_per_epoch: for momentum_epochs.
    """
    parts = []
    layer_decays = section.layer_decays.to_dict()
    if section.weight_decay or layer_decays:
        parts.append(add_decay(section.weight_decay, layer_decays, DECAYS[section.decayed]))
    if section.curvature_examples:
        parts.append(divide_by_curvature(section.mu))
    rate = rate if isinstance(rate, Rate) else Rate(rate)
    scaling = [rate.scale()]
    layer_rates = section.layer_rates.to_dict()
    if section.bias_rate != 1 or layer_rates:
        scaling.append(scale_by_layer(section.bias_rate, layer_rates))
    velocity = [optax.trace(section.momentum)] if section.momentum else []
    if momentum := make_momentum(section, steps_per_epoch):
        velocity = [trace_by_schedule(momentum)]
    parts += velocity + scaling if section.momentum_form == "pytorch" else scaling + velocity
    if section.max_norm or section.max_norms:
        parts.append(limit_norms(section.max_norm, section.max_norms.to_dict()))
    return optax.chain(*parts)


def describe(section) -> str:
    """Momentum and weight decay, from a config's `optimizer` section."""
    text = f"momentum {section.momentum:g}"
    if section.momentum_epochs:
        text += f" to {section.momentum_end:g} in {section.momentum_epochs:g} epochs"
    text += f" ({section.momentum_form})"
    if section.curvature_examples:
        text += (
            f", divided by {section.mu:g} + second derivatives"
            f" ({section.curvature_examples} examples)"
        )
    if section.weight_decay:
        text += f", weight decay {section.weight_decay:g} of {section.decayed}"
    if section.layer_decays:
        decays = ", ".join(f"{layer} {decay:g}" for layer, decay in section.layer_decays.items())
        text += f", weight decay by layer: {decays}"
    return text
