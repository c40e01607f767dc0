"""A model that is fitted in one step: the commands on its run."""

import json
import shutil

import numpy as np
import pytest
from jax import export as jax_export
from ml_collections import ConfigDict
from PIL import Image
from threadpoolctl import threadpool_limits

from configs import schema
from configs.traditional import get_config
from errors import UserError
from input_pipeline import digits
from models.traditional import fitting
from train_lib import experiment, recorder, train
from train_lib.commands.evaluate import evaluate_run
from train_lib.commands.export import export_run
from train_lib.commands.predict import predict_images
from train_lib.commands.summary import summarise
from train_lib.distributed import processes, signals
from train_lib.evaluation.trained import load_run
from train_lib.train import train_and_evaluate
from train_lib.workdir import read_config

SMALL = {"words": 8, "bin_widths": (3,), "step": 4, "levels": (1, 2), "samples": 500, "svm_c": 1.0}


def small_config(**model) -> ConfigDict:
    config = get_config("vq_small")
    config.num_devices = 2
    config.model.update(SMALL | model)
    return config


@pytest.fixture(scope="module")
def fitted_run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("fitted") / "run"
    with threadpool_limits(1):
        state = train_and_evaluate(small_config(), workdir)
    return workdir, state


@pytest.fixture
def run(fitted_run, tmp_path):
    return shutil.copytree(fitted_run[0], tmp_path / "run")


def test_a_fit_is_one_step_and_is_not_repeated(run, fitted_run, monkeypatch):
    (record,) = recorder.read(run)
    assert (record["step"], record["epoch"], record["train/examples"]) == (1, 1.0, 1442)
    assert record["train/top1_error"] < 0.1 and record["test/top1_error"] < 0.15
    assert "train/learning_rate" not in record

    monkeypatch.setattr(fitting, "fit", lambda *arguments: pytest.fail("fitted again"))
    again = train_and_evaluate(None, run)
    for name, values in again.params["svm"].items():
        np.testing.assert_array_equal(values, fitted_run[1].params["svm"][name])
    assert recorder.read(run) == [record]


def test_a_stop_during_the_evaluation_after_a_fit_loses_nothing(tmp_path, monkeypatch):
    stop = signals.StopRequest()
    stop.nothing_to_save = True  # as in a process that a signal may end at once

    def interrupted(*_, **__):
        assert not stop.nothing_to_save
        stop.signal_name = "SIGTERM"

    evaluate = recorder.evaluate
    monkeypatch.setattr(recorder, "evaluate", interrupted)
    with threadpool_limits(1):
        with pytest.raises(train.Stopped):
            train_and_evaluate(small_config(), tmp_path, stop=stop)
        monkeypatch.setattr(recorder, "evaluate", evaluate)
        monkeypatch.setattr(fitting, "fit", lambda *arguments: pytest.fail("fitted again"))
        train_and_evaluate(None, tmp_path)
    assert recorder.read(tmp_path)[-1]["test/top1_error"] < 0.15


def test_evaluate_has_the_errors_of_the_record_and_counts_them(run):
    (record,) = recorder.read(run)
    result = json.loads(evaluate_run(read_config(run), run))
    assert result["top1_error"] == record["test/top1_error"] and result["examples"] == 355
    rows = (run / "evaluation" / "digits_test_full" / "confusion.csv").read_text().splitlines()
    counts = np.array([row.split(",")[1:] for row in rows[1:]], int)
    assert 1 - np.trace(counts) / 355 == pytest.approx(result["top1_error"])

    config = read_config(run)
    config.evaluate.split = "train"
    result = json.loads(evaluate_run(config, run))
    assert result["top1_error"] == pytest.approx(record["train/top1_error"], abs=2 / 1442)
    assert result["loss"] == pytest.approx(record["train/loss"], abs=1e-3)


def test_predict_and_export(run, tmp_path):
    images, labels = digits.load("test")
    network = load_run(run)
    probabilities = network.predict(images[:50])
    right = int(np.flatnonzero(probabilities.argmax(axis=1) == labels[:50])[0])
    Image.fromarray(images[right, ..., 0]).save(tmp_path / "digit.png")
    line = predict_images(read_config(run), run, [str(tmp_path / "digit.png")])
    assert line.startswith(f"{tmp_path}/digit.png: {labels[right]} (")

    export_run(read_config(run), run, str(tmp_path / "vq.safetensors"), "canon")
    exported = load_run(tmp_path / "vq.safetensors")
    np.testing.assert_allclose(exported.predict(images[:50]), probabilities, atol=1e-6)


def test_a_file_for_jax_takes_any_number_of_images(run, tmp_path):
    network, path = load_run(run), tmp_path / "fitted.jax"
    export_run(read_config(run), run, str(path), "jax")
    digits_of_test = network.views(digits.load("test")[0][:3])
    actual = jax_export.deserialize(path.read_bytes()).call(digits_of_test)
    np.testing.assert_allclose(actual, network.predict(digits_of_test), atol=1e-5)


def test_skipped_images_and_padding_are_not_in_the_sample():
    class Representation:
        def describe(self, images):
            return images[:, :, None], images >= 0

    batch = np.array([[1, 1], [2, 2], [3, 3], [4, 4]], np.float32), np.array([0, -1, 1, -1])
    found = fitting.sample(Representation(), lambda: iter([batch]), share=2, seed=0)
    assert sorted(found.ravel()) == [1, 1, 3, 3]


def test_summary_has_the_classifiers_parameters():
    described = json.loads(summarise(small_config(), "json"))
    # chi2: three numbers for each of 5 cells and 8 words.
    assert described["total"]["params"] == 10 * (3 * 5 * 8 + 1)
    assert [layer["output_shape"] for layer in described["layers"]] == [[120], [10]]


def test_a_fitted_model_is_not_changed(run):
    before = (run / "config.json").read_bytes()
    with pytest.raises(UserError, match=r"svm_c: .*fitted already: choose another --workdir"):
        train_and_evaluate(small_config(svm_c=50.0), run, allow_config_change=True)
    assert (run / "config.json").read_bytes() == before


def test_wrong_use_is_one_line(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"samples=5: 8 words with vq need at least 8: raise it"):
        train_and_evaluate(small_config(samples=5), tmp_path / "run")
    with pytest.raises(UserError, match=r"side of 28 pixels is smaller than a SIFT patch of 4 x 8"):
        train_and_evaluate(small_config(bin_widths=(8,)), tmp_path / "other")
    for field in ("batch_size", "augment.flip", "optimizer.momentum", "init_from"):
        with pytest.raises(UserError, match=rf"config.{field} has no effect .* leave it out"):
            schema.validate(small_config(), {field})
    exp = experiment.resolve(small_config(), tmp_path / "third")
    monkeypatch.setattr(processes, "count", lambda: 2)
    with pytest.raises(UserError, match="traditional is fitted by one process"):
        train.check(exp)


def test_vectors_of_the_training_images_that_do_not_fit_into_memory_are_refused(monkeypatch):
    exp = experiment.resolve(small_config())
    size = 5 * 8 * 3  # cells, words, and the map of the chi2 kernel
    needed = 1442 * size * 4 + 1442 * size * 16
    monkeypatch.setattr(train.memory, "total_bytes", lambda device: needed)
    train.check_memory(exp)
    monkeypatch.setattr(train.memory, "total_bytes", lambda device: needed - 1)
    with pytest.raises(UserError, match=r"^traditional needs .* 1,442 training images.*: lower"):
        train.check_memory(exp)
