"""Restricted Boltzmann machines against enumeration of all states, NumPy and scikit-learn."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.neural_network import BernoulliRBM

from models import rbm
from models.rbm import Machine, RBMStack

VISIBLE, HIDDEN = 4, 3
V = np.array(list(itertools.product([0.0, 1.0], repeat=VISIBLE)))  # all states, [16, 4]
H = np.array(list(itertools.product([0.0, 1.0], repeat=HIDDEN)))  # [8, 3]
DATA = V[[1, 6, 6, 11, 13]]


def machine(visible=VISIBLE, hidden=HIDDEN, seed=0) -> Machine:
    rng = np.random.default_rng(seed)
    shapes = (visible, hidden), hidden, visible
    return Machine(*(rng.normal(size=shape).astype(np.float32) for shape in shapes))


def joint(m: Machine) -> np.ndarray:
    """p(v, h) [16, 8] of all states, by their energies."""
    w, c, b = (np.asarray(part, np.float64) for part in m)
    weights = np.exp((V @ b)[:, None] + (H @ c)[None] + V @ w @ H.T)
    return weights / weights.sum()


def statistics(m: Machine, p_visible: np.ndarray) -> Machine:
    """<v h>, <h>, <v> under p(v) [16] and the machine's p(h | v)."""
    p = joint(m)
    h = p / p.sum(axis=1, keepdims=True) @ H  # [16, 3]
    return Machine((p_visible[:, None] * V).T @ h, p_visible @ h, p_visible @ V)


def of_data() -> np.ndarray:
    """p(v) [16] of DATA."""
    return (V[:, None] == DATA).all(axis=2).mean(axis=1)


def check_close(actual, expected, **tolerance):
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, **tolerance)


def keys_for(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def test_free_energy_and_conditional_probabilities_of_all_states():
    m, p = machine(), joint(machine())
    energies = np.asarray(m.free_energy(V), np.float64)
    np.testing.assert_allclose(np.exp(-energies) / np.exp(-energies).sum(), p.sum(1), rtol=1e-5)
    h_given_v = p / p.sum(axis=1, keepdims=True) @ H
    v_given_h = (p / p.sum(axis=0)).T @ V
    np.testing.assert_allclose(m.hidden_means(V), h_given_v, rtol=1e-5)
    np.testing.assert_allclose(m.visible_means(H), v_given_h, rtol=1e-5)


def test_the_gradient_of_the_log_likelihood_is_data_minus_model():
    """Of mean F(data) + log sum exp(-F), which is minus the mean log probability of the data."""
    m = machine()

    def loss(m):
        return m.free_energy(DATA).mean() + jax.nn.logsumexp(-m.free_energy(V))

    data, model = statistics(m, of_data()), statistics(m, joint(m).sum(axis=1))
    expected = [b - a for a, b in zip(data, model, strict=True)]
    check_close(jax.jit(jax.grad(loss))(m), expected, atol=2e-6)


def test_the_gradient_of_contrastive_divergence_is_the_textbooks():
    m, rng = machine(20, 12, seed=1), np.random.default_rng(2)
    m = Machine(0.2 * m.kernel, m.bias, m.visible_bias)
    v0, keys = rng.uniform(size=(7, 20)).astype(np.float32), keys_for(7)
    v2 = np.asarray(m.gibbs(v0, keys, 2), np.float64)
    assert set(np.unique(v2)) == {0.0, 1.0}
    w, c, _ = (np.asarray(part, np.float64) for part in m)
    h0, h2 = (1 / (1 + np.exp(-(v @ w + c))) for v in (v0, v2))
    step = Machine((v0.T @ h0 - v2.T @ h2) / 7, (h0 - h2).mean(axis=0), (v0 - v2).mean(axis=0))
    gradient = jax.grad(lambda m: m.contrastive_divergence(v0, keys, 2).mean())(m)
    check_close(gradient, [-part for part in step], atol=1e-6)


@pytest.mark.parametrize("steps", [1, 3, 100])
def test_the_chain_has_the_transition_probabilities_of_gibbs_sampling(steps):
    """The mean gradient of many chains; after 100 steps it is the gradient of the likelihood."""
    m, count = Machine(*(3 * part for part in machine())), 20_000  # units that depend on each other
    p = joint(m)
    transition = (p / p.sum(axis=1, keepdims=True)) @ (p / p.sum(axis=0)).T  # p(v' | v)
    after = of_data() @ np.linalg.matrix_power(transition, steps)
    model = p.sum(axis=1)
    assert (np.abs(after - model).max() < 1e-6) == (steps == 100)
    data, chain = statistics(m, of_data()), statistics(m, after)
    expected = [b - a for a, b in zip(data, chain, strict=True)]
    many = jnp.tile(jnp.asarray(DATA, jnp.float32), (count // len(DATA), 1))

    @jax.jit
    def gradient(keys):
        return jax.grad(lambda m: m.contrastive_divergence(many, keys, steps).mean())(m)

    # A mean of values in 0..1 deviates by at most 0.5 / sqrt(count).
    check_close(gradient(keys_for(count)), expected, atol=4.5 * 0.5 / count**0.5)


def test_scikit_learn_has_the_same_free_energy_and_means():
    m, v = machine(30, 20, seed=3), np.random.default_rng(4).uniform(size=(6, 30))
    reference = BernoulliRBM(n_components=20)
    reference.components_, reference.intercept_hidden_ = np.asarray(m.kernel).T, m.bias
    reference.intercept_visible_ = m.visible_bias
    np.testing.assert_allclose(m.free_energy(v), reference._free_energy(v), rtol=1e-5)
    np.testing.assert_allclose(m.hidden_means(v), reference.transform(v), rtol=1e-5)


def test_training_raises_the_exact_likelihood():
    """Of two patterns, for which log(1 / 2) is the best; all states alike have log(1 / 16)."""
    patterns = jnp.asarray(np.tile(V[[3, 12]], (5, 1)), jnp.float32)

    def log_likelihood(m):
        return float((-m.free_energy(patterns) - jax.nn.logsumexp(-m.free_energy(V))).mean())

    @jax.jit
    def update(number, m):
        keys = keys_for(10, number)
        gradient = jax.grad(lambda m: m.contrastive_divergence(patterns, keys, 1).mean())(m)
        return jax.tree.map(lambda p, g: p - 0.2 * g, m, gradient)

    start = jax.tree.map(lambda leaf: 0.01 * leaf, machine())
    trained = jax.lax.fori_loop(0, 1000, update, start)
    assert log_likelihood(start) == pytest.approx(-np.log(16), abs=0.05)
    assert log_likelihood(trained) > -1.0


def test_a_stack_gives_its_last_machine_the_means_of_the_others():
    network = RBMStack(num_classes=5, hidden=(6, 4), initializer="he")
    images = np.random.default_rng(5).uniform(size=(3, 2, 4, 1)).astype(np.float32)
    params = jax.jit(network.init)(jax.random.key(0), images)["params"]
    params["h2"]["visible_bias"] += 0.5
    first, second = rbm.machines(network, params)
    h1 = first.hidden_means(images.reshape(3, 8))
    output = params["output"]
    logits = second.hidden_means(h1) @ output["kernel"] + output["bias"]
    np.testing.assert_allclose(network.apply({"params": params}, images), logits, rtol=1e-5)

    energies = rbm.free_energies([first, second], images)
    np.testing.assert_allclose(energies, second.free_energy(h1), rtol=1e-5)
    down = first.visible_means(second.visible_means(second.hidden_means(h1)))
    rebuilt = rbm.reconstruct([first, second], images)
    np.testing.assert_allclose(rebuilt, down.reshape(3, 2, 4, 1), rtol=1e-5)


def test_the_last_layer_learns_by_its_objective_and_the_classifier_by_the_logits():
    network = RBMStack(num_classes=5, hidden=(6, 4), initializer="he")
    images = np.random.default_rng(5).uniform(size=(3, 2, 4, 1)).astype(np.float32)
    params = jax.jit(network.init)(jax.random.key(0), images)["params"]

    def reached(index):
        """The layers and parameters that a gradient reaches in training."""

        def value(params):
            rngs = {"dropout": jax.random.key(1)}
            trained = network.apply(
                {"params": params}, images, True, rngs=rngs, mutable="objectives"
            )
            (values,) = jax.tree.leaves(trained[index])
            assert index == 0 or values.shape == (3,)
            return values.var()

        gradient = jax.jit(jax.grad(value))(params)
        return {(k, n) for k, layer in gradient.items() for n, g in layer.items() if np.any(g)}

    assert reached(0) == {("output", "kernel"), ("output", "bias")}
    assert reached(1) == {("h2", name) for name in ("kernel", "bias", "visible_bias")}
