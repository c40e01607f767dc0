"""--mode=inspect on runs of small networks: its files, and its messages."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
from conftest import tiny_config
from PIL import Image

from errors import UserError
from models import inspection, layers
from train_lib.commands.inspect import Selection, inspect_run
from train_lib.evaluation.trained import load_run
from train_lib.pictures import inspect_figures
from train_lib.train import train_and_evaluate

WEIGHTS = {"learning_curves.png", "filters.png", "weight_histograms.png", "parameters.txt"}
LENET = {"c3_table.png", "rbf_codes.png"}
SEEN = {
    *(f"{name}_1.png" for name in ("feature_maps", "receptive_fields", "saliency", "occlusion")),
    "activation_histograms.png",
    "gradient_norms.png",
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """(folder, config) of the published LeNet-5, and of one with ReLU, max pooling and dropout."""
    root = tmp_path_factory.mktemp("inspect")
    options = {
        f"model.{name}": value
        for name, value in {
            "activation": "relu",
            "subsampling": "max",
            "output": "softmax",
            "c3": "full",
            "regulariser": "dropout",
        }.items()
    }
    configs = {"lenet": {}, "relu": options | {"loss.name": "softmax"}}
    made = {}
    for name, overrides in configs.items():
        config = tiny_config(epochs=1.0, **overrides)
        train_and_evaluate(config, root / name)
        made[name] = (root / name, config)
    return made


def written(workdir) -> set[str]:
    return {path.name for path in (workdir / "inspection").iterdir()}


def printed(capsys) -> list[str]:
    return capsys.readouterr().out.splitlines()


@pytest.mark.slow
def test_files_for_the_published_lenet_compared_with_another_step(runs, capsys):
    workdir, config = runs["lenet"]
    inspect_run(config, workdir, Selection(compare=["10"]))
    expected = {*WEIGHTS, *LENET, *SEEN, "confusion_matrix.png", "f6_and_codes.png"}
    expected.add("difference_step-10.txt")
    assert written(workdir) == expected
    lines = printed(capsys)
    assert sorted(lines) == sorted(f"written: {workdir / 'inspection' / n}" for n in expected)
    text = (workdir / "inspection" / "difference_step-10.txt").read_text().splitlines()
    assert text[0] == f"from {workdir}, step 15, to step 10 of this run, step 10"
    (row,) = (line.split() for line in text if line.startswith("params/c3/kernel"))
    now, then = (load_run(workdir, step).params["c3"]["kernel"] for step in (15, 10))
    assert float(row[2]) == pytest.approx(np.linalg.norm(now - then), rel=1e-3)
    for path in (workdir / "inspection").glob("*.png"):
        with Image.open(path) as picture:
            assert np.asarray(picture.convert("L")).std() > 2, path  # something is drawn


@pytest.mark.slow
def test_files_for_images_of_the_user(runs, capsys, tmp_path):
    workdir, config = runs["relu"]
    for number in range(2):
        pixels = np.zeros((28, 28), np.uint8)
        pixels[4:24, 10 + number] = 255
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    other = runs["lenet"][0]
    inspect_run(config, workdir, Selection([str(tmp_path)], "c3", [str(other)]))
    names = written(workdir)
    more = {"dead_units.png", "dropout_masks.png", "dropout_average.png", "max_pool_routing.png"}
    twice = {name.replace("_1", "_2") for name in SEEN}
    assert names == {*WEIGHTS, *SEEN, *twice, *more}
    lines = printed(capsys)
    assert len(lines) == len(names) + 1
    expected = f"no difference from {other}: these states are not of the same network: "
    assert lines[-1].startswith(expected)


def test_values_in_the_figures_of_a_rectified_network(runs):
    network = load_run(runs["relu"][0])
    views = np.zeros((2, 28, 28, 1), np.uint8)
    views[:, 4:20, 9] = 200
    subject = inspect_figures.Subject(network, views, np.array([1, 7]), ["a", "b"], 1, "c3_relu")
    titles = {
        name: figure.get_suptitle() for name, figure in inspect_figures.activation_figures(subject)
    }
    assert titles["feature_maps_1"].startswith("c3_relu of a")
    assert titles["dead_units"] == "units that are 0 for all 2 images"
    (pooled,) = inspect_figures.pooling_figures(subject)
    assert pooled[1].get_suptitle() == "max pooling 2x2, stride 2"
    where = network.module, network.variables, subject.inputs
    layer, value = inspection.first_input(*where, lambda m: isinstance(m, layers.Pool))
    assert layer.window == 2
    np.testing.assert_allclose(value, subject.activations["c1_relu"], atol=1e-6)
    assert inspection.first_input(*where, lambda m: False) is None
    boxes = inspect_figures.receptive_fields(dataclasses.replace(network, read=lambda: (0, {})))
    assert {name: box[2:] for name, box in boxes.items()} == {
        "c1": (5, 5),
        "s2": (6, 6),
        "c3": (14, 14),
        "s4": (16, 16),
        "c5": (32, 32),
    }


def test_without_the_data_set_figures_that_need_images_are_left_out(runs, capsys, monkeypatch):
    workdir, config = runs["relu"]

    def gone(*_):
        raise UserError("no data set")

    monkeypatch.setattr("train_lib.commands.inspect.sources.load", gone)
    (workdir / "inspection").mkdir(exist_ok=True)
    for name in ("saliency_3.png", "difference_a.txt", "notes.txt"):  # of before, and somebody's
        (workdir / "inspection" / name).write_text("")
    inspect_run(config, workdir)
    assert written(workdir) == {*WEIGHTS, "notes.txt"}
    (workdir / "inspection" / "notes.txt").unlink()
    assert printed(capsys)[-1].startswith(
        "figures that need images are left out: give images with --images (no data"
    )


@pytest.mark.parametrize(
    ("selected", "message"),
    [
        ({"layer": "c9"}, "there is no layer c9: the network has c1, c1_scaled_tanh, s2, "),
        ({"images": ["nothing.png"]}, "no image file nothing.png"),
        ({"compare": ["7"]}, "there is no checkpoint 7 in"),
        ({"compare": ["nothing"]}, "--compare=nothing: there is no run with a checkpoint"),
    ],
)
def test_mistakes_are_reported_before_anything_is_written(runs, tmp_path, selected, message):
    made, config = runs["lenet"]
    workdir = tmp_path / "run"
    shutil.copytree(made, workdir, ignore=shutil.ignore_patterns("inspection", "events", "plots"))
    with pytest.raises(UserError, match=message) as error:
        inspect_run(config, workdir, Selection(**selected))
    assert "\n" not in str(error.value)
    assert not (workdir / "inspection").exists()
    with pytest.raises(UserError, match="no run in"):
        inspect_run(config, tmp_path)


@pytest.mark.slow
def test_gradients_of_untrained_networks_are_drawn_too(runs):
    network = load_run(runs["lenet"][0])
    views = np.random.default_rng(0).integers(0, 255, (4, 28, 28, 1)).astype(np.uint8)
    subject = inspect_figures.Subject(network, views, np.arange(4), list("abcd"), 1, "c1")
    ((name, figure),) = inspect_figures.gradient_figures(subject)
    lines = {line.get_label(): line.get_ydata() for line in figure.axes[0].get_lines()}
    assert name == "gradient_norms"
    assert list(lines) == ["this run, step 15", "untrained, sigmoid", "untrained, relu"]

    def loss(params):
        logits = network.module.apply({"params": params}, subject.inputs)
        return network.exp.loss(logits, subject.labels).mean()

    gradient = jax.jit(jax.grad(loss))(dict(network.params))
    expected = [np.linalg.norm(gradient[name]["kernel"]) for name in ("c1", "c3", "c5", "f6")]
    np.testing.assert_allclose(lines["this run, step 15"], expected, rtol=1e-3)
    assert lines["untrained, sigmoid"][0] < 0.01 * lines["untrained, relu"][0]
