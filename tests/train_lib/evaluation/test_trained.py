"""Networks opened in Python give the results of the commands, also without the data set."""

import csv
import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from conftest import tiny_config
from PIL import Image

from configs.mlp import get_config
from errors import UserError
from input_pipeline import sources
from train_lib import workdir as folder_lib
from train_lib.checkpoints import Checkpoints
from train_lib.commands import evaluate, export, predict
from train_lib.commands.summary import summarise
from train_lib.evaluation import ensemble
from train_lib.evaluation.trained import load_run
from train_lib.train import train_and_evaluate
from train_lib.weights import exported


@pytest.fixture(scope="module")
def digits(finished_run, tmp_path_factory):
    """A short run of LeNet-5, its state, and its exported file."""
    workdir = shutil.copytree(finished_run[0], tmp_path_factory.mktemp("trained") / "run")
    export.export_run(tiny_config(), workdir, "")
    return workdir, finished_run[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run on a folder of images that is deleted afterwards, and one of the images."""
    root = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (root / "data" / name).mkdir(parents=True)
        for i in range(4):
            pixels = rng.integers(0, 256, (40, 50, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(root / "data" / name / f"{i}.png")
    config = get_config("20")
    config.update_from_flattened_dict(
        {
            "dataset.name": "folder",
            "dataset.data_dir": str(root / "data"),
            "dataset.test_fraction": 0.5,
            "view.size": 32,
            "view.train_scale": (32, 40),
            "view.test_scale": 36,
            "batch_size": 4,
            "epochs": 1.0,
            "num_devices": 1,
        }
    )
    train_and_evaluate(config, root / "run")
    shutil.copy(root / "data" / "cat" / "0.png", root / "cat.png")
    line = predict.predict_images(config, root / "run", [str(root / "cat.png")])
    shutil.rmtree(root / "data")
    return root, config, line


def test_a_run_opens_with_its_weights_classes_and_preprocessing(digits):
    workdir, state = digits
    network = load_run(workdir)
    assert network.step == 29
    assert network.params["c3"]["kernel"].shape == (5, 5, 60)
    jax.tree.map(np.testing.assert_array_equal, network.params, dict(state.params))
    assert (network.input_shape, list(network.class_names)) == ((32, 32, 1), list("0123456789"))
    assert network.config.loss.name == "map"
    split = sources.load(network.config.dataset, network.config.dataset.test_split)
    logits = network.module.apply(network.variables, network.preprocess(split.images))
    evaluate.evaluate_run(network.config, workdir)
    (file,) = workdir.glob("evaluation/*/predictions.csv")
    rows = list(csv.DictReader(file.open()))
    assert [row["class1"] for row in rows] == [str(i) for i in np.argmax(logits, axis=1)]
    probabilities = network.predict(split.images).max(axis=1)
    expected = [float(row["probability1"]) for row in rows]
    np.testing.assert_allclose(probabilities, expected, rtol=1e-4)


def test_other_checkpoints_of_a_run(digits):
    workdir, _ = digits
    assert load_run(workdir, 20).step == 20
    best = Checkpoints(workdir, read_only=True).best_step()
    assert load_run(str(workdir), "best").step == best
    with pytest.raises(UserError, match="there is no checkpoint 7 in"):
        load_run(workdir, 7)
    with pytest.raises(UserError, match="give latest, best, or a step"):
        load_run(workdir, "first")
    with pytest.raises(UserError, match="no run with a checkpoint"):
        load_run(workdir / "nothing")


def test_a_run_that_was_never_evaluated_has_no_best_checkpoint(digits, monkeypatch):
    monkeypatch.setattr("train_lib.checkpoints.Checkpoints.best_step", lambda self: None)
    with pytest.raises(UserError, match="was evaluated: use the latest"):
        load_run(digits[0], "best")


def test_an_exported_file_gives_the_predictions_of_its_run(digits):
    workdir, _ = digits
    network, run = load_run(workdir / "weights.safetensors"), load_run(workdir)
    jax.tree.map(np.testing.assert_array_equal, dict(network.variables), dict(run.variables))
    digit = np.full((28, 28), 200, np.uint8)
    np.testing.assert_array_equal(network.predict(digit), run.predict(digit))
    assert network.top(digit)[0][0][1] == network.predict(digit).max()


def test_an_ensemble_on_another_data_set_names_the_classes(digits, tmp_path):
    workdir, _ = digits
    for member in (workdir, workdir / "weights.safetensors"):
        config = tiny_config(**{"dataset.name": "cifar10", "dataset.data_dir": str(tmp_path)})
        config.evaluate.ensemble = f"{member},{member}"
        message = rf"{member} was trained on other classes .*0, 1, .* those of cifar10 .*airplane"
        with pytest.raises(UserError, match=message):
            ensemble.find(config, tmp_path)


def test_a_prediction_needs_no_common_data_set(digits, tmp_path):
    """The members may be of sets with other names and the same classes."""
    workdir, _ = digits
    config = tiny_config(**{"dataset.name": "mnist", "evaluate.ensemble": f"{workdir},{workdir}"})
    config.dataset.on_bad_image = "skip"
    members = ensemble.find(config, tmp_path, needs_data=False)
    assert {member.exp.reading.on_bad_image for member in members} == {"skip"}
    assert [member.exp.config.dataset.name for member in members] == ["digits", "digits"]


def test_a_name_with_a_comma_stands_in_quotes(digits, tmp_path):
    (tmp_path / "a,b").symlink_to(digits[0])
    config = tiny_config(**{"evaluate.ensemble": f'"{tmp_path}/a,b", {digits[0]}'})
    names = [member.name for member in ensemble.find(config, tmp_path)]
    assert names == [f"{tmp_path}/a,b", str(digits[0])]


def test_paths_arrays_and_pil_images_give_the_same_view(digits, tmp_path):
    network = load_run(digits[0])
    pixels = np.random.default_rng(0).integers(0, 100, (28, 28)).astype(np.uint8)
    pixels[0] = pixels[-1] = pixels[:, 0] = pixels[:, -1] = 0  # dark: as the digits are
    Image.fromarray(pixels).save(tmp_path / "a.png")
    kinds = [pixels, pixels[..., None], Image.fromarray(pixels), tmp_path / "a.png"]
    for kind in [*kinds, [kinds[2]], np.stack([pixels[..., None]])]:
        np.testing.assert_array_equal(network.views(kind), pixels[None, ..., None])
    assert network.predict([*kinds, str(tmp_path / "a.png")]).shape == (5, 10)
    assert network.activations(pixels)["s4"].shape == (1, 5, 5, 16)


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        (
            np.zeros((28, 28), np.float32),
            r"array of float32 \[28, 28, 1\] is not an image: give uint8",
        ),
        (np.zeros((29, 28), np.uint8), r"\[29, 28, 1\], and the network takes \[28, 28, 1\]"),
        (
            np.zeros((28, 28, 3), np.uint8),
            r"\[28, 28, 3\], and the network takes \[28, 28, 1\]",
        ),
        (["nothing.png"], "no image file nothing.png"),
        ([], "there are no images"),
    ],
)
def test_a_wrong_picture_is_one_line(digits, pictures, message):
    with pytest.raises(UserError, match=message) as error:
        load_run(digits[0]).predict(pictures)
    assert "\n" not in str(error.value)


def test_the_data_set_may_be_missing(folder, tmp_path):
    root, config, line = folder
    network = load_run(root / "run")
    probabilities = dict(network.top(root / "cat.png")[0])
    shown = [f"{name} ({100 * p:.0f} %)" for name, p in probabilities.items() if p >= 0.005]
    assert line.endswith(f": {', '.join(shown)}")
    assert predict.predict_images(config, root / "run", [str(root / "cat.png")]) == line
    pixels = np.asarray(Image.open(root / "cat.png"))
    np.testing.assert_array_equal(network.predict(pixels), network.predict(str(root / "cat.png")))
    export.export_run(config, root / "run", str(tmp_path / "a.safetensors"))
    stored = load_run(tmp_path / "a.safetensors")
    np.testing.assert_array_equal(stored.predict(pixels), network.predict(pixels))
    assert "61,502" in summarise(config, "table", workdir=root / "run")
    with pytest.raises(UserError, match="no folder"):  # another set, which is not there
        summarise(config, "table", ["dataset.data_dir"], root / "run")
    config.evaluate.ensemble = str(tmp_path / "a.safetensors")
    assert predict.predict_images(config, tmp_path, [str(root / "cat.png")]) == line


def test_files_without_an_image_shape(digits, tmp_path):
    workdir, _ = digits
    stored = exported.load(workdir / "weights.safetensors")
    info = dataclasses.replace(stored.info, image_shape=None)
    exported.save(tmp_path / "a.safetensors", dataclasses.replace(stored, info=info))
    digit = np.full((28, 28), 200, np.uint8)
    expected = load_run(workdir).predict(digit)
    np.testing.assert_array_equal(load_run(tmp_path / "a.safetensors").predict(digit), expected)


def test_pil_images_of_any_mode_are_read(digits):
    network = load_run(digits[0])
    pixels = np.zeros((28, 28), np.uint8)
    pixels[4:24, 13:16] = 255
    expected = network.predict(pixels)
    image = Image.fromarray(pixels)
    for mode in ("RGB", "P", "RGBA", "1"):
        np.testing.assert_allclose(network.predict(image.convert(mode)), expected, atol=1e-6)


def test_activations_are_those_of_the_annealed_network(tmp_path):
    config = get_config("8")
    fields = {
        "dataset.name": "digits",
        "model.regulariser": "dropout",
        "model.dropout_scaling": "test",
        "schedule.drop_anneal_epochs": 0.5,
        "epochs": 1.0,
        "batch_size": 500,
        "num_devices": 1,
    }
    config.update_from_flattened_dict(fields)
    train_and_evaluate(config, tmp_path)
    network = load_run(tmp_path)
    digit = np.full((28, 28), 200, np.uint8)
    assert network.drop_scale == 0
    outputs = network.activations(digit)["output"]
    np.testing.assert_allclose(jax.nn.softmax(outputs), network.predict(digit), rtol=1e-5)


@pytest.mark.slow
def test_a_machine_with_fewer_devices_and_no_data_opens_a_run(tmp_path):
    """The config is that of an older version: it lacks some of the model's options."""
    config = tiny_config(num_devices=4, epochs=1.0)
    config.update_from_flattened_dict(
        {"model.regulariser": "standout", "schedule.drop_anneal_epochs": 9.0}
    )
    train_and_evaluate(config, tmp_path / "run")
    export.export_run(config, tmp_path / "run", "")
    path = tmp_path / "run" / "config.json"
    stored = json.loads(path.read_text())
    del stored["model"]["c3"], stored["model"]["standout_beta"]
    stored["model"]["lrn"] = "none"  # an option that LeNet-5 no longer has
    stored["dataset"] |= {"name": "mnist", "data_dir": "/nowhere"}
    stored["num_devices"] = 4000
    path.write_text(json.dumps(stored))
    digit = np.full((28, 28), 200, np.uint8)
    network, file = load_run(tmp_path / "run"), load_run(tmp_path / "run" / "weights.safetensors")
    assert file.config.num_devices == 1
    assert exported.load(tmp_path / "run" / "weights.safetensors").config.num_devices == 0
    np.testing.assert_array_equal(network.predict(digit), file.predict(digit))
    config.dataset.update({"name": "mnist", "data_dir": "/nowhere"})
    config.num_devices = 4000
    assert folder_lib.different_fields(tmp_path / "run", config) == []
    config.model.c3 = "full"
    differences = folder_lib.different_fields(tmp_path / "run", config)
    assert differences == ["model.c3: table -> full"]
    # The config must be that of the run, also in its data set and view.
    config = tiny_config(**{"view.test_scale": 20})
    with pytest.raises(UserError, match=r"dataset\.name: .*; view\.test_scale: 256 -> 20"):
        predict.predict_images(config, tmp_path / "run", [str(path)])
