"""The updates against NumPy transcriptions."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import alexnet, cuda_convnet, lenet5, maxout, vgg
from configs.schema import base, choices
from errors import UserError
from train_lib import optimizers

RATES = [0.1, 0.1, 0.01, 0.01, 0.01]
SHAPES = {
    "conv1": {"kernel": (2, 2, 1, 3), "bias": (3,)},
    "block/conv2": {"kernel": (1, 1, 3, 2), "bias": (2,)},
    "fc": {"kernel": (2, 4), "bias": (4,)},
}


def section(**values):
    part = base().optimizer
    part.update(values)
    return part


def schedule(step):
    return jnp.asarray(RATES)[step]


def nested(leaves):
    """{"conv1": {"kernel": ...}, "block": {"conv2": ...}, ...}"""
    layers = {name: layer for name, layer in leaves.items() if "/" not in name}
    return layers | {"block": {"conv2": leaves["block/conv2"]}}


def draw(rng):
    return {
        layer: {name: rng.normal(size=shape).astype(np.float32) for name, shape in leaves.items()}
        for layer, leaves in SHAPES.items()
    }


def assert_equals(optimizer, update):
    """Five updates by `optimizer` equal those by update(step, layer, name, w, v, g) -> (w, v)."""
    rng = np.random.default_rng(0)
    start = draw(rng)
    params, state = nested(start), optimizer.init(nested(start))
    step_function = jax.jit(optimizer.update)
    actual = {
        (layer, name): (leaf.astype(np.float64), 0.0)
        for layer, leaves in start.items()
        for name, leaf in leaves.items()
    }
    for step in range(len(RATES)):
        gradient = draw(rng)
        updates, state = step_function(nested(gradient), state, params)
        params = optax.apply_updates(params, updates)
        for (layer, name), (w, v) in actual.items():
            actual[layer, name] = update(step, layer, name, w, v, gradient[layer][name])
    for (layer, name), (w, _) in actual.items():
        ours = params["block"]["conv2"] if "/" in layer else params[layer]
        np.testing.assert_allclose(ours[name], w, rtol=1e-5, atol=1e-6, err_msg=f"{layer} {name}")


def transcription(form, momentum=0.9, decay=lambda layer, name: 0.0, factor=lambda *_: 1.0):
    """SGD in either form; momentum: a number or one by step, decay and factor by parameter."""

    def update(step, layer, name, w, v, g):
        rate = RATES[step] * factor(layer, name)
        m = momentum(step) if callable(momentum) else momentum
        g = g + decay(layer, name) * w
        if form == "pytorch":
            v = m * v + g
            return w - rate * v, v
        v = m * v - rate * g
        return w + v, v

    return update


@pytest.mark.parametrize("form", choices("optimizer.momentum_form"))
@pytest.mark.parametrize("decayed", choices("optimizer.decayed"))
def test_sgd_across_a_change_of_rate(form, decayed):
    optimizer = optimizers.make_optimizer(
        section(momentum=0.9, momentum_form=form, weight_decay=0.05, decayed=decayed), schedule
    )

    def decay(layer, name):
        return 0.05 if decayed == "all" or name == "kernel" else 0.0

    assert_equals(optimizer, transcription(form, decay=decay))


def test_the_gradient_is_divided_by_mu_and_the_second_derivatives():
    optimizer = optimizers.make_optimizer(
        section(momentum=0.0, curvature_examples=1, mu=0.02), schedule
    )
    h = draw(np.random.default_rng(1))
    h = {layer: {name: leaf**2 for name, leaf in leaves.items()} for layer, leaves in h.items()}

    def update(step, layer, name, w, v, gradient):
        return w - RATES[step] / (0.02 + h[layer][name]) * gradient, v

    init = optimizer.init
    with_h = optimizer._replace(
        init=lambda params: optimizers.with_curvature(init(params), nested(h))
    )
    assert_equals(with_h, update)


def test_alexnets_update_equals_that_of_the_paper():
    """Krizhevsky 2012, sec. 5, for the config's own optimizer. The paper writes weights: what
    becomes of biases it does not say, and the authors' code does not decay them."""

    def update(step, layer, name, w, v, gradient):
        epsilon = RATES[step]
        if name == "kernel":
            v = 0.9 * v - 0.0005 * epsilon * w - epsilon * gradient
        else:
            v = 0.9 * v - epsilon * gradient
        return w + v, v

    optimizer = optimizers.make_optimizer(alexnet.get_config().optimizer, schedule)
    assert_equals(optimizer, update)


@pytest.mark.parametrize("names", [("conv1", "block/conv2"), ("c*1", "block/*")])
@pytest.mark.parametrize("form", choices("optimizer.momentum_form"))
def test_rates_and_decays_by_layer_and_of_biases(form, names):
    optimizer = optimizers.make_optimizer(
        section(
            momentum_form=form,
            weight_decay=0.05,
            bias_rate=2.0,
            layer_rates=dict(zip(names, (0.05, 0.0), strict=True)),
            layer_decays={"fc": 1.0, names[0]: 0.0},
        ),
        schedule,
    )

    def decay(layer, name):
        return {"conv1": 0.0, "fc": 1.0}.get(layer, 0.05) if name == "kernel" else 0.0

    def factor(layer, name):
        return {"conv1": 0.05, "block/conv2": 0.0}.get(layer, 1.0) * (1 + (name == "bias"))

    assert_equals(optimizer, transcription(form, decay=decay, factor=factor))


@pytest.mark.parametrize("form", choices("optimizer.momentum_form"))
def test_rising_momentum(form):
    optimizer = optimizers.make_optimizer(
        section(momentum=0.5, momentum_end=0.7, momentum_epochs=1.5, momentum_form=form),
        schedule,
        steps_per_epoch=2,
    )
    assert_equals(optimizer, transcription(form, lambda step: min(0.7, 0.5 + 0.2 * step / 3)))


@pytest.mark.parametrize("field", ["layer_rates", "layer_decays", "max_norms"])
def test_an_unknown_layer_is_refused(field):
    optimizer = optimizers.make_optimizer(
        section(**{field: {"conv1": 1.0, "conv2": 1.0}}), schedule
    )
    message = rf"config\.optimizer\.{field}\.conv2: .*choose one of block/conv2, conv1, fc"
    with pytest.raises(UserError, match=message):
        optimizer.init(nested(draw(np.random.default_rng(0))))


def test_momentum_and_weight_decay_are_described():
    assert optimizers.describe(lenet5.get_config().optimizer) == "momentum 0.9 (pytorch)"
    assert optimizers.describe(vgg.get_config().optimizer) == (
        "momentum 0.9 (caffe), weight decay 0.0005 of kernels"
    )
    text = optimizers.describe(maxout.get_config("mnist_dense").optimizer)
    assert text.startswith("momentum 0.5 to 0.7 in 250 epochs (")
    assert ", weight decay by layer: " in optimizers.describe(
        cuda_convnet.get_config("11pct").optimizer
    )
