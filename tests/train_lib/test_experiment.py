"""What follows from a config: the plan of the steps, and the statistics that a run stores."""

import json
import math
import shutil

import jax
import numpy as np
import pytest
from conftest import tiny_config
from PIL import Image

from configs import resnet_cifar10
from configs.mlp import get_config
from errors import UserError
from input_pipeline import sources, statistics, stream
from train_lib import experiment, recorder, state, train
from train_lib.commands.evaluate import evaluate_run
from train_lib.commands.predict import predict_images
from train_lib.experiment import resolve
from train_lib.train import train_and_evaluate


def config(**overrides):
    """6 steps of a network with a hidden layer; a mean image and random brightness on digits."""
    config = get_config("20")
    config.update_from_flattened_dict(
        {
            "dataset.name": "digits",
            "preprocess.low": 0.0,
            "preprocess.mean": "pixel",
            "augment.lighting": "deviations",
            "num_devices": 1,
            "batch_size": 250,
            "epochs": 1.0,
            "checkpoint.every_steps": 3,
            **overrides,
        }
    )
    return config


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    return workdir, jax.device_get(train_and_evaluate(config(), workdir))


@pytest.fixture
def other_set(monkeypatch):
    """Changes the statistics of the training set."""

    def find_or_compute(dataset, view, load_split, workers):
        images = 255 - load_split().images
        return statistics.compute(images, len(images), "changed")

    monkeypatch.setattr(statistics, "find_or_compute", find_or_compute)


def test_the_run_stores_its_statistics(trained):
    workdir, _ = trained
    actual = statistics.load(workdir / "statistics.npz")
    images = sources.load(config().dataset, "train").images
    np.testing.assert_allclose(actual.image, images.mean(axis=0), rtol=1e-6)
    assert actual.examples == len(images)


def test_a_resumed_run_equals_an_uninterrupted_one_and_uses_its_statistics(
    trained, tmp_path, other_set
):
    workdir, whole = trained
    assert int(whole.step) == 6
    copy = shutil.copytree(workdir, tmp_path / "copy")
    shutil.rmtree(copy / "checkpoints" / "6")  # as if it had been killed before
    again = jax.device_get(train_and_evaluate(config(), copy))
    jax.tree.map(np.testing.assert_array_equal, again, whole)


def test_a_run_without_a_checkpoint_computes_its_statistics_again(trained, tmp_path, other_set):
    """Its images may have changed since it was stopped."""
    workdir, _ = trained
    copy = shutil.copytree(workdir, tmp_path / "copy")
    shutil.rmtree(copy / "checkpoints")
    (copy / "metrics.jsonl").unlink()
    train_and_evaluate(config(), copy)
    before, after = (statistics.load(d / "statistics.npz").image for d in (workdir, copy))
    np.testing.assert_allclose(after, 255 - before, rtol=1e-5)


def test_an_evaluation_uses_the_statistics_of_the_run(trained, other_set, tmp_path):
    workdir, _ = trained
    actual = json.loads(evaluate_run(config(), workdir))
    last = recorder.read(workdir)[-1]
    assert actual["loss"] == pytest.approx(last["test/loss"], rel=1e-6)
    assert actual["top1_error"] == last["test/top1_error"]
    picture = tmp_path / "digit.png"
    Image.fromarray(sources.load(config().dataset, "test").images[0, ..., 0]).save(picture)
    first = predict_images(config(), workdir, [str(picture)])
    # Without its own copy it would take the other set's, and say something else.
    copy = shutil.copytree(workdir, tmp_path / "copy")
    (copy / "statistics.npz").unlink()
    assert predict_images(config(), copy, [str(picture)]) != first


def test_another_mean_is_refused_and_damaged_statistics_are_one_line(trained, tmp_path):
    workdir, _ = trained
    with pytest.raises(UserError, match=r"preprocess\.mean: pixel -> channel"):
        train_and_evaluate(config(**{"preprocess.mean": "channel"}), workdir)
    copy = shutil.copytree(workdir, tmp_path / "copy")
    (copy / "statistics.npz").write_bytes(b"damaged")
    with pytest.raises(UserError, match="cannot read the statistics"):
        evaluate_run(config(), copy)


def test_statistics_are_computed_only_if_they_are_needed(monkeypatch):
    monkeypatch.setattr(statistics, "find_or_compute", None)
    experiment.resolve(config())  # as the summary does
    assert experiment.resolve(tiny_config()).statistics is None


def test_frozen_layers_by_patterns():
    def resolved(*patterns):
        config = resnet_cifar10.get_config("20")
        config.dataset.name, config.preprocess.crop = "digits", 8
        config.optimizer.frozen = patterns
        return experiment.resolve(config)

    assert not resolved().frozen and not resolved().module.fixed_statistics
    exp = resolved("conv1/*", "bn1/*", "conv2_1/bn*")
    assert len(exp.frozen) == 1 + 4 + 2 * 4  # a kernel; gamma, beta, mean and variance
    assert exp.recipe.frozen == exp.frozen
    assert exp.recipe.module.fixed_statistics == ("bn1", "conv2_1/bn1", "conv2_1/bn2")
    assert len(resolved("!fc/*").module.fixed_statistics) == 19
    assert not resolved("*/kernel", "bn1/scale", "bn1/mean").module.fixed_statistics
    for patterns, message in (
        (("conv9/*",), r"optimizer\.frozen: conv9/\* matches no parameter of this network"),
        (("!*/var",), r"optimizer\.frozen=.*: no parameter is left to train: exclude a layer"),
    ):
        with pytest.raises(UserError, match=message):
            resolved(*patterns)


def test_small_sets_of_whole_images_live_on_accelerators(monkeypatch):
    def is_resident(**overrides):
        return bool(experiment.resolve(tiny_config(**overrides)).resident_data)

    assert not is_resident()  # these devices are CPUs
    monkeypatch.setattr(experiment.parallel, "have_own_memory", lambda devices: True)
    assert is_resident()
    assert not is_resident(**dict.fromkeys(("view.size", "view.test_scale"), 28))  # cut
    monkeypatch.setattr(experiment, "_MOST_RESIDENT", 1442 * 28 * 28 - 1)
    assert not is_resident()
    monkeypatch.setattr(experiment, "_MOST_RESIDENT", 1442 * 28 * 28)
    assert is_resident()


def test_the_users_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert experiment.resolve(tiny_config(), "~/run").workdir == tmp_path / "run"


def test_rates_for_another_batch_size_are_scaled_in_proportion():
    config = tiny_config(batch_size=50)
    config.schedule.for_batch = 200
    assert resolve(config).rate_scale == 0.25


@pytest.mark.parametrize("order", ["fixed", "new"])
def test_the_order_of_the_images_is_that_of_the_config(monkeypatch, order):
    monkeypatch.setattr(stream, "TrainBatches", lambda split, reading, order, *rest: order)
    config = tiny_config()
    config.dataset.order = order
    assert resolve(config).train_batches(0).fixed == (order == "fixed")


def test_networks_and_batches_that_do_not_fit_into_memory_are_refused(monkeypatch):
    """Parameters, gradient and velocity; a batch in float32."""
    exp = resolve(tiny_config(batch_size=50))
    batch = 50 * math.prod(exp.input_shape) * 4
    shapes = jax.tree.leaves(state.variable_shapes(exp.module, exp.input_shape))
    needed = 3 * 4 * sum(leaf.size for leaf in shapes)
    assert needed > batch
    available = needed * len(exp.devices)
    monkeypatch.setattr(train.memory, "total_bytes", lambda device: available)
    train.check_memory(exp)
    available -= 1
    with pytest.raises(UserError, match="make the network smaller"):
        train.check_memory(exp)
    available = batch - 1
    with pytest.raises(UserError, match="a batch needs"):
        train.check_memory(exp)
