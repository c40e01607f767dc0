"""The crops of evaluation protocols, against tables from the papers and plain loops."""

import io

import numpy as np
import pytest
from PIL import Image

from input_pipeline import crops, decode, stream, views
from input_pipeline.reading import Reading
from input_pipeline.split import Info

# At 256 x 341 pixels (height, width), the size 224: (top, left).
CORNERS = [(0, 42), (0, 74), (32, 42), (32, 74), (16, 58)]  # the central square begins at 42
GRID_TOPS, GRID_LEFTS = [0, 8, 16, 24, 32], [0, 29, 58, 88, 117]


def texture(height, width, channels=3, seed=0):
    """An image that neither repeats nor is smooth, like a photograph."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (-(-height // 8), -(-width // 8), channels)).astype(np.uint8)
    picture = Image.fromarray(small[..., 0] if channels == 1 else small)
    return np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC)).reshape(
        height, width, channels
    )


def encoded(image):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def places(actual):
    return [(crop.top, crop.left) for crop in actual]


def test_ten_crop_has_corners_and_centre_of_the_central_square():
    actual = crops.ten_crop(256, 341, 224)
    assert places(actual) == CORNERS
    # Within the square, as a mean image of 256 x 256 needs it.
    assert [crop.offset for crop in actual] == [(0, 0), (0, 32), (32, 0), (32, 32), (16, 16)]
    assert places(crops.ten_crop(341, 256, 224)) == [
        (left, top) for top, left in [(0, 42), (32, 42), (0, 74), (32, 74), (16, 58)]
    ]


def test_the_grid_is_regular_and_reaches_all_edges():
    assert places(crops.grid(256, 341, 224)) == [
        (top, left) for top in GRID_TOPS for left in GRID_LEFTS
    ]
    assert set(places(crops.grid(224, 300, 224))) == {(0, left) for left in (0, 19, 38, 57, 76)}


@pytest.mark.parametrize(("height", "width"), [(256, 341), (352, 352), (500, 288)])
def test_squares_gives_six_crops_of_each_of_three_squares(height, width):
    actual = crops.squares(height, width, 224)
    side, spare = min(height, width), max(height, width) - min(height, width)
    assert len(actual) == 18
    for third, start in enumerate((0, round(spare / 2), spare)):
        y, x = (0, start) if width >= height else (start, 0)
        six = actual[6 * third : 6 * third + 6]
        far = side - 224
        middle = far // 2
        assert places(six) == [
            (y, x),
            (y, x + far),
            (y + far, x),
            (y + far, x + far),
            (y + middle, x + middle),
            (y, x),
        ]
        assert [crop.side for crop in six] == [224] * 5 + [side]


def test_the_numbers_of_crops_are_the_published_ones():
    """With mirror images: 10; 50 per scale and 150; 144."""
    assert crops.Crops("ten_crop", 224, (256,)).count * 2 == 10
    assert crops.Crops("grid", 224, (256, 384, 512)).count * 2 == 150
    assert crops.Crops("squares", 224, (256, 288, 320, 352)).count * 2 == 144


@pytest.mark.parametrize("kind", crops.KINDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_crops_equal_slices_of_the_rescaled_image(kind, channels):
    image = texture(90, 130, channels)
    reader = crops.Crops(kind, 32, (40, 50), "bicubic")
    actual, offsets = reader.cut(image)
    assert actual.shape == (reader.count, 32, 32, channels)
    assert actual.dtype == np.uint8
    assert offsets.shape == (reader.count, 2)
    expected = []
    for side in (40, 50):
        picture = Image.fromarray(image[..., 0] if channels == 1 else image)
        picture = picture.resize((int(side * 130 / 90), side), Image.Resampling.BICUBIC)
        for crop in crops.KINDS[kind](side, picture.width, 32):
            part = picture.crop((crop.left, crop.top, crop.left + crop.side, crop.top + crop.side))
            if crop.side != 32:
                part = part.resize((32, 32), Image.Resampling.BICUBIC)
            expected.append(np.asarray(part).reshape(32, 32, channels))
    # Pillow resizes in one step, and Canon with a reducing gap. Here the gap has no effect.
    np.testing.assert_array_equal(actual, np.stack(expected))
    if channels == 3:
        np.testing.assert_array_equal(reader.cut(encoded(image))[0], actual)


@pytest.mark.parametrize("size", [(224, 2000), (2000, 224), (2000, 2000), (231, 300)])
def test_whole_images_of_any_shape_are_rescaled(size):
    image = texture(*size)
    actual, _ = crops.Whole(256).cut(encoded(image))
    assert actual.shape == (*views.rescaled(*size, 256), 3)
    picture = Image.fromarray(image).resize(actual.shape[1::-1], Image.Resampling.BILINEAR)
    assert np.abs(actual.astype(int) - np.asarray(picture, int)).mean() < 1


def test_a_too_large_image_is_refused_before_decoding():
    image = encoded(np.zeros((100, 2000, 3), np.uint8))
    with pytest.raises(decode.BadImage, match=r"2000x100 pixels are 12800x640.*4,194,304"):
        crops.Whole(640).cut(image)
    with pytest.raises(decode.BadImage, match="is too large"):
        crops.Crops("ten_crop", 224, (256, 640)).cut(image)


def test_bucket_gives_four_lengths_per_octave():
    lengths = range(1, 3000)
    actual = [crops.bucket(n) for n in lengths]
    assert all(n <= b <= 1.25 * n + 1 for n, b in zip(lengths, actual, strict=True))
    assert actual == sorted(actual)
    assert {crops.bucket(n) for n in (32, 224, 256, 384, 512)} == {32, 224, 256, 384, 512}
    assert len({crops.bucket(n) for n in range(224, 2001)}) <= 14


class Pictures:
    """A split in memory with images of many sizes."""

    info = Info("pictures", (0, 0, 3), ("a", "b", "c"))

    def __init__(self, sizes, bad=()):
        self.images = [texture(*size, seed=i) for i, size in enumerate(sizes)]
        self.bad = bad

    def __len__(self):
        return len(self.images)

    def read(self, i):
        return b"no image" if i in self.bad else encoded(self.images[i]), i % 3, f"picture {i}"


SIZES = [(60, 80), (80, 60), (64, 64), (60, 81), (50, 200), (70, 80), (100, 120), (61, 79)]


@pytest.mark.parametrize("devices", [1, 2])
def test_whole_batches_contain_every_image_once_and_group_similar_sizes(devices):
    split = Pictures(SIZES, bad=(6,))
    reading = Reading(views.View.from_section(view_section()), on_bad_image="skip")
    seen, shapes = {}, set()
    for batch in stream.whole_batches(split, reading, crops.Whole(40), 40 * 64 * 2, devices):
        assert len(batch["image"]) == devices
        shapes.add(batch["image"].shape)
        flat = {name: v.reshape(-1, *v.shape[2:]) for name, v in batch.items()}
        for i, index in enumerate(flat["index"]):
            if index < 0:
                assert flat["mask"][i] == 0
                continue
            assert index not in seen
            height, width = flat["size"][i]
            image = flat["image"][i]
            seen[int(index)] = image[:height, :width]
            assert not image[height:].any()
            assert not image[:, width:].any()
            assert flat["label"][i] == index % 3
            assert flat["mask"][i] == (index != 6)
    assert sorted(seen) == list(range(len(SIZES)))
    for i, image in enumerate(split.images):
        if i != 6:
            expected = crops.Whole(40).cut(image)[0]
            np.testing.assert_array_equal(seen[i], expected)
    assert (
        len({shape[2:4] for shape in shapes}) == 5
    )  # 40x40 (also the black one), 40x48, 40x56, 56x40, 40x160


def test_crops_of_an_unreadable_image_are_black_with_mask_0():
    split = Pictures(SIZES[:3], bad=(1,))
    reading = Reading(views.View.from_section(view_section()), on_bad_image="skip")
    reader = crops.Crops("ten_crop", 16, (20,))
    (batch,) = stream.eval_batches(split, reading, 4, 2, reader)
    assert batch["image"].shape == (2, 2, 5, 16, 16, 3)
    assert batch["offset"].shape == (2, 2, 5, 2)
    assert batch["mask"].tolist() == [[1, 0], [1, 0]]
    assert not batch["image"][0, 1].any()
    np.testing.assert_array_equal(batch["image"][1, 0], reader.cut(split.images[2])[0])


def view_section():
    from configs.schema import base

    section = base().view
    section.update({"size": 16, "train_scale": (20, 20), "test_scale": 20})
    return section
