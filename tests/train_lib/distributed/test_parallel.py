"""One device and several: the same batches, augmentation, masks and training."""

import importlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import TINY, tiny_config

from errors import UserError
from input_pipeline import sources
from input_pipeline.batches import Order, train_batches
from models import layers
from train_lib import experiment, optimizers, train
from train_lib import state as state_lib
from train_lib.distributed import parallel
from train_lib.steps import Recipe, make_train_step, several


def losses_and_parameters(config, devices, batch=64, steps=20, dispatch=5, rate=0.001):
    config.update({"num_devices": devices, "batch_size": batch})
    exp = experiment.resolve(config)
    split = sources.load(config.dataset, "train")
    optimizer = optimizers.make_optimizer(config.optimizer, lambda step: rate)
    step = make_train_step(Recipe(exp.module, exp.loss, optimizer, exp.transform))
    run = parallel.train_step(several(step), exp.devices)
    state = state_lib.create(exp.module, optimizer, 0, exp.input_shape)
    state = parallel.replicate(state, exp.devices)
    losses = []
    for first in range(0, steps, dispatch):
        batch = train_batches(split, Order(0, config.batch_size, devices), first, dispatch)
        state, windows = run(state, batch)
        losses.append(np.asarray(windows["loss"]) / np.asarray(windows["examples"]))
    return np.concatenate(losses), jax.device_get(state)


@pytest.mark.slow
def test_twenty_steps_on_several_devices_equal_those_on_one():
    one_losses, one = losses_and_parameters(tiny_config(), 1)
    assert one_losses[-1] < 0.8 * one_losses[0]
    for devices in (2, 4, 8):
        losses, state = losses_and_parameters(tiny_config(), devices)
        assert int(one.step) == int(state.step) == 20
        np.testing.assert_allclose(losses, one_losses, rtol=2e-5)
        for path, leaf in jax.tree.leaves_with_path(one.params):
            other = state.params[path[0].key][path[1].key]
            assert other.shape == leaf.shape  # no device axis
            np.testing.assert_allclose(other, leaf, atol=2e-5, err_msg=str(path))


def test_augmentation_is_the_same_on_any_number_of_devices():
    """Compares the distorted images of the step, bit for bit."""
    config = tiny_config(batch_size=64)
    exp = experiment.resolve(config)
    split = sources.load(config.dataset, "train")
    by_devices = {}
    for devices in (1, 2, 4, 8):

        def record(images, keys=None, offsets=None):
            transformed = exp.transform(images, keys, offsets)
            record.images = transformed
            return transformed

        optimizer = optimizers.make_optimizer(config.optimizer, lambda step: 0.001)
        step = make_train_step(Recipe(exp.module, exp.loss, optimizer, record))

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
        images = np.asarray(run(state, train_batches(split, Order(0, 64, devices), 3, 1)))
        by_devices[devices] = images.reshape(64, 32, 32, 1)
    for devices in (2, 4, 8):
        np.testing.assert_array_equal(by_devices[1], by_devices[devices])
    plain = np.asarray(exp.transform(train_batches(split, Order(0, 64, 1), 3, 1)["image"][0, 0]))
    assert np.abs(by_devices[1] - plain).max() > 0.5  # the images are distorted


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "argument", "overrides"),
    [
        ("mlp", "30-20", {"model.regulariser": "dropout", "model.input_drop_rate": 0.2}),
        ("mlp", "30-20", {"model.regulariser": "dropconnect"}),
        ("mlp", "30-20", {"model.regulariser": "standout"}),
        ("maxout", "mnist_dense", {}),
    ],
    ids=["dropout", "dropconnect", "standout", "maxout"],
)
def test_networks_with_dropout_train_the_same_on_any_number_of_devices(file, argument, overrides):
    config = importlib.import_module(f"configs.{file}").get_config(argument)
    # Weights so large that masks matter from the first step on.
    fixed = {"dataset.name": "digits", "model.initializer": "he"}
    config.update_from_flattened_dict(TINY | fixed | overrides)

    def losses_on(devices):
        return losses_and_parameters(config, devices, 16, steps=6, dispatch=3, rate=0.02)[0]

    one = losses_on(1)
    for devices in (2, 8):
        np.testing.assert_allclose(losses_on(devices), one, rtol=2e-5)
    config.model.regulariser = "none"
    plain = losses_on(1)
    assert np.abs(plain - one).min() > 1e-2  # masks change the loss of each step


class Probe(nn.Module):
    """One-hot images [batch, 1, examples, 1] -> the masked row of a table for each example."""

    regulariser: str
    units: int

    @nn.compact
    def __call__(self, x, train=False, drop_scale=1.0):
        if self.regulariser == "dropconnect":
            return layers.DropConnect(self.units, name="table")(x, train, drop_scale)
        row = layers.FullyConnected(self.units, initializer=layers.Init("glorot"), name="table")(x)
        if self.regulariser == "standout":
            return layers.Standout()(row, row, train, drop_scale)
        maps = row.reshape(-1, 2, 4, 5) if self.regulariser == "dropout_of_maps" else row
        return layers.Dropout(0.5, "test")(maps, train, drop_scale).reshape(row.shape)


@pytest.mark.parametrize(
    "regulariser",
    [
        "dropout",
        pytest.param("dropout_of_maps", marks=pytest.mark.slow),
        pytest.param("dropconnect", marks=pytest.mark.slow),
        pytest.param("standout", marks=pytest.mark.slow),
    ],
)
def test_masks_depend_only_on_seed_step_and_example(regulariser):
    """The gradient of a table with one row for each example shows the masks, bit for bit."""
    examples, units, steps = 16, 40, 3
    images = np.eye(examples, dtype=np.uint8)[:, None, :, None]
    module, optimizer = Probe(regulariser, units), optax.sgd(1e-2)

    def masks_on(devices, seed=0):
        used = jax.devices()[:devices]
        recipe = Recipe(
            module,
            lambda logits, labels: logits.sum(axis=-1),
            optimizer,
            lambda images, keys, offsets: images.astype(jnp.float32),
            seed,
        )
        run = parallel.train_step(make_train_step(recipe), used)
        batch = {"image": images, "label": np.zeros(examples, np.int32)}
        batch = jax.tree.map(lambda leaf: leaf.reshape(devices, -1, *leaf.shape[1:]), batch)
        state = parallel.replicate(state_lib.create(module, optimizer, 0, (1, examples, 1)), used)
        tables = [np.asarray(state.params["table"]["kernel"])]
        for _ in range(steps):
            state, _ = run(state, batch)
            tables.append(np.asarray(state.params["table"]["kernel"]))
        return np.diff(np.stack(tables), axis=0) != 0

    masks = masks_on(1)
    assert masks.shape == (steps, examples, units)
    assert masks.mean() == pytest.approx(0.5, abs=5 * (0.25 / masks.size) ** 0.5)
    assert len(np.unique(masks.reshape(-1, units), axis=0)) == steps * examples
    for devices in (2, 4, 8):
        np.testing.assert_array_equal(masks_on(devices), masks)
    assert (masks_on(1, seed=1) != masks).mean() > 0.3


def test_a_batch_size_that_does_not_divide_is_refused(tmp_path):
    with pytest.raises(
        UserError, match=r"config\.batch_size=100 is not divisible by .* devices \(8\): use 96"
    ):
        train.train_and_evaluate(tiny_config(num_devices=8), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_more_devices_than_available_are_refused():
    with pytest.raises(UserError, match=r"num_devices=9 is more than .* devices \(8\)"):
        parallel.local_devices(9)


def test_commands_that_do_not_train_use_the_devices_that_exist():
    config = tiny_config(num_devices=4000)
    assert len(experiment.resolve(config, read_only=True).devices) == 8
    assert len(experiment.resolve(tiny_config(num_devices=2), read_only=True).devices) == 2
    with pytest.raises(UserError, match="num_devices=4000 is more than"):
        experiment.resolve(config, read_only=True, given=("num_devices",))
    with pytest.raises(UserError, match="num_devices=4000 is more than"):
        experiment.resolve(config)


def test_running_out_of_device_memory_is_reported_in_one_line():
    refused = pytest.raises(UserError, match=r"not have enough memory .*: lower config\.batch_size")
    with refused, parallel.explain_device_errors():
        jnp.zeros(2**50, jnp.uint8).block_until_ready()


def test_a_pod_process_without_distributed_is_refused(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    with pytest.raises(UserError, match=r"one of 4 processes of a TPU pod: .* --distributed"):
        parallel.local_devices(0)
