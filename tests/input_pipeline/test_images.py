"""The user's own image files in any format, for networks with fixed shapes or views."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from errors import UserError
from input_pipeline import decode, images, views
from input_pipeline.split import Info

SHAPE = (28, 28, 1)


def seven(size=28):
    """A 7 of light ink on dark, as uint8 [size, size]."""
    picture = np.zeros((size, size), np.uint8)
    unit = size // 14
    picture[2 * unit : 4 * unit, 3 * unit : 11 * unit] = 250
    picture[2 * unit : 12 * unit, 9 * unit : 11 * unit] = 250
    return picture


def test_an_image_of_the_right_shape_is_read_exactly(tmp_path):
    Image.fromarray(seven()).save(tmp_path / "a.png")
    actual, inverted = images.read(str(tmp_path / "a.png"), SHAPE, "auto", images.INK["digits"])
    np.testing.assert_array_equal(actual[..., 0], seven())
    assert not inverted


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "I;16", "CMYK", "LA"])
def test_any_mode_and_polarity_become_light_ink_on_dark(tmp_path, mode):
    dark_on_light = 255 - seven(140)
    picture = Image.fromarray(dark_on_light)
    if mode == "I;16":
        picture = Image.fromarray(dark_on_light.astype(np.uint16) * 257)
    elif mode in ("RGBA", "LA"):  # black ink on a transparent ground
        alpha = Image.fromarray(seven(140))
        picture = Image.new(mode, alpha.size)
        picture.putalpha(alpha)
    else:
        picture = picture.convert(mode)
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    picture.save(path)
    actual, inverted = images.read(str(path), SHAPE, "auto")
    assert inverted
    assert actual.shape == SHAPE
    assert actual.dtype == np.uint8
    np.testing.assert_allclose(actual[..., 0].astype(float), seven(), atol=60)
    assert abs(actual.astype(float)[..., 0] - seven()).mean() < 8


def test_wide_images_are_padded_and_not_cropped(tmp_path):
    wide = np.zeros((20, 60), np.uint8)
    wide[:, 28:32] = 255
    Image.fromarray(wide).save(tmp_path / "wide.jpg", quality=95)
    actual, _ = images.read(str(tmp_path / "wide.jpg"), SHAPE, "no")
    rows = np.flatnonzero(actual[:, 14, 0] > 100)
    assert 8 <= len(rows) <= 11  # 20 of 60 pixels of height, scaled by 28 / 60
    assert actual[0].max() < 10


@pytest.mark.parametrize("name", images.INK)
@pytest.mark.parametrize("size, pen, corner", [(390, 40, 5), (200, 8, 150), (80, 6, 20)])
def test_a_digit_has_the_form_of_its_set_however_it_was_drawn(name, size, pen, corner, tmp_path):
    picture = Image.new("L", (400, 400), 230)
    points = [(0, 0), (0.7, 0), (0.3, 1)]
    line = [
        (corner + pen / 2 + x * (size - pen), corner + pen / 2 + y * (size - pen))
        for x, y in points
    ]
    ImageDraw.Draw(picture).line(line, fill=20, width=pen, joint="curve")
    picture.save(tmp_path / "seven.png")
    pixels = images.read(str(tmp_path / "seven.png"), SHAPE, "auto", images.INK[name])[0][..., 0]
    side, share, resolution = images.INK[name]
    top, bottom = np.flatnonzero((pixels > 60).any(1))[[0, -1]]
    left, right = np.flatnonzero((pixels > 60).any(0))[[0, -1]]
    assert abs(bottom - top + 1 - side) <= 1
    assert abs(top + bottom - 27) <= 1 and abs(left + right - 27) <= 2
    assert pixels.max() > 240 and pixels[0, 0] == 0
    steepest = np.abs(np.diff(pixels.astype(int), axis=1)).max()
    assert (steepest < 110) == (resolution == 8)  # blurred as the enlarged digits are
    assert share - 0.05 < pixels.sum() / 255 / side**2 < share + 0.1


def test_a_shadow_on_the_paper_is_not_ink(tmp_path):
    """As in a photograph. A seven with a grey ground was taken for a 2."""
    picture = Image.new("L", (400, 400), 230)
    ImageDraw.Draw(picture).line([(120, 100), (280, 100), (200, 300)], fill=20, width=14)
    plain = np.asarray(picture, np.float32)
    found = []
    for name, shade in (("plain", 1.0), ("shadow", np.linspace(1, 0.72, 400, dtype=np.float32))):
        Image.fromarray(np.uint8(plain * shade)).save(tmp_path / f"{name}.png")
        path = str(tmp_path / f"{name}.png")
        found.append(images.read(path, SHAPE, "auto", images.INK["mnist"])[0][..., 0].astype(int))
    np.testing.assert_allclose(found[1], found[0], atol=3)


def test_dark_ink_that_is_not_inverted_stays_as_it_is(tmp_path):
    picture = Image.new("L", (280, 280), 230)
    ImageDraw.Draw(picture).line([(80, 80), (200, 80)], fill=20, width=30)
    picture.save(tmp_path / "dash.png")
    pixels, _ = images.read(str(tmp_path / "dash.png"), SHAPE, "no", images.INK["mnist"])
    assert pixels[8, 14] < 40 and pixels[20, 20] == 230


def test_a_picture_without_ink_stays_empty(tmp_path):
    Image.new("L", (400, 400), 230).save(tmp_path / "empty.png")
    pixels, _ = images.read(str(tmp_path / "empty.png"), SHAPE, "auto", images.INK["mnist"])
    assert not pixels.any()


def test_files_that_are_not_images_are_refused(tmp_path):
    (tmp_path / "text.png").write_text("not a picture")
    Image.fromarray(seven()).save(tmp_path / "whole.png")
    content = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "half.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "empty.png").write_bytes(b"")
    for name in ("text.png", "half.png", "empty.png"):
        with pytest.raises(UserError, match=f"cannot read .*{name} as an image"):
            images.read(str(tmp_path / name), SHAPE, "auto")
    with pytest.raises(UserError, match="no image file"):
        images.read(str(tmp_path / "nothing.png"), SHAPE, "auto")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    Image.fromarray(seven()).save(tmp_path / "big.png")
    with pytest.raises(UserError, match="cannot read"):
        images.read(str(tmp_path / "big.png"), SHAPE, "auto")


@pytest.mark.parametrize("suffix", decode.EXTENSIONS)
def test_every_format_is_listed_in_folders_and_read(tmp_path, suffix):
    """For networks that take arrays, and for networks that cut views."""
    picture = Image.fromarray(np.stack([seven(56)] * 3, -1))
    if suffix == ".pbm":
        picture = picture.convert("1")
    elif suffix == ".pgm":
        picture = picture.convert("L")
    path = tmp_path / "deep" / f"a{suffix.upper()}"
    path.parent.mkdir()
    picture.save(path)
    (tmp_path / "notes.txt").write_text("none")
    assert images.find([str(tmp_path)]) == [str(path)]
    small = views.View(28, "center", (28, 28), False, (0.08, 1.0), (0.75, 1.5), "bilinear", 28)
    info = Info("x", (0, 0, 3), ("a", "b"))
    cut = small.cut(images.PictureSplit(info, (str(path),)).read(0)[0])[0]
    assert cut.shape == (28, 28, 3)
    np.testing.assert_array_equal(small.cut(images.content(str(path)))[0], cut)
    for actual in (cut, images.read(str(path), (28, 28, 3), "no")[0]):
        assert abs(actual.astype(float) - seven()[..., None]).mean() < 6


def test_a_damaged_file_of_a_rare_format_is_refused_when_it_is_cut(tmp_path):
    Image.fromarray(seven()).save(tmp_path / "a.tif")
    (tmp_path / "a.tif").write_bytes((tmp_path / "a.tif").read_bytes()[:100])
    with pytest.raises(decode.BadImage):
        decode.open_image(images.content(str(tmp_path / "a.tif")))
