"""One device and eight: the same batches, the same augmentation, the same training."""

import jax
import numpy as np
import pytest
from conftest import tiny_config

from errors import UserError
from input_pipeline import sources
from input_pipeline.batches import train_batches
from train_lib import experiment, optimizers, parallel, train
from train_lib import state as state_lib
from train_lib.steps import make_train_step, several


def losses_and_parameters(devices, steps=20, dispatch=5):
    config = tiny_config(num_devices=devices, batch_size=64, log_every_steps=1)
    exp = experiment.build(config)
    split = sources.load(config.dataset, "train")
    optimizer = optimizers.make_optimizer(config.optimizer, lambda step: 0.001)
    step = make_train_step(exp.module, exp.loss, optimizer, exp.transform, 0, 1)
    run = parallel.train_step(several(step), exp.devices)
    state = state_lib.create(exp.module, optimizer, 0, exp.input_shape)
    state = parallel.replicate(state, exp.devices)
    losses = []
    for first in range(0, steps, dispatch):
        batch = train_batches(split, 0, first, dispatch, 64, devices)
        state, windows = run(state, batch)
        losses.append(np.asarray(windows["loss"]) / np.asarray(windows["examples"]))
    return np.concatenate(losses), jax.device_get(state)


def test_twenty_steps_on_several_devices_equal_those_on_one():
    one_losses, one = losses_and_parameters(1)
    assert one_losses[-1] < 0.8 * one_losses[0]
    for devices in (2, 4, 8):
        losses, state = losses_and_parameters(devices)
        assert int(one.step) == int(state.step) == 20
        np.testing.assert_allclose(losses, one_losses, rtol=2e-5)
        for path, leaf in jax.tree.leaves_with_path(one.params):
            other = state.params[path[0].key][path[1].key]
            assert other.shape == leaf.shape  # no device axis
            np.testing.assert_allclose(other, leaf, atol=2e-5, err_msg=str(path))


def test_augmentation_is_the_same_on_any_number_of_devices():
    """The distorted images themselves, bit for bit, as the step makes them."""
    config = tiny_config(batch_size=64)
    exp = experiment.build(config)
    split = sources.load(config.dataset, "train")
    seen = {}
    for devices in (1, 2, 4, 8):

        def record(images, keys=None, offsets=None):
            moved = exp.transform(images, keys, offsets)
            record.images = moved
            return moved

        optimizer = optimizers.make_optimizer(config.optimizer, lambda step: 0.001)
        step = make_train_step(exp.module, exp.loss, optimizer, record, 0, 1)

        def images_of(state, batch, step=step, record=record):
            step(state, jax.tree.map(lambda leaf: leaf[0], batch))
            return record.images

        run = jax.pmap(
            images_of,
            axis_name=parallel.AXIS,
            in_axes=(None, 0),
            devices=jax.devices()[:devices],
        )
        state = state_lib.create(exp.module, optimizer, 0, exp.input_shape)
        images = np.asarray(run(state, train_batches(split, 0, 3, 1, 64, devices)))
        seen[devices] = images.reshape(64, 32, 32, 1)
    for devices in (2, 4, 8):
        np.testing.assert_array_equal(seen[1], seen[devices])
    plain = np.asarray(exp.transform(train_batches(split, 0, 3, 1, 64, 1)["image"][0, 0]))
    assert np.abs(seen[1] - plain).max() > 0.5  # they are distorted at all


def test_a_batch_that_does_not_divide_is_refused_in_one_line(tmp_path):
    with pytest.raises(
        UserError, match=r"config\.batch_size=100 does not divide over 8 devices: use 96"
    ):
        train.train_and_evaluate(tiny_config(num_devices=8), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_more_devices_than_there_are_is_refused():
    with pytest.raises(UserError, match="num_devices=9, but there are 8"):
        parallel.devices(9)
