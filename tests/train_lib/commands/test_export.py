"""Exported files: JAX runs them without Canon; torchvision loads them (see tests/parity)."""

import json
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from conftest import slow_where, tiny_config
from jax import export

from errors import UserError
from input_pipeline.split import Info
from input_pipeline.statistics import Statistics
from models import registry
from train_lib import experiment
from train_lib import state as state_lib
from train_lib.commands import export as export_command
from train_lib.commands.export import export_run
from train_lib.evaluation.trained import Trained, load_pretrained, load_run


@pytest.fixture(scope="module")
def run(finished_run, tmp_path_factory):
    return shutil.copytree(finished_run[0], tmp_path_factory.mktemp("exporting") / "run")


WITHOUT_CANON = """
import json, pathlib, sys
import numpy as np
from jax import export

file = pathlib.Path(sys.argv[1])
network = export.deserialize(bytearray(file.read_bytes()))
about = json.loads(file.with_name("net.jax.json").read_text())
assert about["input"] == {"dtype": "uint8", "shape": ["batch", 28, 28, 1]}, about
assert about["class_names"] == list("0123456789")
images = np.load(sys.argv[2])
np.save(sys.argv[3], np.concatenate([network.call(images[:1]), network.call(images[1:])]))
assert "flax" not in sys.modules and "models" not in sys.modules
"""


def test_jax_runs_the_file_without_canon_for_any_number_of_images(run, tmp_path):
    file = tmp_path / "net.jax"
    printed = export_run(tiny_config(), run, str(file), "jax")
    assert printed.startswith(f"written: {file} (60,000 parameters, step 29)")
    (tmp_path / "net.json").write_text("somebody's")
    export_run(tiny_config(), run, str(file), "jax")
    assert (tmp_path / "net.json").read_text() == "somebody's"
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28, 1)).astype(np.uint8)
    np.save(tmp_path / "in.npy", images)
    command = [sys.executable, "-c", WITHOUT_CANON, file, tmp_path / "in.npy", tmp_path / "out.npy"]
    done = subprocess.run(list(map(str, command)), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = load_run(run).predict(images)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, rtol=1e-4, atol=1e-7)


NETS = {
    "mlp": ({"hidden": (20,)}, (8, 8, 1)),
    "alexnet": ({}, (224, 224, 3)),
    "vgg": ({"variant": "D"}, (224, 224, 3)),
    "googlenet": ({}, (224, 224, 3)),
    "resnet": ({"depth": 50}, (224, 224, 3)),
    "resnet_cifar10": ({}, (32, 32, 3)),
    "cuda_convnet": ({}, (24, 24, 3)),
    "maxout": ({"variant": "cifar10"}, (32, 32, 3)),
}
SMALL = ("mlp", "resnet_cifar10", "cuda_convnet")
LARGE = ("alexnet", "vgg", "googlenet", "resnet", "maxout")


@pytest.mark.parametrize("name", slow_where(LARGE.__contains__, NETS))
def test_every_family_is_exported_for_any_number_of_images(name):
    options, shape = NETS[name]
    module = registry.create({"name": name, "dtype": "float32", **options}, num_classes=10)

    def infer(variables, images):
        return module.apply(variables, images / 255.0, train=False)

    images = jnp.zeros((1, *shape))
    if name in SMALL:
        variables = jax.jit(module.init)(jax.random.key(0), images)
    else:  # all values are one: nothing is computed with them
        shapes = jax.eval_shape(module.init, jax.random.key(0), images)
        variables = jax.tree.map(lambda s: np.full(s.shape, 0.01, s.dtype), shapes)
    function = export.deserialize(bytearray(export_command.serialise(infer, variables, shape)))
    (output,) = function.out_avals
    assert (str(output.shape), output.dtype) == ("(batch, 10)", np.float32)
    assert set(export_command.PLATFORMS) == set(function.platforms)
    if name in SMALL:
        images = np.random.default_rng(0).integers(0, 256, (3, *shape)).astype(np.uint8)
        expected = jax.jit(infer)(variables, images)
        np.testing.assert_allclose(function.call(images), expected, rtol=1e-4, atol=1e-4)


def test_export_refuses_a_wrong_suffix_and_an_unsupported_network(run, tmp_path):
    with pytest.raises(UserError, match=r"must end in \.jax with --format=jax"):
        export_run(tiny_config(), run, str(tmp_path / "net.safetensors"), "jax")
    with pytest.raises(UserError, match="torchvision has no LeNet5"):
        export_run(tiny_config(), run, str(tmp_path / "a.safetensors"), "torchvision")
    assert list(tmp_path.iterdir()) == []


def test_torchvision_names_and_metadata(tmp_path):
    from configs.resnet import get_config

    config = get_config("18")
    config.dataset.name = "digits"
    config.view.update({"size": 32, "train_scale": (32, 32), "test_scale": 32})
    config.view.interpolation = "random"  # in training; tests are bicubic
    rng = np.random.default_rng(0)
    image = rng.uniform(90, 160, (32, 32, 3)).astype(np.float32)
    eigen = np.ones(3), np.eye(3)
    statistics = Statistics(image, image.mean(axis=(0, 1), dtype=float), *eigen, 10)
    info = Info("photographs", (0, 0, 3), tuple("0123456789"))
    exp = experiment.resolve(config, known=experiment.KnownData(info, statistics))
    shapes = state_lib.variable_shapes(exp.module, exp.input_shape)
    variables = jax.tree.map(lambda s: rng.uniform(size=s.shape).astype(np.float32), dict(shapes))
    network = Trained(exp, list("0123456789"), lambda: (7, variables))
    _, write = export_command.FORMS["torchvision"]
    assert "are in its metadata" in write(tmp_path / "net.safetensors", network)
    with safetensors.safe_open(tmp_path / "net.safetensors", "numpy") as file:
        assert file.metadata()["format"] == "pt"
        assert json.loads(file.metadata()["class_names"]) == list("0123456789")
        settings = json.loads(file.metadata()["settings"])
        assert settings["preprocess.mean"] == "given"
        assert settings["view.interpolation"] == "bicubic"
        mean = image.mean(axis=(0, 1)) / 255
        np.testing.assert_allclose(settings["preprocess.given_mean"], mean, rtol=1e-5)
        kernel = variables["params"]["conv3_1"]["projection"]["kernel"]
        theirs = file.get_tensor("layer2.0.downsample.0.weight")
        np.testing.assert_array_equal(theirs, np.transpose(kernel, (3, 2, 0, 1)))

    # Read again it is the same network, but for the mean image, which has one value a colour now.
    back = load_pretrained("resnet:18", tmp_path / "net.safetensors")
    assert list(back.class_names) == list("0123456789")
    assert (back.input_shape, back.config.preprocess.high) == ((32, 32, 3), 255.0)
    assert back.config.view.interpolation == "bicubic"
    jax.tree.map(np.testing.assert_array_equal, dict(back.variables), variables)


def test_wrong_settings_are_one_line(tmp_path):
    metadata = {"settings": json.dumps({"dataset.data_dir": "/"}), "class_names": "[]"}
    safetensors.numpy.save_file({"a": np.zeros(1)}, tmp_path / "a.safetensors", metadata)
    with pytest.raises(UserError, match="cannot read the settings in"):
        load_pretrained("resnet:18", tmp_path / "a.safetensors")
    metadata["settings"] = json.dumps({"preprocess.nothing": 1})
    safetensors.numpy.save_file({"a": np.zeros(1)}, tmp_path / "b.safetensors", metadata)
    with pytest.raises(UserError, match="there is no field preprocess"):
        load_pretrained("resnet:18", tmp_path / "b.safetensors")
