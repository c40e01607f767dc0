"""The losses' values in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.layers import RBF
from models.lenet import rbf_codes
from train_lib import losses

CODES = rbf_codes()
RBF_LAYER = RBF(tuple(map(tuple, CODES.tolist())))


def logits_of(features):
    return RBF_LAYER.apply({}, jnp.asarray(features, jnp.float32))


@pytest.mark.parametrize(("j", "value"), [(0.1, 0.644397), (1.0, 0.313262)])
def test_map_criterion_at_the_codes_is_log_1_plus_exp_minus_j(j, value):
    actual = losses.make_loss({"name": "map", "j": j})(logits_of(CODES), jnp.arange(10))
    np.testing.assert_allclose(actual, value, atol=1e-6)


def test_map_criterion_at_zero_is_84_minus_j():
    actual = losses.make_loss({"name": "map", "j": 0.1})(
        logits_of(np.zeros((10, 84))), jnp.arange(10)
    )
    np.testing.assert_allclose(actual, 83.9, rtol=1e-6)


def test_mse_is_the_squared_distance_to_the_right_code():
    features = np.random.default_rng(0).normal(size=(5, 84)).astype(np.float32)
    labels = np.array([3, 1, 4, 1, 5])
    actual = losses.make_loss({"name": "mse"})(logits_of(features), jnp.asarray(labels))
    np.testing.assert_allclose(actual, ((features - CODES[labels]) ** 2).sum(axis=1), rtol=1e-5)


def test_map_criterion_equals_equation_9_in_float64():
    rng = np.random.default_rng(1)
    features = CODES[[2, 7]] + rng.normal(scale=0.9, size=(2, 84))
    y = ((features[:, None] - CODES) ** 2).sum(axis=-1)
    y -= y.min(axis=1, keepdims=True) - 0.3  # distances of comparable size: every term counts
    expected = y[[0, 1], [2, 6]] + np.log(np.exp(-0.5) + np.exp(-y).sum(axis=1))
    loss = losses.make_loss({"name": "map", "j": 0.5})
    actual = loss(jnp.asarray(-y, jnp.float32), jnp.array([2, 6]))
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_probabilities_leave_the_rubbish_class_its_share():
    logits = jnp.array([[-1.0, -2.0, -3.0]])
    share = np.exp([-1.0, -2.0, -3.0])
    actual = losses.make_loss({"name": "map", "j": 0.5}).probabilities(logits)
    np.testing.assert_allclose(actual[0], share / (share.sum() + np.exp(-0.5)), rtol=1e-6)
    actual = losses.make_loss({"name": "softmax"}).probabilities(logits)
    np.testing.assert_allclose(actual[0], share / share.sum(), rtol=1e-6)


def test_the_nearest_class_is_the_most_probable_however_far_it_is():
    """exp(-200) is zero in float32."""
    logits = jnp.array([[-300.0, -250.0, -200.0]])
    (row,) = losses.make_loss({"name": "map", "j": 0.1}).probabilities(logits)
    assert int(jnp.argmax(row)) == 2
    assert 0 < float(row.sum()) < 1e-29


def test_softmax_loss_is_the_cross_entropy():
    logits = jnp.array([[2.0, -1.0, 0.5]])
    actual = losses.make_loss({"name": "softmax"})(logits, jnp.array([2]))
    assert float(actual[0]) == pytest.approx(
        -0.5 + np.log(np.exp([2.0, -1.0, 0.5]).sum()), rel=1e-6
    )
    gradient = jax.grad(lambda z: losses.make_loss({"name": "softmax"})(z, jnp.array([2])).sum())
    assert float(gradient(logits).sum()) == pytest.approx(0, abs=1e-6)
