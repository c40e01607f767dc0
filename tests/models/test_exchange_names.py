"""Weights by a list of names that the user writes."""

import json
import pathlib
import re

import numpy as np
import pytest
import safetensors.numpy
from flax.traverse_util import flatten_dict
from foreign_files import write_keras

from errors import UserError
from models import pretrained
from models.cuda_convnet import CudaConvnet
from models.pretrained.entries import shapes
from models.resnet import CifarResNet

NET = CudaConvnet(variant="26pct")
NETS_SHAPE = (32, 32, 3)


def by_names(tmp_path, names, tensors, suffix=".safetensors"):
    if suffix == ".safetensors":
        safetensors.numpy.save_file(tensors, tmp_path / "net.safetensors")
    (tmp_path / "names.json").write_text(json.dumps(names))
    return pretrained.read(tmp_path / f"net{suffix}", tmp_path / "names.json")


@pytest.fixture
def ours():
    rng = np.random.default_rng(0)
    return {
        "/".join(path[1:]): rng.normal(size=shape).astype(np.float32)
        for path, shape in shapes(NET, NETS_SHAPE).items()
    }


@pytest.fixture
def theirs(ours):
    """The tensors in the layout of torch, written by hand: fc64 sees a 4x4 map of 64 channels."""
    made = {}
    for name, leaf in ours.items():
        if leaf.ndim == 4:
            leaf = np.ascontiguousarray(leaf.transpose(3, 2, 0, 1))
        elif name == "fc64/kernel":
            leaf = np.ascontiguousarray(leaf.reshape(4, 4, 64, 64).transpose(3, 2, 0, 1))
            leaf = leaf.reshape(64, 1024)
        elif leaf.ndim == 2:
            leaf = np.ascontiguousarray(leaf.T)
        made[name.replace("/", ".net.")] = leaf
    return made


def test_weights_by_a_list_of_names(tmp_path, ours, theirs):
    names = {name: name.replace("/", ".net.") for name in ours}
    counted = {**theirs, "bn.num_batches_tracked": np.zeros(1, np.int64)}
    file = by_names(tmp_path, names, counted)
    assert file.source == "names"
    assert file.settings({"name": "cuda_convnet"}) == {}
    actual = flatten_dict(file.variables(NET, NETS_SHAPE))
    assert {"/".join(path[1:]) for path in actual} == ours.keys()
    for path, leaf in actual.items():
        np.testing.assert_array_equal(leaf, ours["/".join(path[1:])])


def test_an_h5_file_by_names_keeps_its_layouts(tmp_path, ours):
    layers = {}
    for name, leaf in ours.items():
        layer, role = name.split("/")
        layers.setdefault(f"my_{layer}", {})[role] = leaf
    write_keras(tmp_path / "net.h5", layers)
    names = {name: f"my_{name.replace('/', '.')}" for name in ours}
    actual = flatten_dict(by_names(tmp_path, names, {}, ".h5").variables(NET, NETS_SHAPE))
    for path, leaf in actual.items():
        np.testing.assert_array_equal(leaf, ours["/".join(path[1:])])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda names: names.update({"conv1/kernel": "conv1.net.kernal"}),
            r"no tensor of the file is called conv1\.net\.kernal: did you mean conv1\.net\.kernel",
        ),
        (
            lambda names: names.update({"conv1/kernal": names.pop("conv1/kernel")}),
            r"no parameter of the model is called conv1/kernal: did you mean conv1/kernel\?",
        ),
        (
            lambda names: names.pop("fc10/bias"),
            r"the names leave out 1 of the model's parameters \(fc10/bias\)",
        ),
        (
            lambda names: names.update({"fc10/bias": names["fc64/bias"]}),
            r"the names leave out 1 of the file's tensors \(fc10\.net\.bias\)",
        ),
        (
            lambda names: names.update(
                {"conv1/kernel": names["conv2/kernel"], "conv2/kernel": names["conv1/kernel"]}
            ),
            r"misshapen \(conv2\.net\.kernel",
        ),
    ],
)
def test_names_that_do_not_fit(tmp_path, ours, theirs, change, message):
    names = {name: name.replace("/", ".net.") for name in ours}
    change(names)
    with pytest.raises(UserError, match=message):
        by_names(tmp_path, names, theirs).variables(NET, NETS_SHAPE)


def test_a_tensor_named_twice(tmp_path, ours, theirs):
    names = {name: name.replace("/", ".net.") for name in ours}
    names["fc10/bias"] = "conv1.net.bias"
    del theirs["fc10.net.bias"]
    with pytest.raises(UserError, match=r"assign conv1\.net\.bias to two parameters"):
        by_names(tmp_path, names, theirs).variables(NET, NETS_SHAPE)


def test_the_example_of_the_documentation(tmp_path, monkeypatch):
    text = (pathlib.Path(__file__).parents[2] / "docs" / "weights.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    names = json.loads((tmp_path / "names.json").read_text())
    assert names["conv1/kernel"] == "conv1.weight"
    assert names["conv4_3/bn2/var"] == "layer3.2.bn2.running_var"
    assert names["fc/bias"] == "linear.bias"
    leaves = shapes(CifarResNet(depth=20), NETS_SHAPE)
    assert names.keys() == {"/".join(path[1:]) for path in leaves}
    assert len(set(names.values())) == len(names)
