"""Reading weight files: their content, or a message of one line. The tests make all files."""

import json
import pathlib
import pickle
import sys
import types
import zipfile

import h5py
import numpy as np
import pytest
import safetensors.numpy
from foreign_files import block, caffemodel, whole, write_keras, write_keras_3

from errors import UserError
from models import pretrained
from models.pretrained import files

RNG = np.random.default_rng(0)
CONV = RNG.normal(size=(4, 3, 2, 2)).astype(np.float32)
BIAS = RNG.normal(size=4).astype(np.float32)
FC = RNG.normal(size=(5, 7)).astype(np.float32)


def write(tmp_path, content, name="net.caffemodel"):
    path = tmp_path / name
    path.write_bytes(content)
    return path


def tensors(path):
    return files.read(path)[0]


@pytest.mark.parametrize("v1", [False, True])
def test_caffe_convolutions_and_linear_layers(tmp_path, v1):
    layers = [("conv/1", "Convolution", [CONV, BIAS]), ("relu", "ReLU", []), ("fc", "InnerProduct")]
    layers[-1] = (*layers[-1], [FC, BIAS])
    actual, order = files.read(write(tmp_path, caffemodel(layers, v1)))
    assert order == ("conv/1", "relu", "fc")
    expected = {"conv/1.weight": CONV, "conv/1.bias": BIAS, "fc.weight": FC, "fc.bias": BIAS}
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        assert actual[name].dtype == np.float32
        np.testing.assert_array_equal(actual[name], array)


def test_one_output_map_keeps_its_axes_in_old_files(tmp_path):
    layers = [("conv", "Convolution", [CONV[:1]]), ("fc", "InnerProduct", [FC[:1], BIAS[:1]])]
    actual = tensors(write(tmp_path, caffemodel(layers, v1=True)))
    shapes = {"conv.weight": (1, 3, 2, 2), "fc.weight": (1, 7), "fc.bias": (1,)}
    assert {name: array.shape for name, array in actual.items()} == shapes


@pytest.mark.parametrize(("factor", "scale"), [(4.0, 0.25), (1.0, 1.0), (0.0, 0.0)])
def test_caffe_batch_norm_divides_by_its_factor(tmp_path, factor, scale):
    blobs = [BIAS, np.abs(BIAS), np.array([factor], np.float32)]
    actual = tensors(write(tmp_path, caffemodel([("bn", "BatchNorm", blobs)])))
    assert actual.keys() == {"bn.mean", "bn.variance"}
    np.testing.assert_allclose(actual["bn.mean"], BIAS * scale)
    np.testing.assert_allclose(actual["bn.variance"], np.abs(BIAS) * scale)


def test_caffe_doubles_and_other_layers(tmp_path):
    actual = tensors(write(tmp_path, caffemodel([("relu", "PReLU", [BIAS.astype(np.float64)])])))
    assert actual["relu.0"].dtype == np.float64
    np.testing.assert_array_equal(actual["relu.0"], BIAS)


WRONG_SHAPE = block(100, block(1, "conv") + block(7, block(5, b"\0" * 8) + whole(1, 3)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no layers with weights"),
        (caffemodel([("conv", "Convolution", [CONV])])[:-40], "cannot read the weights in"),
        (b"\x80\x02}q\x00.", "cannot read the weights in"),
        (caffemodel([("relu", "ReLU", [])]), "no layers with weights"),
        (caffemodel([("c", "Convolution", [CONV])] * 2), "two layers c"),
        (caffemodel([("bn", "BatchNorm", [BIAS, BIAS])]), "no factor"),
        (WRONG_SHAPE, "layer conv has 2 numbers in the shape"),
    ],
)
def test_damaged_caffe_files(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        pretrained.read(write(tmp_path, content))


@pytest.mark.parametrize("group", ["", "model_weights"])
@pytest.mark.parametrize(
    ("style", "kernel", "variance"),
    [
        ("{layer}/{weight}:0", "kernel", "moving_variance"),  # Keras 2
        ("{layer}_{weight}_1:0", "W", "running_std"),  # Keras 1
        ("{weight}", "kernel", "moving_variance"),  # Keras 3
        ("{layer}/{layer}/{weight}:0", "kernel", "moving_variance"),
    ],
)
def test_weight_names_of_all_keras_versions(tmp_path, group, style, kernel, variance):
    layers = {"input": {}, "conv1": {kernel: CONV}, "bn_conv1": {"gamma": BIAS, variance: BIAS**2}}
    path = tmp_path / "net.h5"
    write_keras(path, layers, group, style)
    actual = tensors(path)
    assert actual.keys() == {"conv1.kernel", "bn_conv1.gamma", "bn_conv1.variance"}
    np.testing.assert_array_equal(actual["conv1.kernel"], CONV)
    np.testing.assert_array_equal(actual["bn_conv1.variance"], BIAS**2)


def test_nested_keras_layers_keep_their_names(tmp_path):
    path = tmp_path / "net.h5"
    write_keras(path, {"vgg": {"a/kernel:0": CONV, "b/kernel:0": CONV}}, style="{weight}")
    assert tensors(path).keys() == {"vgg/a/kernel:0", "vgg/b/kernel:0"}


def test_arrays_by_their_place_without_keras_lists(tmp_path):
    path = tmp_path / "net.hdf5"
    with h5py.File(path, "w") as file:
        file["layers/conv/vars/0"] = CONV
    np.testing.assert_array_equal(tensors(path)["layers/conv/vars/0"], CONV)


KERAS_3 = [
    ("conv2d", "conv1_conv", [CONV, BIAS]),
    ("batch_normalization", "conv1_bn", [BIAS, 2 * BIAS, 3 * BIAS, BIAS**2]),
    ("conv2d", "conv2_conv", [2 * CONV]),
    ("dense", "predictions", [FC, BIAS]),
]


@pytest.mark.parametrize("file", ["net.weights.h5", "net.keras"])
def test_files_of_keras_3_have_the_names_of_their_layers(tmp_path, file):
    write_keras_3(tmp_path / file, KERAS_3)
    actual = pretrained.read(tmp_path / file)
    assert actual.source == "keras"
    assert set(actual.tensors) == {
        *("conv1_conv.kernel", "conv1_conv.bias", "conv2_conv.kernel"),
        *("conv1_bn.gamma", "conv1_bn.beta", "conv1_bn.mean", "conv1_bn.variance"),
        *("predictions.kernel", "predictions.bias"),
    }
    np.testing.assert_array_equal(actual.tensors["conv2_conv.kernel"], 2 * CONV)
    np.testing.assert_array_equal(actual.tensors["conv1_bn.variance"], BIAS**2)


def test_files_of_keras_3_without_names_or_with_ambiguous_ones_keep_the_places(tmp_path):
    path = tmp_path / "net.weights.h5"
    write_keras_3(path, KERAS_3[2:], with_names=False)
    places = {"layers/conv2d/vars/0", "layers/dense/vars/0", "layers/dense/vars/1"}
    assert tensors(path).keys() == places
    layers = [("conv2d", "a", [CONV]), ("conv2d", "a", [CONV])]
    layers += [("batch_normalization", "b", [BIAS] * 3), ("embedding", "c", [FC])]
    write_keras_3(path, layers)
    assert tensors(path).keys() == {
        *("layers/conv2d/vars/0", "layers/conv2d_1/vars/0", "layers/embedding/vars/0"),
        *(f"layers/batch_normalization/vars/{number}" for number in range(3)),
    }


def test_an_archive_that_claims_to_hold_a_huge_file_is_refused(tmp_path):
    path = tmp_path / "net.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.weights.h5", bytes(10**8))
    assert path.stat().st_size < 100_000
    with pytest.raises(UserError, match="larger than the file can hold"):
        pretrained.read(path)


def test_lists_of_names_in_pieces(tmp_path):
    path = tmp_path / "net.h5"
    with h5py.File(path, "w") as file:
        for number in (0, 1):
            group = file.create_group(f"fc{number}")
            file.attrs[f"layer_names{number}"] = [f"fc{number}"]
            group.attrs["weight_names"] = ["kernel"]
            group["kernel"] = FC
    assert tensors(path).keys() == {"fc0.kernel", "fc1.kernel"}


def put(content):
    return lambda group: group.__setitem__("kernel", content)


def virtual(group):
    layout = h5py.VirtualLayout((5, 7), "f4")
    layout[:] = h5py.VirtualSource("elsewhere.h5", "kernel", (5, 7))
    group.create_virtual_dataset("kernel", layout)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda group: None, "cannot read"),  # the array is not there
        (lambda group: group.create_group("kernel"), "fc/kernel is not an array"),
        (put("text"), "is not an array of numbers"),
        (
            lambda group: group.create_dataset("kernel", (10**6, 10**6), "f4", chunks=(9, 9)),
            "claims to have 4000000000000 bytes",
        ),
        (put(h5py.ExternalLink("elsewhere.h5", "x")), "is stored in another file"),
        (
            lambda group: group.create_dataset(
                "kernel", (9,), "u1", external=[("elsewhere.bin", 0, 9)]
            ),
            "is stored in another file",
        ),
        (virtual, "is stored in another file"),
    ],
)
def test_keras_files_that_are_refused(tmp_path, change, message):
    path = tmp_path / "net.h5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = ["fc"]
        group = file.create_group("fc")
        group.attrs["weight_names"] = ["kernel"]
        change(group)
    with pytest.raises(UserError, match=message) as error:
        pretrained.read(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", pretrained.SUFFIXES)
@pytest.mark.parametrize("content", [b"", b"no such file at all", b"PK\x03\x04 cut"])
def test_files_of_another_kind(tmp_path, suffix, content):
    if suffix in (".pth", ".pt"):
        pytest.importorskip("torch")
    path = write(tmp_path, content, f"net{suffix}")
    with pytest.raises(UserError, match="net") as error:
        pretrained.read(path)
    assert "\n" not in str(error.value)
    path.unlink()
    with pytest.raises(UserError, match="no weight file"):
        pretrained.read(path)


TORCH_NAMES = ("model_best.pth.tar", "net.th", "pytorch_model.bin", "last.ckpt", "net", "net.h5")


@pytest.mark.parametrize("name", TORCH_NAMES)
@pytest.mark.parametrize("as_zip", [True, False])
def test_torch_files_may_have_any_name(tmp_path, name, as_zip):
    torch = pytest.importorskip("torch")
    content = {"state_dict": {"fc.weight": torch.from_numpy(FC)}, "best_prec1": 69.8}
    torch.save(content, tmp_path / name, _use_new_zipfile_serialization=as_zip)
    assert pretrained.is_pretrained(tmp_path / name)
    np.testing.assert_array_equal(pretrained.read(tmp_path / name).tensors["fc.weight"], FC)


@pytest.mark.parametrize("name", ["net.bin", "net.pth"])
def test_the_content_and_not_the_name_decides(tmp_path, name):
    safetensors.numpy.save_file({"fc.weight": FC}, tmp_path / name)
    assert pretrained.read(tmp_path / name).tensors.keys() == {"fc.weight"}
    write_keras(tmp_path / name, {"fc": {"kernel": FC}})
    assert pretrained.read(tmp_path / name).source == "keras"
    own = safetensors.numpy.save({"params/fc/kernel": FC}, metadata={"canon": "2"})
    (tmp_path / name).write_bytes(own)
    assert not pretrained.is_pretrained(tmp_path / name)


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04", b"\x08\0\0\0\0\0\0\0{"])
def test_files_of_no_known_format_are_refused(tmp_path, content):
    path = write(tmp_path, content, "net.onnx")
    assert not pretrained.is_pretrained(path)
    with pytest.raises(UserError, match=r"net\.onnx is not a weight file: give one of"):
        pretrained.read(path)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "_orig_mod.module."])
def test_prefixes_of_wrappers_are_removed(tmp_path, prefix):
    names = tmp_path / "names.json"
    names.write_text(json.dumps({"fc/kernel": f"{prefix}fc.weight"}))
    safetensors.numpy.save_file({f"{prefix}fc.weight": FC}, tmp_path / "net.safetensors")
    actual = pretrained.read(tmp_path / "net.safetensors", names)
    assert actual.tensors.keys() == {"fc.weight"}
    assert actual.names == {"fc/kernel": "fc.weight"}
    tensors = {f"{prefix}fc.weight": FC, "fc.bias": BIAS}  # it belongs to only some names
    safetensors.numpy.save_file(tensors, tmp_path / "net.safetensors")
    assert pretrained.read(tmp_path / "net.safetensors").tensors.keys() == tensors.keys()


def test_counts_of_averages_and_profiles_are_ignored(tmp_path):
    count = np.ones(1)
    for prefix, extra in (
        ("module.", "n_averaged"),
        ("", "total_ops"),
        ("", "layer1.total_params"),
    ):
        tensors = {f"{prefix}fc.weight": FC, f"{prefix}fc.bias": BIAS, extra: count}
        safetensors.numpy.save_file(tensors, tmp_path / "net.safetensors")
        actual = pretrained.read(tmp_path / "net.safetensors").tensors
        assert actual.keys() == {"fc.weight", "fc.bias"}


def write_shards(folder, **changes):
    """An index and its two files. changes: of the index."""
    shards = {"a.safetensors": {"module.fc.weight": FC}, "b.safetensors": {"module.fc.bias": BIAS}}
    for name, tensors in shards.items():
        safetensors.numpy.save_file(tensors, folder / name)
    files = {"module.fc.weight": "a.safetensors", "module.fc.bias": "b.safetensors", **changes}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 9}, "weight_map": files}))
    return index


def test_several_files_with_an_index(tmp_path):
    index = write_shards(tmp_path)
    assert pretrained.is_pretrained(index)
    actual = pretrained.read(index)
    assert actual.source == "torchvision"
    assert actual.tensors.keys() == {"fc.weight", "fc.bias"}
    np.testing.assert_array_equal(actual.tensors["fc.bias"], BIAS)
    for change, message in [
        ({"module.fc.bias": "../b.safetensors"}, "is not the name of a file beside it"),
        ({"module.fc.bias": "c.safetensors"}, r"no weight file .*c\.safetensors"),
        ({"more": "a.safetensors"}, r"more is not in a\.safetensors"),
    ]:
        with pytest.raises(UserError, match=message):
            pretrained.read(write_shards(tmp_path, **change))
    index = write_shards(tmp_path)
    stale = {"module.fc.weight": FC + 1, "module.fc.bias": BIAS}
    safetensors.numpy.save_file(stale, tmp_path / "b.safetensors")
    np.testing.assert_array_equal(pretrained.read(index).tensors["fc.weight"], FC)
    for text in ("{", "[]", "{}", '{"weight_map": []}', "[" * 100_000):
        index.write_text(text)
        with pytest.raises(UserError, match="cannot read the weights in"):
            pretrained.read(index)


def test_other_suffixes_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"give one of \.safetensors, \.pth"):
        pretrained.read(tmp_path / "net.onnx")


def test_safetensors(tmp_path):
    path = tmp_path / "net.safetensors"
    safetensors.numpy.save_file({"fc.weight": FC.astype(np.float16)}, path)
    assert pretrained.is_pretrained(path)
    actual = pretrained.read(path)
    assert actual.source == "torchvision"
    assert actual.tensors["fc.weight"].dtype == np.float32
    np.testing.assert_array_equal(actual.tensors["fc.weight"], FC.astype(np.float16))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="it is damaged"):
        pretrained.read(path)


def test_which_files_are_pretrained(tmp_path):
    exported = tmp_path / "own.safetensors"
    safetensors.numpy.save_file({"params/fc/kernel": FC}, exported, metadata={"canon": "2"})
    assert not pretrained.is_pretrained(exported)
    assert not pretrained.is_pretrained(tmp_path / "run")
    assert not pretrained.is_pretrained(tmp_path / "missing.safetensors")
    (tmp_path / "run.pt").mkdir()
    assert not pretrained.is_pretrained(tmp_path / "run.pt")
    assert pretrained.is_pretrained(tmp_path / "vgg.caffemodel")


def test_pth_without_torch_is_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match=r"needs torch: .*safetensors"):
        pretrained.read(write(tmp_path, b"", "net.pth"))


def test_h5_without_h5py_is_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UserError, match="needs h5py"):
        pretrained.read(write(tmp_path, b"", "net.h5"))


class Hub(types.SimpleNamespace):
    """huggingface_hub as far as it is used."""

    def hf_hub_download(self, repository, name, revision):
        if repository == "timm/missing":
            raise OSError("404 Client Error.\nand more lines")
        return f"/cache/{repository}/{revision}/{name}"


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("hub:timm/resnet18.a1_in1k", "/cache/timm/resnet18.a1_in1k/None/model.safetensors"),
        ("hub:timm/vgg11@v1.0", "/cache/timm/vgg11/v1.0/model.safetensors"),
        ("nets/a.pth", "nets/a.pth"),
    ],
)
def test_names_of_the_hub(monkeypatch, name, path):
    monkeypatch.setitem(sys.modules, "huggingface_hub", Hub())
    assert pretrained.locate(name).as_posix() == path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hub:resnet18", "is not the name of a model on the hub"),
        ("hub:timm/../x", "is not the name of a model on the hub"),
        (
            "hub:timm/missing",
            r"cannot get model.safetensors of hub:timm/missing \(404 ",
        ),
    ],
)
def test_hub_names_that_fail(monkeypatch, name, message):
    monkeypatch.setitem(sys.modules, "huggingface_hub", Hub())
    with pytest.raises(UserError, match=message):
        pretrained.locate(name)


def test_several_files_of_the_hub(tmp_path, monkeypatch):
    index, asked = write_shards(tmp_path), []

    class EntryNotFoundError(Exception):
        pass

    def download(repository, name, revision):
        asked.append(name)
        if not (tmp_path / name).exists():
            raise EntryNotFoundError(f"404: no {name}")
        return str(tmp_path / name)

    monkeypatch.setitem(
        sys.modules, "huggingface_hub", types.SimpleNamespace(hf_hub_download=download)
    )
    assert pretrained.locate("hub:big/net") == index
    assert asked == ["model.safetensors", index.name, "a.safetensors", "b.safetensors"]
    index.unlink()
    with pytest.raises(UserError, match=r"cannot get model\.safetensors .*no model\.safetensors\)"):
        pretrained.locate("hub:big/net")


def test_the_hub_without_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match="pip install huggingface_hub"):
        pretrained.locate("hub:timm/resnet18")


class Touch:
    """Unpickled, it would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_pickle_is_not_run(tmp_path):
    torch = pytest.importorskip("torch")
    path, touched = tmp_path / "net.pth", tmp_path / "touched"
    for save in (torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))):
        save({"fc.weight": Touch(touched)}, path)
        with pytest.raises(UserError, match="more than tensors"):
            pretrained.read(path)
    assert not touched.exists()


def test_state_dicts_alone_in_a_checkpoint_and_with_a_prefix(tmp_path):
    torch = pytest.importorskip("torch")
    state = {"fc.weight": torch.from_numpy(FC), "n": torch.tensor(3)}
    wrapped = {f"module.{name}": tensor for name, tensor in state.items()}
    for content in (
        state,
        {"state_dict": wrapped, "epoch": 3},
        {"model": state, "args": None},
        {"model_state_dict": state, "optimizer_state_dict": {"state": {}}},
        {"net": wrapped, "acc": 95.1},
    ):
        torch.save(content, tmp_path / "net.pt")
        actual = pretrained.read(tmp_path / "net.pt").tensors
        assert actual.keys() == state.keys()
        np.testing.assert_array_equal(actual["fc.weight"], FC)
    for content in ({"fc.weight": 3.0}, [torch.ones(3)], {}):
        torch.save(content, tmp_path / "net.pt")
        with pytest.raises(UserError, match=r"is not a tensor|no dict of tensors"):
            pretrained.read(tmp_path / "net.pt")


def test_damaged_lists_of_names_are_refused(tmp_path):
    path, weights = tmp_path / "names.json", tmp_path / "net.safetensors"
    safetensors.numpy.save_file({"fc.weight": FC}, weights)
    for content, message in [
        ("{", "cannot read the names"),
        ('{"a": "b", "a": "c"}', "it names a twice"),
        ("[]", "holds no names"),
        ("{}", "holds no names"),
        (json.dumps({"a": 1}), "holds no names"),
        ("[" * 100_000, "cannot read the names"),
    ]:
        path.write_text(content)
        with pytest.raises(UserError, match=message):
            pretrained.read(weights, path)
    with pytest.raises(UserError, match="cannot read the names"):
        pretrained.read(weights, tmp_path / "missing.json")


@pytest.mark.parametrize(
    "place", ["resnetblur50.bt.safetensors", "models--timm--resnetaa50.a1h/snapshots/1/m.pth"]
)
def test_networks_that_only_their_name_shows_are_refused(place):
    """timm's resnetblur50 has the names and shapes of resnet50, and computes something else."""
    with pytest.raises(UserError, match=r"resnet(blur|aa)50 pools where a ResNet has a stride"):
        pretrained.read(pathlib.Path("hub") / place)
