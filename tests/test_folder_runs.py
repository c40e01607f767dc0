"""A folder of images from end to end: training, resume, evaluation, prediction, mistakes."""

import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image
from test_command_line import refused, run

from configs import mlp
from errors import UserError
from input_pipeline import prepare
from train_lib import train
from train_lib.commands import evaluate, predict
from train_lib.train import train_and_evaluate

COLOURS = {"blue": (40, 60, 200), "green": (60, 180, 60), "red": (200, 50, 40)}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Noisy images of many sizes, one colour for each class: 12 to train and 3 to test."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for part, count in (("train", 12), ("val", 3)):
        for name, colour in COLOURS.items():
            folder = root / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                size = (*rng.integers(20, 50, 2), 3)
                pixels = np.clip(rng.normal(colour, 40, size), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.{'jpg' if i % 2 else 'png'}")
    return root


def config_of(folder, **overrides):
    """A small network, with every augmentation on the device that needs statistics."""
    config = mlp.get_config("30")
    config.update_from_flattened_dict(
        {
            "dataset.name": "folder",
            "dataset.data_dir": str(folder),
            "view.size": 12,
            "view.train_scale": (14, 18),
            "view.test_scale": 14,
            "preprocess.mean": "pixel",
            "preprocess.low": 0.0,
            "preprocess.high": 2.0,
            "augment.flip": True,
            "augment.lighting": "deviations",
            "augment.photometric": 0.2,
            "batch_size": 6,
            "num_devices": 1,
            "epochs": 4.0,
            "steps_per_dispatch": 1,
            "log_every_steps": 3,
            "checkpoint.every_steps": 5,
            "schedule.name": "constant",
            "schedule.learning_rate": 0.02,
            **overrides,
        }
    )
    return config


@pytest.fixture(scope="module")
def whole(pictures, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "whole"
    return workdir, jax.device_get(train_and_evaluate(config_of(pictures), workdir))


def test_a_run_learns_the_colours_and_stores_its_classes_and_statistics(pictures, whole):
    workdir, _ = whole
    config = config_of(pictures)
    found = json.loads(evaluate.evaluate_run(config, workdir))
    assert found["examples"] == 9
    assert found["top1_error"] == 0
    assert found["dataset"] == "folder"
    assert json.loads((workdir / "dataset.json").read_text())["class_names"] == sorted(COLOURS)
    assert (workdir / "statistics.npz").exists()
    path = pictures / "val" / "red" / "0.png"
    line = predict.predict_images(config, workdir, [str(path)])
    assert line == f"{path}: red (100 %)"  # the folder's name


@pytest.mark.parametrize(("workers", "step"), [(0, 7), pytest.param(1, 11, marks=pytest.mark.slow)])
def test_a_run_that_is_killed_and_resumed_equals_an_uninterrupted_one(
    pictures, whole, tmp_path, monkeypatch, workers, step
):
    """Decoding in processes or threads; killed at a step without a checkpoint."""
    config = config_of(pictures, **{"dataset.workers": workers})

    class Death(BaseException):
        pass

    scatter = train.parallel.scatter
    seen = []

    def scatter_and_die(batch, devices):
        seen.append(batch)
        if len(seen) == step:
            raise Death
        return scatter(batch, devices)

    with monkeypatch.context() as patch:
        patch.setattr(train.parallel, "scatter", scatter_and_die)
        with pytest.raises(Death):
            train_and_evaluate(config, tmp_path / "run")
    found = jax.device_get(train_and_evaluate(config, tmp_path / "run"))
    jax.tree.map(np.testing.assert_array_equal, found, whole[1])


def refused_untouched(config, workdir, match, **options):
    """Training refuses the config, and every file of the workdir stays as it is."""
    before = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=match):
        train_and_evaluate(config, workdir, **options)
    assert {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("epochs", [4.0, 6.0])
def test_other_classes_are_refused_by_a_run_that_is_resumed(epochs, pictures, whole, tmp_path):
    root, workdir = tmp_path / "pictures", tmp_path / "run"
    shutil.copytree(pictures, root)
    shutil.copytree(whole[0], workdir)
    config, flag = config_of(root, epochs=epochs), {"allow_config_change": epochs > 4}
    for part in ("train", "val"):
        (root / part / "red").rename(root / part / "amber")
    lists = r"other classes \(3: blue, green, red\) than those of folder \(3: amber, blue, green\)"
    refused_untouched(config, workdir, lists, **flag)
    for part in ("train", "val"):
        shutil.copytree(root / part / "amber", root / part / "red")
    refused_untouched(config, workdir, r"\(4: amber, blue, green, red\)", **flag)


def test_another_number_of_images_is_refused_without_the_flag(pictures, whole, tmp_path):
    root, workdir = tmp_path / "pictures", tmp_path / "run"
    shutil.copytree(pictures, root)
    shutil.copytree(whole[0], workdir)
    shutil.copy(root / "train" / "red" / "0.png", root / "train" / "red" / "more.png")
    match = "was trained on 36 images and the data set has 37 now: .* --allow_config_change"
    refused_untouched(config_of(root), workdir, match)
    state = train_and_evaluate(config_of(root, epochs=4.2), workdir, allow_config_change=True)
    assert int(state.step) > 24


@pytest.mark.parametrize("name", ["config.json", "dataset.json"])
def test_a_run_without_its_description_is_not_resumed(name, pictures, whole, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(whole[0], workdir)
    (workdir / name).unlink()
    match = f"has checkpoints but no {name}: restore the file"
    refused_untouched(config_of(pictures), workdir, match)


def test_a_mean_of_another_size_is_refused_before_the_config_is_stored(pictures, whole, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(whole[0], workdir)
    config = config_of(pictures, epochs=6.0, **{"view.size": 13})
    match = "the training set's mean has 12x12x3 values|is of another model"
    refused_untouched(config, workdir, match, allow_config_change=True)


def test_an_unreadable_image_ends_the_run_or_is_skipped(pictures, tmp_path, capsys):
    root = tmp_path / "pictures"
    shutil.copytree(pictures, root)
    bad = root / "train" / "green" / "3.jpg"
    bad.write_bytes(bad.read_bytes()[:200])
    (root / "val" / "red" / "1.jpg").write_bytes(b"")
    plain = {"preprocess.mean": "none", "augment.lighting": "none", "epochs": 1.0}
    with pytest.raises(UserError, match=r"green/3\.jpg \(class green\)"):
        train_and_evaluate(config_of(root, **plain), tmp_path / "a")
    config = config_of(root, **plain, **{"dataset.on_bad_image": "skip"})
    train_and_evaluate(config, tmp_path / "b")
    said = capsys.readouterr()
    assert said.err.count("skipped") == 2
    assert "red/1.jpg" in said.err
    assert "an unreadable image was replaced by another one 1 times" in said.out
    assert json.loads(evaluate.evaluate_run(config, tmp_path / "b"))["examples"] == 8
    train_and_evaluate(config, tmp_path / "a")  # as the message said


def test_a_copy_is_recorded_and_refused_if_it_is_too_small(pictures, tmp_path):
    flags = ("--shorter_side=18", f"--out={tmp_path}", "--processes=1")
    assert prepare.main([str(pictures), *flags]) == 0
    name = next(path.name for path in tmp_path.iterdir())
    overrides = {"dataset.name": name, "epochs": 0.2}
    train_and_evaluate(config_of(tmp_path, **overrides), tmp_path / "run")
    described = json.loads((tmp_path / "run" / "dataset.json").read_text())
    assert described["copy"]["shorter_side"] == 18
    with pytest.raises(UserError, match="prepare a larger copy"):
        train_and_evaluate(
            config_of(tmp_path, **overrides, **{"view.train_scale": (14, 19)}), tmp_path / "other"
        )


def test_mistakes_are_one_line(pictures, tmp_path):
    (tmp_path / "train" / "cat").mkdir(parents=True)
    Image.new("RGB", (30, 30)).save(tmp_path / "train" / "cat" / "a.png")
    for folder, flag, said in (
        ("/nowhere", "", "/nowhere"),
        (tmp_path, "", "only one class folder"),
        (pictures, "--config.view.train_scale=(200, 200)", "config.view.train_scale"),
        (pictures, "--config.dataset.on_bad_image=ignore", "error, skip"),
        (pictures, "--config.dataset.train_split=training", "training"),
        (pictures, "--config.init_from=/nowhere", "/nowhere"),
    ):
        flags = ("--config.dataset.name=folder", f"--config.dataset.data_dir={folder}")
        workdir = tmp_path / "run"
        flags = (f"--workdir={workdir}", *flags, *filter(None, [flag]))
        refused(run("--config=configs/resnet.py:18", *flags), said)
        assert not workdir.exists()
