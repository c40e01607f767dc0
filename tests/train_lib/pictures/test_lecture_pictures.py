"""The numbers in the lecture's pictures against closed forms, published counts and brute force."""

import numpy as np
import pytest
from PIL import Image
from scipy.signal import correlate2d
from scipy.special import expit

from configs.load import load
from input_pipeline.statistics import Statistics
from models.layers import alexnet_norm
from train_lib.pictures import (
    activation_curves,
    augmented,
    by_hand,
    dropout,
    filtered,
    lecture,
    lrn,
    network_sizes,
    pooling,
)

# --- activations

X = np.array([-3.0, -1.2, -0.4, 0.3, 1.1, 2.7])
STEP = (X > 0).astype(float)
CLOSED_FORMS = {
    "sigmoid": (expit(X), expit(X) * expit(-X)),
    "tanh": (np.tanh(X), 1 - np.tanh(X) ** 2),
    "scaled_tanh": (1.7159 * np.tanh(2 * X / 3), 1.7159 * 2 / 3 / np.cosh(2 * X / 3) ** 2),
    "relu": (X * STEP, STEP),
    "leaky_relu": (X * (STEP + 0.01 * (1 - STEP)), STEP + 0.01 * (1 - STEP)),
    "prelu": (X * (STEP + 0.25 * (1 - STEP)), STEP + 0.25 * (1 - STEP)),
    # The pieces -0.8x - 0.6, 0.1x and x - 1 meet at -2/3 and 10/9.
    "maxout": (
        np.select([X < -2 / 3, X < 10 / 9], [-0.8 * X - 0.6, 0.1 * X], X - 1),
        np.select([X < -2 / 3, X < 10 / 9], [-0.8, 0.1], 1.0),
    ),
}


@pytest.mark.parametrize("kind", CLOSED_FORMS)
def test_activations_and_derivatives_are_the_closed_forms(kind):
    for found, expected in zip(
        activation_curves.activation_curves(X, kind), CLOSED_FORMS[kind], strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_many_sigmoids_are_close_to_softplus():
    x = np.array([0.0, 2.0, 5.0])
    many = activation_curves.stacked_sigmoids(x, 60)
    np.testing.assert_allclose(many, (0.6826, 2.1226, 5.0064), atol=5e-5)  # FACTS.md, sec. 7
    np.testing.assert_allclose(many, np.log1p(np.exp(x)), atol=0.012)
    assert activation_curves.stacked_sigmoids(np.array([100.0]), 3)[0] == pytest.approx(3)


# --- by hand


def test_the_lecture_s_convolution():
    image = np.array([list(map(int, row)) for row in lecture.IMAGE])
    found = {
        name: by_hand.maps_and_pools(image, np.array(kernel))
        for name, kernel in lecture.FILTERS.items()
    }
    for name, (responses, _) in found.items():
        expected = correlate2d(image, np.array(lecture.FILTERS[name]), "valid")
        np.testing.assert_array_equal(responses, expected)
    np.testing.assert_array_equal(found["diagonal"][0], lecture.DIAGONAL_MAP)
    # FACTS.md, D21: the lower rows of the slide are in reverse order.
    np.testing.assert_array_equal(found["diagonal"][1], [[3, 0], [3, 1]])
    np.testing.assert_array_equal(found["vertical"][1], [[-1, 1], [0, 3]])


@pytest.mark.parametrize("weights", [(2.0, 1.0, -3.0), (0.0, 2.0, 1.0)])
def test_a_perceptron_s_line_is_where_its_sum_is_0(weights):
    ends = by_hand.line_ends(np.array(weights))
    np.testing.assert_allclose(ends @ weights[:2] + weights[2], 0, atol=1e-12)
    assert np.linalg.norm(ends[1] - ends[0]) == pytest.approx(18)


# --- filters


def test_the_bilateral_filter_keeps_an_edge_that_the_mean_blurs():
    image = np.full((30, 40), 0.2)
    image[:, 20:] = 0.8
    found = filtered.filtered(image, seed=0)
    at_edge = {name: values[5:25, 19].mean() for name, values in found.items()}
    assert at_edge["mean of 5x5"] == pytest.approx(0.2 + 0.6 * 2 / 5, abs=0.05)
    assert at_edge["bilateral, sigma 2 and 0.2"] == pytest.approx(0.2, abs=0.07)
    noise, smooth = (found[name][5:25, 4:15].std() for name in ("with noise", "mean of 5x5"))
    assert noise == pytest.approx(0.1, rel=0.15) and smooth < noise / 3
    assert found["Sobel x"][10, 10] == 0 < found["Sobel x"][10, 20]
    assert not np.abs(found["Sobel y"]).max() > 1e-5
    assert not found["corners"][5:25].any()


# --- gradients of layers


@pytest.mark.parametrize(("window", "stride"), [(2, 2), (3, 1)])
def test_the_gradient_of_average_pooling_counts_windows(window, stride):
    x = np.array(lecture.DIAGONAL_MAP, float)
    pooled, gradient = pooling.pool_routes(x, window, stride, "average")
    expected, places = np.zeros_like(x), range(0, 4 - window + 1, stride)
    for row in places:
        for column in places:
            part = slice(row, row + window), slice(column, column + window)
            expected[part] += 1 / window**2
            assert pooled[row // stride, column // stride] == pytest.approx(x[part].mean())
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)


def test_the_lecture_s_map_gives_the_lecture_s_maxima():
    pooled, gradient = pooling.pool_routes(np.array(lecture.DIAGONAL_MAP), 2, 2)
    np.testing.assert_array_equal(pooled, [[3, 0], [3, 1]])
    assert sorted(zip(*np.nonzero(gradient), strict=True)) == [(0, 0), (1, 2), (2, 3), (3, 0)]


@pytest.mark.parametrize(
    ("variant", "k", "alpha", "last"),
    [
        ("paper", 2, 1e-4, 27.944183),
        ("cuda_convnet", 2, 2e-5, 33.745586),
        ("caffe", 1, 2e-5, 53.888599),  # all three: FACTS.md, sec. 2.3
    ],
)
def test_the_derivatives_of_lrn_are_the_closed_form(variant, k, alpha, last):
    a = np.array([10.0, 20, 30, 40, 50, 60])
    b, derivatives = lrn.lrn_gradient(a, variant)
    assert b[-1] == pytest.approx(last, rel=1e-6)
    assert alexnet_norm(variant).k == k
    near = np.abs(np.subtract.outer(np.arange(6), np.arange(6))) <= 2
    total = k + alpha * (near * a**2).sum(axis=1)
    expected = np.diag(total**-0.75) - 1.5 * alpha * near * np.outer(a * total**-1.75, a)
    np.testing.assert_allclose(derivatives, expected, rtol=1e-4, atol=1e-7)
    assert derivatives[0, 1] < 0 == derivatives[0, 3]


# --- units that are dropped


def reds(figure) -> np.ndarray:
    """Which pixels of each image are red: bool [images, h, w]."""
    images = [np.asarray(i.get_array()) for axis in figure.axes for i in axis.get_images()]
    return np.stack([image[..., 0] > image[..., 1] + 0.3 for image in images])


def test_annealing_keeps_what_was_kept():
    scales = {"start": 1.0, "middle": 0.4, "end": 0.0}
    none, *dropped = reds(dropout.annealed_masks(np.linspace(0, 1, 900), 0.5, scales, seed=0))
    assert not none.any()
    assert [mask.mean() for mask in dropped] == pytest.approx([0.5, 0.2, 0], abs=0.05)
    assert not (dropped[1] & ~dropped[0]).any()
    assert not dropped[2].any()


def test_standout_keeps_units_with_the_sigmoid_of_their_inputs():
    inputs = np.tile(np.linspace(-3, 3, 24), (400, 1))
    share, masks = dropout.standout_masks(inputs, 1.5, -0.5, seed=0, count=2)
    np.testing.assert_allclose(share, expit(1.5 * inputs - 0.5), rtol=1e-5)
    assert masks.shape == (2, 400, 24) and (masks[0] != masks[1]).any()
    assert np.abs(masks.mean(axis=(0, 1)) - share[0]).max() < 4 * 0.5 / 800**0.5


# --- views of images


def place_image(height: int, width: int) -> np.ndarray:
    """An image whose pixels say their row (red) and column (green)."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, np.zeros_like(rows)], axis=-1).astype(np.uint8)


def alexnet(**augment):
    config = load("alexnet")
    config.view.update({"size": 24, "train_scale": (32, 32), "test_scale": 32})
    config.augment.update({"lighting": "none", **augment})
    return config


def test_alexnet_s_training_views_are_windows_of_the_central_square():
    views = augmented.training_views(alexnet(flip=True), place_image(32, 40), 30, seed=0)
    assert views.shape == (30, 24, 24, 3) and views.dtype == np.uint8
    np.testing.assert_array_equal(views[0], place_image(32, 40)[4:28, 8:32])  # of evaluation
    corners, flips = set(), 0
    for view in views[1:].astype(int):
        flipped = view[0, 0, 1] > view[0, 1, 1]
        view = view[:, ::-1] if flipped else view
        top, left = view[0, 0, :2]
        assert 0 <= top <= 8 and 4 <= left <= 12
        np.testing.assert_array_equal(
            view, place_image(32, 40)[top : top + 24, left : left + 24].astype(int)
        )
        corners.add((top, left))
        flips += flipped
    assert len(corners) > 15 and 5 < flips < 24


@pytest.mark.parametrize("kind", ["eigenvalues", "deviations"])
def test_noise_along_principal_colours_shifts_all_pixels_of_an_image_equally(kind):
    grey = np.full((32, 32, 3), 128, np.uint8)
    values = np.array([0.25, 0.16, 0.09])
    colours = Statistics(grey.astype(np.float32), np.full(3, 128.0), values, np.eye(3), 1)
    config = alexnet(flip=False, lighting=kind)
    shifts = augmented.training_views(config, grey, 400, 0, colours).astype(int) - 128
    assert not shifts[0].any()
    assert (shifts == shifts[:, :1, :1]).all()
    # Of N(0, 0.1) times the axis, in 255 grey levels; rounding adds a variance of 1/12.
    expected = 25.5 * (values if kind == "eigenvalues" else values**0.5)
    found = shifts[1:, 0, 0].std(axis=0)
    np.testing.assert_allclose(found, np.sqrt(expected**2 + 1 / 12), rtol=0.15)


def test_ten_crops_are_corners_and_centre_of_the_central_square():
    image = place_image(64, 96)
    whole, chosen, cut = augmented.evaluation_crops(image, "ten_crop", 64, 56)
    np.testing.assert_array_equal(whole, image)
    expected = [(0, 16), (0, 24), (8, 16), (8, 24), (4, 20)]
    assert [(crop.top, crop.left) for crop in chosen] == expected
    for (top, left), one in zip(expected, cut, strict=True):
        np.testing.assert_array_equal(one, image[top : top + 56, left : left + 56])


# --- counts


@pytest.mark.parametrize(
    ("name", "params", "macs", "connected"),
    [
        ("alexnet", 60_965_224, 724_406_816, 37_752_832 + 16_781_312 + 4_097_000),
        ("vgg:D", 138_357_544, 15_470_264_320, 123_642_856),
        ("googlenet", 6_998_552, 1_582_671_872, 1_025_000),
        ("resnet:50", 25_557_032, 3_857_973_248, 2_049_000),
    ],
)
def test_sizes_are_those_of_the_papers(name, params, macs, connected):
    found = network_sizes.parts(lecture.description(name, 224))
    assert sum(part["params"] for part in found.values()) == params
    assert sum(part["macs"] for part in found.values()) == macs
    assert found[network_sizes.FULLY_CONNECTED]["params"] == connected


def test_the_bottleneck_s_arithmetic():
    wide = network_sizes.convolution_weights(lecture.description("resnet:34", 224), "conv4_2")
    narrow = network_sizes.convolution_weights(lecture.description("resnet:50", 224), "conv2_2")
    assert list(narrow.values()) == [16_384, 36_864, 16_384]
    assert (sum(wide.values()), sum(narrow.values())) == (1_179_648, 69_632)


def test_the_weights_of_the_lecture_s_layer():
    full, local, shared = lecture.connectivity_weights().values()
    assert full == (16_000_000_000, 16_000_400_000)
    assert local == (40_000_000, 40_400_000)
    assert shared == (1_000, 1_010)


# --- the command


def test_the_command_draws_a_picture(tmp_path, capsys):
    assert lecture.main(["standout", f"--out={tmp_path}"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "standout.png")
    with Image.open(tmp_path / "standout.png") as picture:
        assert picture.mode == "P" and min(picture.size) > 300


def test_the_command_refuses_an_unknown_picture(capsys):
    assert lecture.main(["ten_crop"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("lecture: no picture 'ten_crop': choose one of image_filters, ")
    assert error.count("\n") == 1
