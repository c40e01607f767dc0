"""Rosenblatt's rule: by hand, against its bound, and its failure on XOR."""

import itertools

import numpy as np
import pytest
from scipy.optimize import linprog
from sklearn.linear_model import Perceptron

from models import perceptron, registry
from models.perceptron import FUNCTIONS, POINTS

# The weights with the largest margin: solved by hand from the points that touch the margin.
WIDEST = {"and": ([2, 2, -3], 51), "or": ([2, 2, -1], 27)}


def test_labels_of_0_and_1_are_the_same_classes():
    for labels in FUNCTIONS.values():
        found = perceptron.learn(POINTS, (labels + 1) // 2, passes=5)
        expected = perceptron.learn(POINTS, labels, passes=5)
        assert np.array_equal(found.history, expected.history)
    bounds = [
        perceptron.mistake_bound([2, 2, -3], POINTS, y) for y in ([0, 0, 0, 1], [-1, -1, -1, 1])
    ]
    assert bounds == pytest.approx([51, 51])


def test_the_first_updates_by_hand():
    learnt = perceptron.learn(POINTS, FUNCTIONS["and"], passes=1)
    # (0, 0): the sum is 0, a mistake, -1 * (0, 0, 1). (0, 1) and (1, 0): -1, right. (1, 1): -1,
    # a mistake, + (1, 1, 1).
    assert learnt.history[0].tolist() == [[0, 0, -1], [0, 0, -1], [0, 0, -1], [1, 1, 0]]
    assert learnt.mistakes.tolist() == [2] and learnt.weights.tolist() == [1, 1, 0]


@pytest.mark.parametrize("name", WIDEST)
def test_mistakes_on_and_and_or_stay_below_the_bound(name):
    weights, bound = WIDEST[name]
    assert perceptron.mistake_bound(weights, POINTS, FUNCTIONS[name]) == pytest.approx(bound)
    for order in itertools.permutations(range(4)):
        order = list(order)
        learnt = perceptron.learn(POINTS[order], FUNCTIONS[name][order], passes=60)
        total = int(learnt.mistakes.sum())
        assert 0 < total <= bound
        assert learnt.mistakes[-1] == 0
        assert np.array_equal(perceptron.predict(learnt.weights, POINTS), FUNCTIONS[name])


@pytest.mark.parametrize("margin", [0.05, 0.3])
def test_mistakes_on_separable_points_stay_below_the_bound(margin):
    rng = np.random.default_rng(0)
    separator = np.append(rng.normal(size=6), 0.2)
    x = rng.uniform(-1, 1, (400, 6))
    distance = (x @ separator[:-1] + separator[-1]) / np.linalg.norm(separator)
    x, labels = x[np.abs(distance) > margin], np.sign(distance[np.abs(distance) > margin])
    bound = perceptron.mistake_bound(separator, x, labels)
    assert bound <= 7 / margin**2
    learnt = perceptron.learn(x, labels, passes=200)
    assert 0 < learnt.mistakes.sum() <= bound and learnt.mistakes[-1] == 0
    assert np.array_equal(perceptron.predict(learnt.weights, x), labels)


def test_the_rule_is_that_of_scikit_learn():
    """On points that no line separates, over 7 passes: the same weights."""
    rng = np.random.default_rng(3)
    x, labels = rng.normal(size=(50, 4)), rng.choice([-1, 1], 50)
    other = Perceptron(max_iter=7, tol=None, shuffle=False).fit(x, labels)
    learnt = perceptron.learn(x, labels, passes=7)
    expected = [*other.coef_[0], other.intercept_[0]]
    assert np.allclose(learnt.weights, expected, atol=1e-4)


def test_no_line_separates_xor():
    labels = FUNCTIONS["xor"]
    # Linear programming: weights with label * sum >= 1 for all points.
    x = np.column_stack([POINTS, np.ones(4)])
    found = linprog(np.zeros(3), -labels[:, None] * x, -np.ones(4), bounds=(None, None))
    assert found.status == 2  # infeasible
    for name in ("and", "or"):
        feasible = linprog(
            np.zeros(3), -FUNCTIONS[name][:, None] * x, -np.ones(4), bounds=(None, None)
        )
        assert feasible.status == 0
    learnt = perceptron.learn(POINTS, labels, passes=1000)
    assert learnt.mistakes.min() >= 1
    assert np.array_equal(learnt.history[-1], learnt.history[-2])  # the weights go in circles
    assert (perceptron.predict(learnt.weights, POINTS) == labels).sum() < 4
    with pytest.raises(ValueError, match="do not separate"):
        perceptron.mistake_bound(learnt.weights, POINTS, labels)


def test_a_hidden_layer_solves_xor():
    """Weights by hand for `mlp` with two hidden units: OR, but not AND."""
    mlp = registry.create({"name": "mlp", "dtype": "float32", "hidden": (2,)}, num_classes=2)
    steep = 10.0
    params = {
        "h1": {"kernel": steep * np.ones((2, 2)), "bias": steep * np.array([-0.5, -1.5])},
        "output": {"kernel": np.array([[0.0, 1.0], [0.0, -1.0]]), "bias": np.array([0.0, -1.7])},
    }
    classes = mlp.apply({"params": params}, POINTS).argmax(axis=-1)
    assert np.array_equal(2 * classes - 1, FUNCTIONS["xor"])


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: perceptron.learn(POINTS[0], [1, 1]), r"inputs of the shape \[2\]: give \[examp"),
        (lambda: perceptron.learn(POINTS, [1, 1]), r"4 inputs have labels of the shape \[2\]"),
        (lambda: perceptron.learn(POINTS, FUNCTIONS["or"], passes=0), "passes: 0: give 1 or more"),
    ],
)
def test_bad_input_is_one_clear_error(call, message):
    with pytest.raises(ValueError, match=message):
        call()
