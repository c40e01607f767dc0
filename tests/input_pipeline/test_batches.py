"""Batches as pure functions of (seed, step)."""

import numpy as np
import pytest

from input_pipeline.batches import Order, eval_batches, train_batches
from input_pipeline.split import ArraySplit, Info


def batch_indices(seed, step, batch_size, num_examples, fixed=False):
    order = Order(seed, batch_size, devices=1, fixed=fixed)
    return order.examples(step * batch_size, batch_size, num_examples)


INFO = Info("made", (2, 2, 1), ("a", "b"))


def split(n):
    images = np.arange(n, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)
    return ArraySplit(INFO, images, (np.arange(n) % 2).astype(np.int32))


@pytest.mark.parametrize(("n", "batch"), [(10, 3), (10, 10), (7, 16), (100, 32)])
def test_every_pass_contains_every_example_once_in_a_new_order(n, batch):
    steps = -(-3 * n // batch)
    stream = np.concatenate([batch_indices(5, s, batch, n) for s in range(steps)])
    passes = stream[: 3 * n].reshape(3, n)
    for one in passes:
        assert sorted(one) == list(range(n))
    assert not (passes[0] == passes[1]).all()
    assert not (
        stream[:n] == np.concatenate([batch_indices(6, s, batch, n) for s in range(steps)])[:n]
    ).all()


def test_every_pass_has_the_same_order_if_it_is_fixed():
    stream = np.concatenate([batch_indices(5, s, 4, 10, fixed=True) for s in range(8)])
    assert sorted(stream[:10]) == list(range(10)) != list(stream[:10])
    np.testing.assert_array_equal(stream[10:30].reshape(2, 10), [stream[:10]] * 2)
    np.testing.assert_array_equal(stream[:10], Order(5, 1, 1).examples(0, 10, 10))  # of pass 1


def test_a_batch_depends_only_on_seed_and_step():
    alone = batch_indices(1, 1000, 32, 500)
    for step in range(990, 1001):
        last = batch_indices(1, step, 32, 500)
    np.testing.assert_array_equal(alone, last)


def test_batches_are_the_same_for_any_number_of_devices():
    whole = train_batches(split(50), Order(3, 8, devices=1), 7, 2)
    for devices in (2, 4, 8):
        parts = train_batches(split(50), Order(3, 8, devices), 7, 2)
        assert parts["image"].shape == (devices, 2, 8 // devices, 2, 2, 1)
        for step in range(2):
            together = parts["image"][:, step].reshape(8, 2, 2, 1)
            np.testing.assert_array_equal(together, whole["image"][0, step])


@pytest.mark.parametrize("n", [1, 5, 8, 13])
def test_evaluation_sees_every_example_once(n):
    seen = []
    for batch in eval_batches(split(n), 8, 2):
        assert batch["mask"].shape == (2, 4)
        seen += batch["image"][batch["mask"] > 0][:, 0, 0, 0].tolist()
    assert seen == list(range(n))
