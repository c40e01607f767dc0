"""Max-norm against loops over units, and the effect of a drop rate of zero."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs.common import base
from errors import UserError
from models import registry
from train_lib import optimizers

# Kernels of every kind, with the axes of one unit's incoming weights.
SHAPES = {
    "dense": ((7, 5), (0,)),
    "conv": ((3, 3, 4, 6), (0, 1, 2)),
    "window": ((2, 2, 8, 3), (0, 1, 2)),
    "block/local": ((2, 3, 3, 3, 2, 4), (2, 3, 4)),  # a position's weights are its own
}


def tree(rng, scale):
    """Leaves like those of a network, by layer; names with a slash are nested."""
    params = {"c3": {"kernel": 9 * rng.normal(size=(5, 5, 60)), "bias": 9 * rng.normal(size=16)}}
    params["s2"] = {"coefficient": 9 * rng.normal(size=6), "bias": 9 * rng.normal(size=6)}
    params["h1"] = {"slope": 9 * rng.normal(size=4)}
    for name, (shape, _) in SHAPES.items():
        where = params
        for part in name.split("/"):
            where = where.setdefault(part, {})
        where["kernel"] = scale * rng.normal(size=shape)
        where["bias"] = 9 * rng.normal(size=shape[-1])
    return jax.tree.map(lambda leaf: leaf.astype(np.float32), params)


def limited(moved, axes, radius):
    """Each unit's weights, one unit after another, scaled down to the radius if they exceed it."""
    result = np.array(moved, np.float64)
    others = [axis for axis in range(result.ndim) if axis not in axes]
    for place in np.ndindex(*(result.shape[axis] for axis in others)):
        index = [slice(None)] * result.ndim
        for axis, at in zip(others, place, strict=True):
            index[axis] = at
        unit = result[tuple(index)]
        length = sum(float(w) ** 2 for w in unit.ravel()) ** 0.5
        if length > radius:
            result[tuple(index)] = unit * radius / length
    return result


def get(params, name):
    for part in name.split("/"):
        params = params[part]
    return params


@pytest.mark.parametrize(
    ("everywhere", "by_layer", "radii"),
    [
        (1.5, {}, dict.fromkeys(SHAPES, 1.5)),
        (0.0, {"conv": 0.9}, {"conv": 0.9}),
        (2.0, {"block/local": 0.5, "dense": 0.0}, {"conv": 2, "window": 2, "block/local": 0.5}),
    ],
)
def test_norms_are_limited_as_by_loops_over_units(everywhere, by_layer, radii):
    rng = np.random.default_rng(0)
    params, step = tree(rng, 0.4), tree(rng, 0.4)
    limit = optimizers.limit_norms(everywhere, by_layer)
    actual, _ = limit.update(step, limit.init(params), params)
    after = optax.apply_updates(params, actual)
    for name, (_, axes) in SHAPES.items():
        moved = get(params, name)["kernel"] + get(step, name)["kernel"]
        if name in radii:
            expected = limited(moved, axes, radii[name])
            shrunk = np.abs(expected - moved).max(axis=axes) > 1e-6
            assert shrunk.any(), name
            np.testing.assert_allclose(get(after, name)["kernel"], expected, atol=2e-6)
        else:
            np.testing.assert_array_equal(get(actual, name)["kernel"], get(step, name)["kernel"])
    for (path, leaf), same in zip(
        jax.tree.leaves_with_path(step), jax.tree.leaves(actual), strict=True
    ):
        if path[-1].key != "kernel" or path[0].key == "c3":
            np.testing.assert_array_equal(same, leaf)


def test_a_step_inside_the_ball_is_unchanged():
    rng = np.random.default_rng(1)
    params, step = tree(rng, 0.1), tree(rng, 0.01)
    limit = optimizers.limit_norms(10.0, {})
    actual, _ = limit.update(step, limit.init(params), params)
    for name in SHAPES:
        expected = get(step, name)["kernel"]
        np.testing.assert_allclose(get(actual, name)["kernel"], expected, rtol=0, atol=1e-7)


@pytest.mark.slow
def test_the_limit_comes_after_rate_momentum_and_decay():
    # Three steps of a maxout net with the authors' radii: 0.9 for h0, else 1.9365.
    module = registry.create({"name": "maxout", "dtype": "float32", "variant": "mnist_conv"}, 10)
    params = module.init(jax.random.key(0), jnp.zeros((1, 16, 16, 1)))["params"]
    section = base().optimizer
    section.update(momentum=0.5, weight_decay=0.01, max_norm=1.9365, max_norms={"h0": 0.9})
    optimizer = optimizers.make_optimizer(section, optax.constant_schedule(0.1))
    rng, state = np.random.default_rng(2), optimizer.init(params)
    weights = {name: np.array(layer["kernel"], np.float64) for name, layer in params.items()}
    velocity = {name: np.zeros_like(kernel) for name, kernel in weights.items()}
    for _ in range(3):
        gradient = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype("f"), params)
        gradient["y"]["kernel"] *= 0.1  # these stay inside
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        for name, kernel in weights.items():
            velocity[name] = (
                0.5 * velocity[name] + np.asarray(gradient[name]["kernel"]) + 0.01 * kernel
            )
            axes = tuple(range(kernel.ndim - 1))
            radius = 0.9 if name == "h0" else 1.9365
            weights[name] = limited(kernel - 0.1 * velocity[name], axes, radius)
            np.testing.assert_allclose(params[name]["kernel"], weights[name], atol=1e-5)
    norms = {
        name: np.sqrt((w**2).sum(axis=tuple(range(w.ndim - 1)))) for name, w in weights.items()
    }
    assert norms["h1"].max() == pytest.approx(1.9365)
    assert 0.1 < norms["y"].max() < 1.9


def test_an_unknown_layer_is_refused():
    params = tree(np.random.default_rng(0), 1.0)
    limit = optimizers.limit_norms(1.0, {"conv": 1.0, "conv9": 1.0})
    with pytest.raises(UserError, match=r"max_norms\.conv9: .*choose one of block/local, c3, conv"):
        limit.init(params)


@pytest.mark.parametrize("regulariser", ["dropout", "dropconnect", "standout"])
def test_training_at_scale_zero_drops_nothing(regulariser):
    section = {"name": "mlp", "dtype": "float32", "hidden": (20, 20)}
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype(np.float32)
    plain = registry.create(section, 10)
    params = plain.init(jax.random.key(0), images)
    module = registry.create({**section, "regulariser": regulariser}, 10)
    rngs = {"dropout": jax.random.key(1)}
    actual = {
        scale: module.apply(params, images, train=True, drop_scale=scale, rngs=rngs)
        for scale in (0.0, 1.0)
    }
    expected = plain.apply(params, images, train=True)
    np.testing.assert_allclose(actual[0.0], expected, rtol=1e-5, atol=1e-6)
    assert np.abs(actual[1.0] - expected).max() > 0.01
