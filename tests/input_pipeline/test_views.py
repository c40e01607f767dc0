"""Views: boxes against the papers' words and torchvision's formulas, pixels against Pillow."""

import dataclasses
import io
import math
import pickle
import types

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image
from scipy import stats

from configs import alexnet, googlenet, lenet5, resnet, schema
from errors import UserError
from input_pipeline import decode, views

BASE = views.View(
    size=24,
    train="scale",
    train_scale=(32, 32),
    square=False,
    area=(0.08, 1.0),
    aspect=(3 / 4, 4 / 3),
    interpolation="bilinear",
    test_scale=32,
)
SHAPES = [(60, 91), (97, 61), (64, 64), (32, 45), (20, 33), (25, 24), (40, 200)]


def changed(**fields):
    return dataclasses.replace(BASE, **fields)


def photo(height, width, channels=3, grain=3):
    """Noise, smoothed over `grain` pixels. The channels differ."""
    rng = np.random.default_rng(0)
    shape = (height // grain + 2, width // grain + 2, 3)
    noise = Image.fromarray(rng.integers(0, 256, shape).astype(np.uint8))
    return np.array(noise.resize((width, height), Image.Resampling.BICUBIC))[..., :channels]


def resized(image, shorter, filter=Image.Resampling.BILINEAR):
    """The whole image brought to a shorter side, with torchvision's rule for the other side."""
    height, width = image.shape[:2]
    short, long = min(height, width), max(height, width)
    long = int(shorter * long / short)
    size = (shorter, long) if width < height else (long, shorter)
    return np.asarray(Image.fromarray(image).resize(size, filter))


def close(actual, expected, worst=2):
    assert actual.shape == expected.shape
    assert actual.dtype == np.uint8
    assert abs(actual.astype(int) - expected.astype(int)).max() <= worst


class Chosen:
    """A random generator that returns the given integers, for views at known places."""

    def __init__(self, *values):
        self.values = list(values)

    def integers(self, low, high=None, size=None):
        low, high = (0, low) if high is None else (low, high)
        taken = [self.values.pop(0) for _ in range(size or 1)]
        assert all(low <= value < high for value in taken)
        return np.array(taken) if size else taken[0]


# --------------------------------------------------------------------------- scale


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("shorter", [24, 31, 32, 47])
def test_scale_equals_rescaling_and_then_cropping(shape, shorter):
    image = photo(*shape)
    whole = resized(image, shorter)
    spans = [side - 24 for side in whole.shape[:2]]
    for top, left in [(0, 0), spans, (spans[0] // 2, spans[1] // 3)]:
        view = changed(train_scale=(shorter, shorter))
        actual, offset = view.cut(image, Chosen(shorter, top, left))
        assert offset == (0, 0)
        close(actual, whole[top : top + 24, left : left + 24])


@pytest.mark.parametrize("name", ["bilinear", "bicubic", "lanczos", "box", "nearest"])
def test_scale_with_every_interpolation(name):
    image = photo(77, 120)
    for shorter in (32, 100):
        whole = resized(image, shorter, Image.Resampling[name.upper()])
        view = changed(train_scale=(shorter, shorter), interpolation=name)
        actual, _ = view.cut(image, Chosen(shorter, 5, 9))
        if name == "nearest":  # a column whose centre falls between two pixels may take either
            assert (actual != whole[5:29, 9:33]).any((0, 2)).sum() <= 1
        else:
            close(actual, whole[5:29, 9:33])


@pytest.mark.parametrize("shape", SHAPES)
def test_square_crops_from_the_central_square(shape):
    image = photo(*shape)
    whole = resized(image, 32)
    y, x = (round((side - 32) / 2) for side in whole.shape[:2])
    square = whole[y : y + 32, x : x + 32]
    for top, left in [(0, 0), (8, 8), (3, 5)]:
        actual, offset = changed(square=True).cut(image, Chosen(32, top, left))
        assert offset == (top, left)
        close(actual, square[top : top + 24, left : left + 24])
    actual, offset = changed(square=True).cut(image)
    assert offset == (4, 4)
    close(actual, square[4:28, 4:28])


@pytest.mark.parametrize("square", [False, True])
def test_positions_are_uniform_including_the_edges(square):
    rng = np.random.default_rng(1)
    view = changed(size=6, train_scale=(8, 8), square=square)
    height, width = 16, 22  # 8 x 11 rescaled
    counts = np.zeros((3, 3 if square else 6), int)
    base = round((11 - 8) / 2) if square else 0
    for _ in range(300 * counts.size):
        box, offset = view.place(height, width, rng)
        top, left = box.top / 2, box.left / 2 - base
        assert box[2:] == (12, 12)
        assert offset == ((top, left) if square else (0, 0))
        counts[int(top), int(left)] += 1
    assert stats.chisquare(counts.ravel()).pvalue > 0.01


def test_the_scale_is_uniform_over_the_integers():
    rng = np.random.default_rng(2)
    view = changed(train_scale=(30, 40))
    boxes = [view.place(100, 200, rng)[0] for _ in range(5500)]
    scales = np.array([24 * 100 / box.height for box in boxes])
    np.testing.assert_allclose(scales, np.rint(scales))
    counts = np.bincount(np.rint(scales).astype(int))[30:]
    assert len(counts) == 11
    assert stats.chisquare(counts).pvalue > 0.01


def test_boxes_never_leave_the_image():
    rng = np.random.default_rng(3)
    for _ in range(2000):
        height, width = (int(v) for v in rng.integers(1, 700, 2))
        low = int(rng.integers(24, 300))
        view = changed(
            train=("scale", "area")[rng.integers(2)], train_scale=(low, 300), test_scale=low
        )
        for generator in (rng, None):
            box, _ = view.place(height, width, generator)
            assert box.top >= 0 and box.left >= 0
            assert box.height > 0 and box.width > 0
            assert box.top + box.height <= height * (1 + 1e-12)
            assert box.left + box.width <= width * (1 + 1e-12)


# --------------------------------------------------------------------------- area


def test_distributions_of_area_and_aspect_ratio():
    rng = np.random.default_rng(4)
    view = changed(train="area", area=(0.1, 0.5))  # of a large square, all of these fit
    side = 5000
    boxes = np.array([view.random_area(side, side, rng) for _ in range(4000)])
    share = boxes[:, 2] * boxes[:, 3] / side**2
    aspect = boxes[:, 3] / boxes[:, 2]
    assert stats.kstest(share, stats.uniform(0.1, 0.4).cdf).pvalue > 0.01
    span = 2 * math.log(4 / 3)
    assert stats.kstest(np.log(aspect), stats.uniform(-span / 2, span).cdf).pvalue > 0.01
    for start, length in ((0, 2), (1, 3)):
        place = boxes[:, start] / (side - boxes[:, length])
        assert stats.kstest(place, stats.uniform(0, 1).cdf).pvalue > 0.01
    assert (boxes == np.rint(boxes)).all()


def test_area_reaches_both_edges_and_the_whole_image():
    rng = np.random.default_rng(5)
    view = changed(train="area", area=(0.4, 1.0))
    boxes = np.array([view.random_area(8, 8, rng) for _ in range(4000)])
    ends = boxes[:, :2] + boxes[:, 2:]
    assert boxes[:, :2].min(0).tolist() == [0, 0]
    assert ends.max(0).tolist() == [8, 8]
    assert (boxes[:, 2:] == 8).all(1).any()
    counts = np.bincount(boxes[boxes[:, 2] == 6, 0].astype(int))
    assert stats.chisquare(counts).pvalue > 0.01 and len(counts) == 3


@pytest.mark.parametrize(
    ("shape", "box"),
    [((30, 400), (0, 180, 30, 40)), ((400, 30), (180, 0, 40, 30)), ((1, 9), (0, 4, 1, 1))],
)
def test_area_falls_back_to_the_largest_allowed_central_patch(shape, box):
    view = changed(train="area", area=(0.9, 1.0))
    assert view.random_area(*shape, np.random.default_rng(0)) == box


def test_area_falls_back_to_the_whole_image_if_allowed():
    view = changed(train="area", area=(1.0, 1.0))
    assert view.random_area(1000, 1200, np.random.default_rng(0)) == (0, 0, 1000, 1200)


def test_the_pixels_of_an_area_view():
    image = photo(90, 120)
    box = changed(train="area").random_area(90, 120, np.random.default_rng(6))
    actual, offset = changed(train="area").cut(image, np.random.default_rng(6))
    top, left, height, width = box
    part = Image.fromarray(image).resize(
        (24, 24), Image.Resampling.BILINEAR, (left, top, left + width, top + height)
    )
    assert offset == (0, 0)
    close(actual, np.asarray(part), 0)
    # Inside, it is the patch alone that is resized; at the border its neighbours take part.
    patch = Image.fromarray(image[top : top + height, left : left + width])
    patch = np.asarray(patch.resize((24, 24), Image.Resampling.BILINEAR))
    close(actual[3:-3, 3:-3], patch[3:-3, 3:-3])


# --------------------------------------------------------------------------- test view


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("shorter", [24, 27, 32])
def test_center_equals_torchvision_resize_and_center_crop(shape, shorter):
    image = photo(*shape)
    whole = resized(image, shorter)
    top = round((whole.shape[0] - 24) / 2.0)
    left = round((whole.shape[1] - 24) / 2.0)
    view = changed(test_scale=shorter)
    for rng, train in ((None, "scale"), (None, "area"), (np.random.default_rng(0), "center")):
        actual, offset = dataclasses.replace(view, train=train).cut(image, rng)
        assert offset == (0, 0)
        close(actual, whole[top : top + 24, left : left + 24])


@pytest.mark.parametrize("train", schema.choices("view.train"))
def test_encoded_and_decoded_images_give_the_same_views(train):
    image = photo(300, 410, grain=10)
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=95)
    data = stream.getvalue()
    view = changed(train=train, train_scale=(32, 200))
    for seed in (None, 0, 1, 2, 3):
        one, two = (None if seed is None else np.random.default_rng(seed) for _ in range(2))
        actual, _ = view.cut(data, one)
        expected, _ = view.cut(decode.decode(data), two)
        # Noise as fine as the result's pixels: worse than photographs.
        assert abs(actual.astype(int) - expected.astype(int)).mean() < 1.5


# --------------------------------------------------------------------------- interpolation


def test_random_interpolation_is_uniform_over_four_and_bicubic_in_evaluation():
    rng = np.random.default_rng(7)
    drawn = [views.resampling("random", rng) for _ in range(2000)]
    assert set(drawn) == {
        Image.Resampling[name] for name in ("BILINEAR", "BICUBIC", "BOX", "NEAREST")
    }
    counts = [drawn.count(filter) for filter in set(drawn)]
    assert stats.chisquare(counts).pvalue > 0.01
    image = photo(60, 60)
    actual, _ = changed(interpolation="random").cut(image)
    expected, _ = changed(interpolation="bicubic").cut(image)
    np.testing.assert_array_equal(actual, expected)


# --------------------------------------------------------------------------- all views


@pytest.mark.parametrize("train", schema.choices("view.train"))
def test_a_view_depends_only_on_the_state_of_the_generator(train):
    image = photo(80, 70)
    view = changed(train=train, train_scale=(30, 60), interpolation="random")
    one, two, other = (view.cut(image, np.random.default_rng(s))[0] for s in (1, 1, 2))
    np.testing.assert_array_equal(one, two)
    if train != "center":
        assert (one != other).any()


def test_channels_keep_their_number_and_order():
    image = np.zeros((40, 50, 3), np.uint8)
    image[..., 0], image[..., 1] = 200, 100
    for rng in (None, np.random.default_rng(0)):
        actual, _ = BASE.cut(image, rng)
        assert (actual == (200, 100, 0)).all()
        grey, _ = BASE.cut(photo(40, 50, 1), rng)
        assert grey.shape == (24, 24, 1)
    expected, _ = BASE.cut(np.repeat(photo(40, 50, 1), 3, 2))
    np.testing.assert_array_equal(BASE.cut(photo(40, 50, 1))[0], expected[..., :1])


def test_size_0_leaves_the_image_unchanged():
    image = photo(40, 50)
    actual, offset = changed(size=0).cut(image, np.random.default_rng(0))
    np.testing.assert_array_equal(actual, image)
    assert offset == (0, 0)
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    np.testing.assert_array_equal(changed(size=0).cut(stream.getvalue())[0], image)


# --------------------------------------------------------------------------- the config section


def section(**fields):
    return types.SimpleNamespace(**{**dataclasses.asdict(BASE), **fields})


def test_a_view_can_be_made_from_a_section_and_pickled():
    view = views.View.from_section(ConfigDict({**dataclasses.asdict(BASE), "other": 1}))
    assert view == BASE
    assert views.View.from_section(section(area=[0.1, 0.2])).area == (0.1, 0.2)
    assert pickle.loads(pickle.dumps(view)) == view


def config(**fields):
    whole = lenet5.get_config("digits")
    whole.view = ConfigDict({**dataclasses.asdict(BASE), **fields})
    return whole


@pytest.mark.parametrize(
    "fields",
    [
        {"size": -1},
        {"train": "random"},
        {"train_scale": (40, 32)},
        {"train_scale": (20, 32)},
        {"train_scale": (32,)},
        {"train_scale": (32.5, 40)},
        {"train_scale": (0, 32), "size": 0},
        {"square": True, "train": "area"},
        {"area": (0.0, 1.0)},
        {"area": (0.5, 0.1)},
        {"area": (0.5, 1.5)},
        {"area": (math.nan, 1.0)},
        {"aspect": (0.75, math.inf)},
        {"aspect": (-1.0, 1.0)},
        {"interpolation": "linear"},
        {"test_scale": 23},
    ],
)
def test_impossible_values_are_refused_by_name(fields):
    name = next(iter(fields))
    with pytest.raises(UserError, match=rf"^config\.view\.{name}=.*: .+$") as caught:
        schema.validate(config(**fields))
    assert "\n" not in str(caught.value)


def test_values_that_a_view_does_not_use_may_be_any_valid_value():
    schema.validate(config(train="area", train_scale=(1, 1)))
    schema.validate(config(size=0, test_scale=0))


def test_a_real_photograph_keeps_its_colours_and_range():
    """scikit-learn's photograph of a temple: blue sky above, dark roofs, all of 0..255."""
    from importlib import resources

    data = resources.files("sklearn.datasets.images").joinpath("china.jpg").read_bytes()
    section = schema.base().view
    section.update({"size": 224, "train": "area"})
    whole, _ = views.View.from_section(section).cut(data)
    assert whole.shape == (224, 224, 3)
    red, _, blue = whole[:30].reshape(-1, 3).mean(axis=0)
    assert blue > red + 20
    assert whole.min() < 20
    assert whole.max() > 240
    with Image.open(io.BytesIO(data)) as picture:  # 640 x 427
        scaled = picture.resize((383, 256), Image.Resampling.BILINEAR).crop((80, 16, 304, 240))
    assert np.abs(whole.astype(int) - np.asarray(scaled, int)).mean() < 1.5


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (lenet5.get_config(), ""),
        (alexnet.get_config(), "cut from a shorter side of 256"),
        (resnet.get_config(), "cut from a shorter side of 256 to 480 (evaluation: 256)"),
        (
            googlenet.get_config(),
            "cut from 8% to 100% of the area (evaluation: a shorter side of 256)",
        ),
    ],
)
def test_a_view_is_described(config, expected):
    assert views.View.from_section(config.view).describe() == expected
