"""Names, layouts and settings of each framework's networks, tested without torch."""

import pathlib

import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from foreign_files import caffemodel, write_keras

from configs import alexnet as alexnet_config
from configs import googlenet as googlenet_config
from configs import resnet as resnet_config
from configs import vgg as vgg_config
from errors import UserError
from models import pretrained, resnet
from models.alexnet import AlexNet
from models.googlenet import GoogLeNet
from models.mlp import MLP
from models.pretrained import caffe, keras, timm
from models.pretrained.entries import Entry, shapes
from models.resnet import ResNet
from models.vgg import VGG

SHAPE = (224, 224, 3)
BVLC_ALEXNET = AlexNet(image_size=227, lrn="caffe", dropout_scaling="train")
CAFFES_50 = ResNet(depth=50, pool1_padding=0)


def weight_file(source, tensors=None, path="net", **more):
    return pretrained.WeightFile(pathlib.Path(path), "", source, tensors or {}, **more)


# Counts: each convolution or linear layer has two tensors, or one and four of a BatchNorm.
@pytest.mark.parametrize(
    ("names", "net", "tensors", "some"),
    [
        (caffe.FRAMEWORK.entries, BVLC_ALEXNET, 16, "conv1.weight conv5.bias fc8.weight"),
        (caffe.FRAMEWORK.entries, VGG(variant="D"), 32, "conv1_1.weight conv5_3.bias fc8.weight"),
        (caffe.FRAMEWORK.entries, VGG(variant="E"), 38, "conv5_4.bias"),
        (
            caffe.FRAMEWORK.entries,
            GoogLeNet(lrn="caffe"),
            2 * (57 + 1 + 2 * 3),
            "conv1/7x7_s2.weight conv2/3x3_reduce.bias inception_3a/5x5_reduce.weight"
            " inception_5b/pool_proj.bias loss1/conv.weight loss2/fc.weight loss2/classifier.bias"
            " loss3/classifier.weight",
        ),
        (
            caffe.FRAMEWORK.entries,
            CAFFES_50,
            53 * 5 + 2,
            "conv1.weight bn_conv1.mean scale_conv1.bias res2a_branch1.weight"
            " bn4f_branch2c.variance scale5c_branch2a.weight fc1000.bias",
        ),
        (
            caffe.FRAMEWORK.entries,
            ResNet(depth=101, pool1_padding=0),
            104 * 5 + 2,
            "res2c_branch2a.weight res3b3_branch2a.weight bn4b22_branch2c.mean"
            " res5a_branch1.weight",
        ),
        (
            caffe.FRAMEWORK.entries,
            ResNet(depth=152, pool1_padding=0),
            155 * 5 + 2,
            "res3b7_branch2c.weight res4b35_branch2c.weight",
        ),
        (
            keras.framework({}).entries,
            VGG(variant="D"),
            32,
            "block1_conv1.kernel block5_conv3.bias fc1.kernel fc2.bias predictions.kernel",
        ),
        (keras.framework({}).entries, VGG(variant="E"), 38, "block5_conv4.kernel"),
        (
            keras.framework({}).entries,
            ResNet(depth=50),
            53 * 5 + 2,
            "conv1_conv.kernel conv1_bn.mean conv2_block1_0_conv.kernel conv2_block1_0_bn.gamma"
            " conv4_block6_3_bn.variance conv5_block3_1_conv.kernel predictions.bias",
        ),
        (
            keras.framework({"bn_conv1.gamma": 1}).entries,
            CAFFES_50,
            53 * 5 + 2,
            "conv1.kernel bn_conv1.gamma res2a_branch1.kernel bn5c_branch2c.mean fc1000.kernel",
        ),
        (
            keras.framework({"probs.kernel": 1}).entries,
            ResNet(depth=152),
            155 * 5 + 2,
            "conv4_block36_3_conv.kernel probs.kernel",
        ),
        (
            timm.FRAMEWORK.entries,
            VGG(variant="A"),
            22,
            "features.0.weight features.18.bias pre_logits.fc1.weight pre_logits.fc2.bias"
            " head.fc.weight",
        ),
    ],
)
def test_the_list_names_every_tensor_once(names, net, tensors, some):
    entries = names(net)
    assert len({e.key for e in entries}) == len(entries) == tensors
    side = getattr(net, "image_size", 224)
    assert sorted(e.path for e in entries) == sorted(shapes(net, (side, side, 3)))
    assert set(some.split()) <= {e.key for e in entries}


@pytest.mark.parametrize(
    ("source", "net", "message"),
    [
        ("caffe", MLP(), "Caffe has no MLP: weights are exchanged for AlexNet, VGG"),
        ("caffe", BVLC_ALEXNET.clone(variant="one_tower"), "model.variant=one_tower"),
        ("caffe", BVLC_ALEXNET.clone(image_size=224), "model.image_size=224"),
        ("caffe", BVLC_ALEXNET.clone(lrn="published"), "model.lrn=published"),
        ("caffe", BVLC_ALEXNET.clone(lrn_over="tower"), "model.lrn_over=tower"),
        ("caffe", BVLC_ALEXNET.clone(dropout_scaling="test"), "model.dropout_scaling=test"),
        ("caffe", GoogLeNet(lrn="caffe", stem="small"), "model.stem=small"),
        ("caffe", VGG(width=0.5), "model.width=0.5: Caffe's VGG needs 1.0"),
        ("caffe", GoogLeNet(lrn="caffe", normalisation="batch_norm"), "model.normalisation="),
        ("caffe", ResNet(depth=50), "model.pool1_padding=1: Caffe's ResNet needs 0"),
        ("caffe", CAFFES_50.clone(stride="v1.5"), "model.stride=v1.5"),
        ("caffe", CAFFES_50.clone(depth=18), "model.depth=18"),
        ("keras", VGG(variant="A"), "model.variant=A: Keras's VGG needs D or E"),
        ("keras", CAFFES_50, "model.pool1_padding=0: Keras's ResNet needs 1"),
        ("keras", GoogLeNet(), "Keras has no GoogLeNet"),
        ("timm", ResNet(depth=50), "timm has no ResNet"),  # by VGG's names
        ("timm", VGG(variant="C"), "model.variant=C"),
    ],
)
def test_networks_that_a_framework_lacks_are_refused(source, net, message):
    with pytest.raises(UserError, match=message):
        weight_file(source).variables(net, SHAPE)


# Settings.

CAFFE_VGG = (123.68 / 255, 116.779 / 255, 103.939 / 255)


@pytest.mark.parametrize(
    ("source", "config", "tensors", "expected"),
    [
        (
            "torchvision",
            resnet_config.get_config("50"),
            (),
            {
                "preprocess.mean": "given",
                "preprocess.given_mean": (0.485, 0.456, 0.406),
                "preprocess.deviation": (0.229, 0.224, 0.225),
                "preprocess.low": 0.0,
                "preprocess.high": 1.0,
                "view.size": 224,
                "view.test_scale": 256,
                "view.interpolation": "bilinear",
                "model.stride": "v1.5",
                "model.pool1_padding": 1,
            },
        ),
        (
            "torchvision",
            alexnet_config.get_config("one_tower"),
            (),
            {"model.lrn": "none", "model.dropout_scaling": "train", "model.image_size": 224},
        ),
        (
            "torchvision",
            googlenet_config.get_config("batch_norm"),
            ("aux1.fc1.weight",),
            {
                "preprocess.given_mean": (0.5,) * 3,
                "model.auxiliary_heads": True,
                "view.interpolation": "bilinear",  # the config has "random"
            },
        ),
        (
            "torchvision",
            googlenet_config.get_config("batch_norm"),
            ("fc.weight",),
            {"model.auxiliary_heads": False, "loss.auxiliary_weight": 0.0},
        ),
        ("timm", vgg_config.get_config("A"), (), {"view.size": 224, "preprocess.high": 1.0}),
        (
            "caffe",
            alexnet_config.get_config("two_tower"),
            (),
            {
                "preprocess.given_mean": (123 / 255, 117 / 255, 104 / 255),
                "preprocess.deviation": (),
                "preprocess.high": 255.0,
                "view.size": 227,
                "model.image_size": 227,
                "model.lrn": "caffe",
                "model.dropout_scaling": "train",
            },
        ),
        ("caffe", vgg_config.get_config("D"), (), {"preprocess.given_mean": CAFFE_VGG}),
        (
            "caffe",
            googlenet_config.get_config("lrn"),
            ("loss1/conv.weight",),
            {"model.lrn": "caffe", "model.auxiliary_heads": True, "preprocess.high": 255.0},
        ),
        (
            "caffe",
            resnet_config.get_config("101"),
            (),
            {"model.stride": "v1", "model.pool1_padding": 0, "preprocess.high": 255.0},
        ),
        ("keras", vgg_config.get_config("E"), (), {"preprocess.given_mean": CAFFE_VGG}),
        (
            "keras",
            resnet_config.get_config("50-v1.5"),
            (),
            {"model.stride": "v1", "model.pool1_padding": 1, "preprocess.high": 255.0},
        ),
        (
            "keras",
            resnet_config.get_config("50"),
            ("bn_conv1.gamma",),
            {"model.pool1_padding": 0},
        ),
    ],
)
def test_settings(source, config, tensors, expected):
    actual = weight_file(source, dict.fromkeys(tensors, np.zeros(1))).settings(config.model)
    assert {field: actual[field] for field in expected} == expected
    for field in actual:  # all but the new fields of preprocess exist in the config
        section, name = field.split(".")
        if name not in ("given_mean", "deviation"):
            assert name in config[section], field


def test_settings_have_no_stride_without_bottlenecks():
    config = resnet_config.get_config("18")
    assert "model.stride" not in weight_file("torchvision").settings(config.model)


@pytest.mark.parametrize("source", ["torchvision", "timm", "caffe", "keras"])
def test_settings_for_a_model_that_a_framework_lacks_are_refused(source):
    with pytest.raises(UserError, match=f"(?i){source} has no lenet5: .* names of the tensors"):
        weight_file(source).settings({"name": "lenet5"})


@pytest.mark.parametrize("source", ["torchvision", "timm"])
def test_vgg_with_batch_norm_is_refused(source):
    tensors = {"features.1.running_mean": np.zeros(64)}
    with pytest.raises(UserError, match="VGG with BatchNorm"):
        weight_file(source, tensors).settings({"name": "vgg", "variant": "D"})


# Caffe and Keras: colours, biases, order.


@pytest.fixture
def shallow(monkeypatch):
    """ResNet-50 with one block in each stage."""
    monkeypatch.setitem(resnet.DEPTHS, 50, ((1, 1, 1, 1), True))
    return ResNet(depth=50, num_classes=7, pool1_padding=0)


def filled(entries, module, input_shape):
    """Random tensors for a list of names, all positive."""
    rng = np.random.default_rng(0)
    ours = shapes(module, input_shape)
    return {
        e.key: rng.uniform(0.5, 1.0, size=e.their_shape(ours[e.path])).astype(np.float32)
        for e in entries
    }


def test_colours_are_reversed_and_biases_are_merged_into_the_mean(shallow):
    tensors = filled(caffe.FRAMEWORK.entries(shallow), shallow, SHAPE)
    bias = np.arange(64, dtype=np.float32)
    with_bias = {**tensors, "conv1.bias": bias}
    actual = weight_file("caffe", with_bias).variables(shallow, SHAPE)
    np.testing.assert_array_equal(
        actual["params"]["conv1"]["kernel"][:, :, 0],
        tensors["conv1.weight"][:, 2].transpose(1, 2, 0),
    )
    statistics = actual["batch_stats"]["bn1"]
    np.testing.assert_array_equal(statistics["mean"], tensors["bn_conv1.mean"] - bias)
    np.testing.assert_array_equal(statistics["var"], tensors["bn_conv1.variance"])
    assert all(leaf.dtype == np.float32 for leaf in flatten_dict(actual).values())
    # A bias that has no place is not passed over.
    with pytest.raises(UserError, match=r"1 unexpected \(conv1.bias\)"):
        weight_file("caffe", {**tensors, "conv1.bias": bias[:3]}).variables(shallow, SHAPE)


def test_a_keras_resnet_from_its_file(shallow, tmp_path):
    module = shallow.clone(pool1_padding=1)
    tensors = filled(keras.framework({}).entries(module), module, SHAPE)
    biases = {
        key.replace(".kernel", ".bias"): np.full(array.shape[-1], 0.25, np.float32)
        for key, array in tensors.items()
        if key.endswith("_conv.kernel")
    }
    layers = {}
    for key, array in {**tensors, **biases}.items():
        layer, role = key.rsplit(".", 1)
        role = {"mean": "moving_mean", "variance": "moving_variance"}.get(role, role)
        layers.setdefault(layer, {})[role] = array
    write_keras(tmp_path / "net.h5", layers)
    file = pretrained.read(tmp_path / "net.h5")
    assert file.source == "keras"
    actual = file.variables(module, SHAPE)
    kernel, theirs = actual["params"]["conv1"]["kernel"], tensors["conv1_conv.kernel"]
    np.testing.assert_array_equal(kernel[2, 5, 0], theirs[2, 5, 2])
    np.testing.assert_array_equal(
        actual["batch_stats"]["conv3_1"]["projection_bn"]["mean"],
        tensors["conv3_block1_0_bn.mean"] - 0.25,
    )
    np.testing.assert_array_equal(actual["params"]["fc"]["kernel"], tensors["predictions.kernel"])


def test_keras_kernels_have_the_same_order_of_rows():
    rng = np.random.default_rng(0)
    image, weight = rng.normal(size=(2, 2, 3)), rng.normal(size=(12, 5)).astype(np.float32)
    entry = Entry(("params", "fc1", "kernel"), "fc1.kernel", "rows")
    kernel = entry.from_theirs(weight, (2, 2, 3, 5))
    actual = np.einsum("hwc,hwco->o", image, kernel)
    np.testing.assert_allclose(actual, image.ravel() @ weight, rtol=1e-5)
    np.testing.assert_array_equal(entry.to_theirs(kernel), weight)


def test_caffenet_is_refused():
    layers = ("conv1", "relu1", "pool1", "norm1", "conv2")
    with pytest.raises(UserError, match="of CaffeNet"):
        weight_file("caffe", layers=layers).variables(BVLC_ALEXNET, (227, 227, 3))
    layers = ("conv1", "relu1", "norm1", "pool1", "conv2")
    with pytest.raises(UserError, match="16 missing"):
        weight_file("caffe", layers=layers).variables(BVLC_ALEXNET, (227, 227, 3))


def test_weights_of_another_model_are_refused_in_one_line(tmp_path, shallow):
    layers = [("conv1_1", "Convolution", [np.ones((64, 3, 3, 3), np.float32), np.ones(64)])]
    path = tmp_path / "vgg.caffemodel"
    path.write_bytes(caffemodel(layers))
    with pytest.raises(UserError, match=r"missing .* 2 unexpected") as error:
        pretrained.read(path).variables(shallow, SHAPE)
    assert "conv1_1.weight" in str(error.value) and "\n" not in str(error.value)
