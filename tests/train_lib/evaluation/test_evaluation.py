"""Evaluation in padded batches on several devices equals a plain loop over the set."""

import json

import jax
import numpy as np
import pytest
from conftest import tiny_config

from input_pipeline import sources
from input_pipeline.split import ArraySplit
from train_lib import experiment, optimizers
from train_lib import state as state_lib
from train_lib.distributed import parallel
from train_lib.evaluation import metrics, result_files
from train_lib.evaluation.metrics import evaluate, from_probabilities


@pytest.mark.parametrize(("devices", "batch"), [(1, 64), (8, 64), (8, 1000)])
def test_evaluation_equals_a_plain_loop_if_the_size_is_prime(devices, batch):
    config = tiny_config(**{"num_devices": devices, "evaluate.batch_size": batch})
    exp = experiment.resolve(config)
    test = sources.load(config.dataset, "test")
    test = ArraySplit(test.info, test.images[:151], test.labels[:151])
    optimizer = optimizers.make_optimizer(config.optimizer, lambda step: 0.1)
    state = state_lib.create(exp.module, optimizer, 3, exp.input_shape)
    state = parallel.replicate(state, exp.devices)
    result = evaluate(exp, state, test)

    loss = top1 = top5 = 0
    forward = jax.jit(lambda x: exp.module.apply(state.variables(), exp.transform(x)))
    for image, label in zip(test.images, test.labels, strict=True):
        y = -np.asarray(forward(image[None]), np.float64)[0]
        loss += y[label] + np.log(np.exp(-0.1) + np.exp(-y).sum())
        order = np.argsort(y, kind="stable")
        top1 += order[0] != label
        top5 += label not in order[:5]
    assert result.examples == 151
    assert result.loss == pytest.approx(loss / 151, rel=1e-5)
    assert result.top1_error == top1 / 151
    assert result.top5_error == top5 / 151
    assert result.classes.shape == (151, 5)
    assert (result.classes[:, 0] != test.labels).sum() == top1
    probabilities = exp.loss.probabilities(forward(test.images[:4]))
    np.testing.assert_allclose(
        result.probabilities[:4, 0], np.asarray(probabilities).max(axis=1), rtol=1e-4
    )


def test_a_loss_that_is_not_finite_is_null_in_json():
    probabilities = np.array([[0.5, 0.5], [np.nan, np.nan]], np.float32)
    result = from_probabilities(probabilities, np.array([0, 1], np.int32))
    assert np.isnan(result.loss)
    assert json.dumps(result.metrics(), allow_nan=False).startswith('{"loss": null, "top1_error"')


def test_the_mean_class_error_counts_classes_equally_and_leaves_out_those_without_examples():
    labels = np.array([0, 0, 0, 0, 2, -1], np.int32)
    probabilities = np.eye(4)[[0, 0, 0, 1, 3, 2]]
    result = from_probabilities(probabilities, labels)
    assert result.top1_error == 2 / 5
    assert result.mean_class_error() == (1 / 4 + 1) / 2


def test_top_5_errors_of_probabilities_count_five_guesses():
    """Of multi-crop, dense and ensemble results. Image i is of class i, the (i + 1)th guess."""
    probabilities = np.tile(np.arange(10, 0, -1) / 55, (10, 1))
    result = metrics.from_probabilities(probabilities, np.arange(10))
    assert (result.top1_error, result.top5_error) == (0.9, 0.5)
    lines = result_files.per_class(result, "abcdefghij").splitlines()
    assert lines[5:7] == ["e,1,0,1", "f,1,0,0"]
