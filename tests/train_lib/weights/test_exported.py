"""An exported file holds the exact network and needs no other file; damaged files are refused."""

import dataclasses
import importlib
import json
import os

import jax
import numpy as np
import pytest
from conftest import slow_where, tiny_config

from configs import compare, mlp
from errors import UserError
from input_pipeline.split import Info
from train_lib import experiment
from train_lib import state as state_lib
from train_lib.commands import evaluate, export
from train_lib.evaluation import ensemble
from train_lib.train import train_and_evaluate
from train_lib.weights import exported

OVERRIDES = {
    "dataset.name": "digits",
    "preprocess.mean": "pixel",
    "preprocess.low": 0.0,
    "optimizer.averaging": 0.9,
    "epochs": 1.0,
    "num_devices": 1,
}


def config_of(**overrides):
    config = mlp.get_config("20")
    config.update_from_flattened_dict({**OVERRIDES, **overrides})
    return config


@pytest.fixture(scope="module")
def exported_run(tmp_path_factory):
    """A run with a mean image and averaged weights, and its file."""
    folder = tmp_path_factory.mktemp("export")
    train_and_evaluate(config_of(), folder / "run")
    file = folder / "net.safetensors"
    printed = export.export_run(config_of(), folder / "run", str(file))
    assert str(file) in printed
    return folder / "run", file


def test_the_file_holds_exactly_the_run(exported_run):
    workdir, file = exported_run
    (member,) = ensemble.find(config_of(), workdir)
    network = member.open()
    stored = exported.load(file)
    assert stored.step == network.step
    assert stored.class_names == list("0123456789")
    jax.tree.map(np.testing.assert_array_equal, stored.variables, dict(network.variables))
    np.testing.assert_array_equal(stored.statistics.image, member.exp.statistics.image)
    assert stored.statistics.examples == member.exp.statistics.examples
    expected = compare.flatten(config_of(num_devices=0))  # of any machine
    assert compare.flatten(stored.config) == expected
    raw = file.read_bytes()
    assert str(workdir).encode() not in raw


def test_the_file_is_evaluated_like_the_run(exported_run, tmp_path):
    workdir, file = exported_run
    run = json.loads(evaluate.evaluate_run(config_of(), workdir))
    for names in (str(file), f"{file},{workdir}"):  # the mean of equals
        config = config_of(**{"evaluate.ensemble": names})
        result = json.loads(evaluate.evaluate_run(config, tmp_path))
        assert result["loss"] == pytest.approx(run["loss"], rel=1e-5)
        assert result["top1_error"] == run["top1_error"]


def test_a_run_starts_from_the_file(exported_run, tmp_path):
    workdir, file = exported_run
    start = {"init_from": str(file), "epochs": 0.01, "schedule.learning_rate": 1e-30}
    state = train_and_evaluate(config_of(**start), tmp_path / "a")
    start["init_from"] = str(workdir)
    expected = train_and_evaluate(config_of(**start), tmp_path / "b")
    jax.tree.map(np.testing.assert_array_equal, state.params, expected.params)
    with pytest.raises(UserError, match="no such file"):
        train_and_evaluate(config_of(init_from="/nowhere.safetensors"), tmp_path / "c")


@pytest.mark.parametrize("damage", ["empty", "cut", "header", "other", "missing", "no tensor"])
def test_a_wrong_file_is_refused_in_one_line(exported_run, tmp_path, damage):
    import safetensors.numpy

    content, path = exported_run[1].read_bytes(), tmp_path / "a.safetensors"
    if damage == "other":  # somebody else's
        content = safetensors.numpy.save({"x": np.zeros(3)})
    if damage == "no tensor":  # a header of ours with other tensors
        with safetensors.safe_open(exported_run[1], framework="numpy") as file:
            content = safetensors.numpy.save({"params/a": np.zeros(3)}, file.metadata())
    if damage == "header":
        content = b"\xff" * 8 + content[8:]
    if damage != "missing":
        path.write_bytes({"empty": b"", "cut": content[:-9]}.get(damage, content))
    with pytest.raises(UserError) as error:
        evaluate.evaluate_run(config_of(**{"evaluate.ensemble": str(path)}), tmp_path)
    assert "\n" not in str(error.value)
    assert "weight file" in str(error.value)


def test_a_wrong_suffix_or_a_full_disk_leaves_no_file(exported_run, tmp_path, monkeypatch):
    workdir, _ = exported_run
    with pytest.raises(UserError, match=r"must end in \.safetensors"):
        export.export_run(config_of(), workdir, str(tmp_path / "net.bin"))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        export.export_run(config_of(), workdir, str(tmp_path / "net.safetensors"))
    assert list(tmp_path.iterdir()) == []


def test_other_classes_are_refused(exported_run, tmp_path):
    config = tiny_config(**{"dataset.name": "digits", "evaluate.ensemble": str(exported_run[1])})
    assert json.loads(evaluate.evaluate_run(config, tmp_path))["examples"] == 355
    stored = exported.load(exported_run[1])
    info = dataclasses.replace(stored.info, class_names=tuple("abcdefghij"))
    other = dataclasses.replace(stored, info=info)
    exported.save(tmp_path / "other.safetensors", other)
    config.evaluate.ensemble = str(tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="was trained on other classes"):
        evaluate.evaluate_run(config, tmp_path)


FAMILIES = {
    "lenet5": "digits",
    "mlp": "300",
    "connectivity": "shared",
    "filter_bank": "oriented",
    "rbm": "500",
    "alexnet": "two_tower",
    "vgg": "A",
    "googlenet": "batch_norm",
    "resnet": "18",
    "resnet_cifar10": "20",
    "cuda_convnet": "18pct",
    "maxout": "cifar10",
}
LARGE = ("alexnet", "vgg", "googlenet", "resnet", "maxout")


@pytest.mark.parametrize("name", slow_where(LARGE.__contains__, FAMILIES))
def test_weights_of_every_family_are_read_exactly(name, tmp_path):
    config = importlib.import_module(f"configs.{name}").get_config(FAMILIES[name])
    if name == "vgg":  # fewer weights
        config.model.image_size = config.view.size = 32
    info = Info("pictures", (config.view.size or 32,) * 2 + (3,), tuple("abc"))
    if config.dataset.name in ("digits", "mnist"):
        info = Info("digits", (28, 28, 1), tuple("0123456789"))
    exp = experiment.resolve(config, known=experiment.KnownData(info))
    rng = np.random.default_rng(0)
    shapes = state_lib.variable_shapes(exp.module, exp.input_shape)
    variables = jax.tree.map(lambda s: rng.random(s.shape, np.float32), dict(shapes))
    stored = exported.Weights(config, info, 7, variables)
    exported.save(tmp_path / "a.safetensors", stored)
    result = exported.load(tmp_path / "a.safetensors")
    exported.check_fits(result, exp, tmp_path)
    assert jax.tree.structure(result.variables) == jax.tree.structure(variables)
    jax.tree.map(np.testing.assert_array_equal, result.variables, variables)
    assert compare.flatten(result.config) == compare.flatten(config)


def test_weights_that_are_not_finite_are_refused(exported_run, tmp_path):
    stored = exported.load(exported_run[1])
    stored.variables["params"]["h1"]["kernel"][3, 2] = np.nan
    exported.save(tmp_path / "bad.safetensors", stored)
    with pytest.raises(UserError, match=r"bad\.safetensors \(params/h1/kernel is not finite\)"):
        exported.load(tmp_path / "bad.safetensors")


def test_a_loss_that_is_not_finite_is_null_and_is_reported(exported_run, tmp_path, capsys):
    stored = exported.load(exported_run[1])
    stored.variables["params"]["h1"]["kernel"][:] = 3e38  # the outputs overflow
    exported.save(tmp_path / "large.safetensors", stored)
    config = config_of(**{"evaluate.ensemble": str(tmp_path / "large.safetensors")})
    line = evaluate.evaluate_run(config, tmp_path)
    assert json.loads(line, parse_constant=pytest.fail)["loss"] is None
    assert "large.safetensors: the loss is nan, so" in capsys.readouterr().err
    text = next(tmp_path.rglob("result.json")).read_text()
    assert json.loads(text, parse_constant=pytest.fail)["loss"] is None
