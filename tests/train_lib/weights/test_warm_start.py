"""Training that starts from the weights of another run."""

import json
import shutil

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest

from configs import compare, lenet5, mlp, resnet, vgg
from configs.patterns import matching
from errors import UserError
from input_pipeline import batches
from models import layers, registry
from train_lib import recorder, train
from train_lib import state as state_lib
from train_lib.checkpoints import Checkpoints
from train_lib.experiment import resolve
from train_lib.train import train_and_evaluate
from train_lib.weights import foreign, warm_start


class Small(nn.Module):
    """Convolutions of these names, each with BatchNorm, and a classifier."""

    names: tuple[str, ...]
    classes: int = 3

    @nn.compact
    def __call__(self, x, train=False, drop_scale=1.0):
        for name in self.names:
            x = layers.Conv(4, (1, 1), name=name)(x)
            x = layers.BatchNorm(use_running_average=not train, name=f"{name}_bn")(x)
        return layers.FullyConnected(self.classes, name="fc8")(x)


def state_of(*names, seed=0, classes=3, averaged=False):
    return state_lib.create(Small(names, classes), optax.sgd(0.1), seed, (2, 2, 4), averaged)


def saved(workdir, state, step=5):
    checkpoints = Checkpoints(workdir)
    checkpoints.save(step, state)
    checkpoints.close()
    return str(workdir)


@pytest.fixture(scope="module")
def shallow():
    """A state in which every value differs from that of a new state."""
    state = state_of("conv1_1", "conv2_1", "conv3_1", seed=1)
    moved = jax.tree.map(lambda leaf: leaf + 1, (state.params, state.model_state))
    return state.replace(params=moved[0], model_state=moved[1])


def test_chosen_layers_are_loaded_and_the_others_stay_random(tmp_path, shallow):
    deep = state_of("conv1_1", "conv1_2", "conv2_1", "conv3_1", averaged=True)
    patterns = ("conv1*", "conv2_1/*", "conv2_1_bn/mean", "fc8/*", "!fc8/bias")
    state, origin = warm_start.load_into(deep, saved(tmp_path, shallow), patterns)
    taken = {
        **{f"{name}/{leaf}": "params" for name in ("conv1_1", "conv2_1") for leaf in ("kernel",)},
        **{f"{name}/bias": "params" for name in ("conv1_1", "conv1_1_bn", "conv2_1")},
        "conv1_1_bn/scale": "params",
        "fc8/kernel": "params",
        **{f"{name}/mean": "batch_stats" for name in ("conv1_1_bn", "conv2_1_bn")},
        "conv1_1_bn/var": "batch_stats",
    }
    actual = {"params": state.params, **state.model_state}
    for collection, tree in actual.items():
        for layer, leaves in tree.items():
            for leaf, value in leaves.items():
                there = taken.get(f"{layer}/{leaf}") == collection
                source = shallow if there else deep
                source = {"params": source.params, **source.model_state}
                np.testing.assert_array_equal(value, source[collection][layer][leaf])
    assert np.any(deep.params["conv1_1"]["kernel"] != state.params["conv1_1"]["kernel"])
    jax.tree.map(np.testing.assert_array_equal, state.average, state.params)
    assert int(state.step) == 0
    assert (origin.step, origin.source) == (5, str(tmp_path))
    assert set(origin.loaded) == {
        *("conv1_1", "conv1_1_bn", "conv2_1", "conv2_1_bn/mean", "fc8/kernel")
    }
    assert set(origin.drawn) == {
        *("conv1_2", "conv1_2_bn", "conv2_1_bn/scale", "conv2_1_bn/bias", "conv2_1_bn/var"),
        *("conv3_1", "conv3_1_bn", "fc8/bias"),
    }
    assert set(origin.unused) == {
        *("conv2_1_bn/scale", "conv2_1_bn/bias", "conv2_1_bn/var"),
        *("conv3_1", "conv3_1_bn", "fc8/bias"),
    }
    # Without patterns: all that is there.
    _, origin = warm_start.load_into(deep, str(tmp_path), ())
    assert origin.drawn == ["conv1_2", "conv1_2_bn"]
    assert origin.unused == []


def test_the_averages_of_a_run_are_loaded(tmp_path, shallow):
    other = shallow.replace(average=jax.tree.map(lambda leaf: 2 * leaf, shallow.params))
    state, _ = warm_start.load_into(state_of("conv1_1"), saved(tmp_path, other), ())
    kernel = shallow.params["conv1_1"]["kernel"]
    np.testing.assert_array_equal(state.params["conv1_1"]["kernel"], 2 * kernel)
    assert state.average is None


def test_a_damaged_checkpoint_is_skipped(tmp_path, shallow, capsys):
    saved(tmp_path, shallow, 5)
    saved(tmp_path, shallow, 6)
    file = tmp_path / "checkpoints" / "6" / "description" / "metadata"
    description = json.loads(file.read_text())
    description["arrays"][".params['conv1_1']['kernel']"][2] = "another checksum"
    file.write_text(json.dumps(description))
    _, origin = warm_start.load_into(state_of("conv1_1"), str(tmp_path), ())
    assert origin.step == 5
    assert "checkpoints/6 is damaged" in capsys.readouterr().err
    assert (tmp_path / "checkpoints" / "6").is_dir()  # another run's folder is left as it is


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (
            (),
            r"fc8/bias has the shape \[3\] in the source and \[2\] in this network: .*"
            r" --config.init_layers=\"\('!fc8/\*',\)\"",
        ),
        (("conv1/*",), r"conv1/\* matches no parameter of this network, which has conv1_1/"),
        (("conv9_9/*",), r"has none of conv9_9/"),
    ],
)
def test_weights_that_do_not_fit_are_one_line(tmp_path, shallow, patterns, message):
    state = state_of("conv1_1", "conv9_9", classes=2)
    with pytest.raises(UserError, match=message) as raised:
        warm_start.load_into(state, saved(tmp_path, shallow), patterns)
    assert "\n" not in str(raised.value)


def test_vggs_deep_networks_share_seven_layers_with_network_a():
    """Simonyan 2015, sec. 3.1.1: the first four convolutions and the three fc layers of A."""
    convolutions = ("conv1_1", "conv2_1", "conv3_1", "conv3_2")
    patterns = (*(f"{name}/*" for name in convolutions), "fc*")
    command = str(patterns).replace(" ", "")
    assert f'--config.init_layers="{command}"' in vgg.__doc__
    shapes = {}
    for argument in "ADE":
        module = registry.create(vgg.get_config(argument).model, 1000)
        images = jax.ShapeDtypeStruct((1, 224, 224, 3), np.float32)
        params = jax.eval_shape(lambda x, m=module: m.init(jax.random.key(0), x), images)["params"]
        shapes[argument] = {
            f"{layer}/{leaf}": value.shape
            for layer, leaves in params.items()
            for leaf, value in leaves.items()
        }
    first_four = [name for name in shapes["A"] if name.startswith("conv")][:8]
    assert {name.split("/")[0] for name in first_four} == set(convolutions)
    for argument in "DE":
        chosen = matching(list(shapes[argument]), patterns, "init_layers")
        assert len(chosen) == 14
        assert all(shapes[argument][name] == shapes["A"][name] for name in chosen)


def small_config(argument, **overrides):
    config = mlp.get_config(argument)
    config.update_from_flattened_dict(
        {
            "dataset.name": "digits",
            "batch_size": 100,
            "epochs": 0.3,
            "num_devices": 1,
            "log_every_steps": 1,
            "schedule.name": "constant",
            "schedule.learning_rate": 1e-30,  # so that the weights stay
            **overrides,
        }
    )
    return config


@pytest.mark.slow
def test_a_resumed_run_does_not_need_the_source_of_its_weights(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train, "finish", lambda *_: None)
    first = jax.device_get(train_and_evaluate(small_config("30"), tmp_path / "a"))
    overrides = {"init_from": str(tmp_path / "a"), "init_layers": ("h1/*",), "seed": 1}
    config = small_config("30-20", **overrides)

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(batches, "train_batches", stop)  # before the first step
        with pytest.raises(KeyboardInterrupt):
            train_and_evaluate(config, tmp_path / "b")
    message = capsys.readouterr().err
    assert f"weights  {tmp_path / 'a'}, step 5: h1\n" in message
    assert "drawn  h2, output\n" in message
    assert "unused  output\n" in message
    shutil.rmtree(tmp_path / "a")
    state = jax.device_get(train_and_evaluate(config, tmp_path / "b"))
    np.testing.assert_array_equal(state.params["h1"]["kernel"], first.params["h1"]["kernel"])
    assert [record["step"] for record in recorder.read(tmp_path / "b")] == [1, 2, 3, 4, 5]
    # What it began with is part of what it is.
    assert json.loads((tmp_path / "b" / "config.json").read_text())["init_layers"] == ["h1/*"]
    with pytest.raises(UserError, match=r"init_layers: \['h1/\*'\] -> \[\]"):
        train_and_evaluate(small_config("30-20", **overrides | {"init_layers": ()}), tmp_path / "b")


@pytest.mark.slow
def test_training_does_not_change_frozen_layers(tmp_path, monkeypatch, capsys):
    """Also when it is resumed."""
    monkeypatch.setattr(train, "finish", lambda *_: None)
    fields = {"schedule.learning_rate": 0.1, "optimizer.weight_decay": 0.1}
    fields |= {"optimizer.frozen": ("h1/*",), "checkpoint.every_steps": 2}
    config = small_config("30-20", **fields)
    whole = jax.device_get(train_and_evaluate(config, tmp_path))
    assert "frozen  23,550 of 24,380 parameters\n" in capsys.readouterr().err
    start = resolve(config).new_state().params
    for layer in ("h1", "h2", "output"):
        for name, leaf in whole.params[layer].items():
            assert np.array_equal(leaf, start[layer][name]) == (layer == "h1"), (layer, name)
    shutil.rmtree(tmp_path / "checkpoints" / "5")  # as if it had been interrupted before
    resumed = jax.device_get(train_and_evaluate(config, tmp_path))
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)


def test_settings_that_the_weights_were_not_trained_with_are_named(tmp_path):
    source = small_config("30", **{"model.activation": "tanh", "preprocess.high": 2.0})
    (tmp_path / "config.json").write_text(json.dumps(source.to_dict()))
    exp = resolve(small_config("30", init_from=str(tmp_path)))
    expected = ["preprocess.high: 2.0 -> 1.175", "model.activation: tanh -> scaled_tanh"]
    described = {"name": "letters", "class_names": list("abcdefghij")}
    (tmp_path / "dataset.json").write_text(json.dumps(described))
    classes = "classes: 10 classes (a, b, c, ...) -> 10 classes (0, 1, 2, ...)"
    assert warm_start.changed_settings(exp) == [*expected, classes]
    described["class_names"] = list("0123456789")
    (tmp_path / "dataset.json").write_text(json.dumps(described))
    assert warm_start.changed_settings(exp) == expected
    exp = resolve(small_config("20", init_from=str(tmp_path), **{"model.activation": "tanh"}))
    origin = warm_start.Origin(str(tmp_path), 5, ["h1"], [], [], warm_start.changed_settings(exp))
    assert origin.rows()["changed"] == "preprocess.high: 2.0 -> 1.175"


def test_the_published_lenet5_starts_from_a_run(tmp_path):
    """Its codes are those of ten classes: no other number of classes can be tried."""
    config = lenet5.get_config("digits")
    config.update({"num_devices": 1, "steps": 1, "batch_size": 16})
    trained = train_and_evaluate(config, tmp_path / "first")
    config.update({"init_from": str(tmp_path / "first"), "seed": 1})
    exp = resolve(config)
    state, origin = warm_start.warm_start(exp, exp.new_state())
    jax.tree.map(np.testing.assert_array_equal, state.params, trained.params)
    assert "c1" in origin.loaded and not origin.drawn


def test_a_missing_source_is_refused_before_anything_is_written(tmp_path):
    config = small_config("30", init_from=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"config\.init_from=.*nowhere: there is no run with a"):
        train_and_evaluate(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_names_the_settings_of_its_weights_and_not_the_weights(tmp_path, capsys):
    config = resnet.get_config("18")
    config.init_from, config.init_settings = "net.safetensors", "view.test_scale"
    (tmp_path / "checkpoints" / "1").mkdir(parents=True)
    (tmp_path / "config.json").write_text(compare.to_json(config))
    config.init_settings = "auto"
    settled = foreign.settle(config, tmp_path, read_only=True)
    assert (settled.init_from, settled.init_settings) == ("net.safetensors", "view.test_scale")
    assert capsys.readouterr().err == "net.safetensors sets view.test_scale=256\n"
