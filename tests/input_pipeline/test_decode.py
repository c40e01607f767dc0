"""Decoding of all formats and modes, against Pillow step by step and against known pixels."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from input_pipeline import decode

LOSSY = {"JPEG", "WEBP"}


def scene(height=60, width=80):
    """A smooth colour picture without symmetry: red to the right, green down, blue in a corner."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    return np.rint(255 * np.stack([x, y, (1 - x) * (1 - y)], -1)).astype(np.uint8)


def encoded(image, format="PNG", **options):
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def size(source):
    picture = decode.Picture(source)
    return picture.height, picture.width


def difference(actual, expected):
    assert actual.shape == expected.shape
    return abs(actual.astype(int) - expected.astype(int)).mean()


# -------------------------------------------------------------------------- formats and modes


@pytest.mark.parametrize("format", decode.FORMATS)
def test_every_format_is_decoded_to_rgb(format, tmp_path):
    data = encoded(scene(), format, **({"quality": 95} if format in LOSSY else {}))
    actual = decode.decode(data)
    assert actual.dtype == np.uint8
    limit = {"PNG": 0, "BMP": 0, "GIF": 12}.get(format, 1.5)  # a GIF has 256 colours
    assert difference(actual, scene()) <= limit
    assert size(data) == (60, 80)
    (tmp_path / "a").write_bytes(data)
    np.testing.assert_array_equal(decode.decode(tmp_path / "a"), actual)
    np.testing.assert_array_equal(decode.decode(str(tmp_path / "a")), actual)


@pytest.mark.parametrize("format", ["EPS", "ICO", "TGA"])
def test_other_formats_are_refused(format):
    with pytest.raises(decode.BadImage, match="known format"):
        decode.decode(encoded(scene(64, 64), format))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP"])
def test_grey_has_three_equal_channels(format):
    grey = scene()[..., 0]
    options = (
        {"lossless": True} if format == "WEBP" else {"quality": 95} if format == "JPEG" else {}
    )
    actual = decode.decode(encoded(grey, format, **options))
    assert (actual == actual[..., :1]).all()
    assert difference(actual[..., 0], grey) < 1


def test_palettes_with_and_without_transparency():
    picture = Image.fromarray(scene()).quantize(16, dither=Image.Dither.NONE)
    expected = np.asarray(picture.convert("RGB"))
    for format in ("PNG", "GIF", "BMP"):
        np.testing.assert_array_equal(decode.decode(encoded(picture, format)), expected)
    index = np.asarray(picture)[10, 10]
    paper = np.where((np.asarray(picture) == index)[..., None], 255, expected)
    for format in ("PNG", "GIF"):
        data = encoded(picture, format, transparency=int(index))
        np.testing.assert_array_equal(decode.decode(data), paper)


def test_one_bit_images():
    bits = scene()[..., 0] > 100
    actual = decode.decode(encoded(Image.fromarray(bits)))
    np.testing.assert_array_equal(actual, np.where(bits, 255, 0)[..., None].repeat(3, 2))


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_transparent_pixels_become_white(format):
    alpha = np.zeros((60, 80), np.uint8)
    alpha[:20], alpha[20:40] = 255, 128
    picture = np.dstack([scene(), alpha])
    actual = decode.decode(
        encoded(picture, format, **({"lossless": True} if format != "PNG" else {}))
    )
    share = alpha[..., None] / 255
    expected = share * scene() + (1 - share) * 255
    np.testing.assert_allclose(actual, expected, atol=1)
    assert (actual[40:] == 255).all()


def test_grey_with_alpha_and_transparent_colours():
    grey = scene()[..., 0]
    alpha = np.where(grey < 128, 0, 255).astype(np.uint8)
    both = Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha)])
    actual = decode.decode(encoded(both))
    np.testing.assert_array_equal(actual[..., 1], np.where(grey < 128, 255, grey))
    blank = np.zeros((5, 6, 3), np.uint8)
    blank[2] = 9
    actual = decode.decode(encoded(blank, transparency=(9, 9, 9)))
    assert (actual[2] == 255).all() and (actual[:2] == 0).all()


def png(pixels, bits=16, transparent=()):
    """A PNG of 2 to 16 bits a channel, [h, w] or [h, w, 3], written by hand.

    transparent: the grey or colour that is declared transparent, one number for each channel.
    """
    height, width = pixels.shape[:2]

    def chunk(name, content):
        body = name + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    def packed(row):
        places = (row.reshape(-1, 1).astype(int) >> np.arange(bits)[::-1]) & 1
        return b"\0" + np.packbits(places.astype(np.uint8).ravel()).tobytes()

    colour_type = 2 if pixels.ndim == 3 else 0
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    parts = [chunk(b"IHDR", header)]
    if transparent:
        parts.append(chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent)))
    parts += [chunk(b"IDAT", zlib.compress(b"".join(map(packed, pixels)))), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_16_bit_images():
    grey = np.linspace(0, 65535, 60 * 80).astype(np.uint16).reshape(60, 80)
    actual = decode.decode(png(grey))
    np.testing.assert_array_equal(actual[..., 0], np.rint(grey / 257))
    assert (actual == actual[..., :1]).all()
    colour = scene().astype(np.uint16) * 257
    np.testing.assert_array_equal(decode.decode(png(colour)), scene())


def test_a_dark_picture_of_16_bits_stays_dark():
    grey = np.full((4, 5), 200, np.uint16)
    assert (decode.decode(png(grey)) == 1).all()
    data = encoded(Image.fromarray(grey.astype(np.int32)), "PPM")  # Pillow writes 16 bits
    assert (decode.Picture(data).image().getextrema()) == (1, 1)


def tiff(pixels, bits, **tags):
    """An uncompressed grey TIFF, [h, w], written by hand. tags: numbers of single values."""
    height, width = pixels.shape
    places = (pixels[..., None] >> np.arange(bits)[::-1]) & 1
    content = np.packbits(places.astype(np.uint8).reshape(height, -1), axis=1).tobytes()
    if bits == 16:
        content = pixels.astype("<u2").tobytes()
    entries = {256: width, 257: height, 258: bits, 259: 1, 262: 1, 273: 8, 277: 1, 278: height}
    entries |= {279: len(content)} | {int(name[1:]): value for name, value in tags.items()}
    start = 8 + len(content) + len(content) % 2
    table = b"".join(struct.pack("<HHII", tag, 4, 1, entries[tag]) for tag in sorted(entries))
    header = b"II*\0" + struct.pack("<I", start) + content + b"\0" * (len(content) % 2)
    return header + struct.pack("<H", len(entries)) + table + b"\0" * 4


def test_a_tiff_is_scaled_by_its_bits_and_its_white():
    ramp = np.linspace(0, 4095, 64).astype(int).reshape(4, 16)
    grey = decode.decode(tiff(ramp, 12))[..., 0]
    np.testing.assert_array_equal(grey, np.rint(ramp / 4095 * 255))
    grey = decode.decode(tiff(ramp * 16, 16))[..., 0]
    np.testing.assert_array_equal(grey, np.rint(ramp * 16 / 65535 * 255))
    inverted = decode.decode(tiff(ramp * 16, 16, t262=0))[..., 0]  # white is 0
    np.testing.assert_array_equal(inverted, np.rint((65535 - ramp * 16) / 65535 * 255))
    with pytest.raises(decode.BadImage, match="signs"):
        decode.decode(tiff(ramp // 32, 8, t339=2))


@pytest.mark.parametrize("bits", [2, 4, 8, 16])
def test_a_transparent_grey_is_white_at_every_depth(bits):
    grey = np.arange(4).reshape(1, 4)
    pixels = decode.decode(png(grey, bits, transparent=(1,)))[0, :, 0]
    expected = np.rint(grey[0] * 255 / (2**bits - 1))
    expected[1] = 255
    np.testing.assert_array_equal(pixels, expected)


def test_a_transparent_colour_of_16_bits_is_white():
    colours = np.array([[[9, 9, 9], [9, 10, 9]]]) * 257
    pixels = decode.decode(png(colours, transparent=(9 * 257,) * 3))
    np.testing.assert_array_equal(pixels, [[[255] * 3, [9, 10, 9]]])


@pytest.mark.parametrize(
    "pixels",
    [
        np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4),
        np.full((3, 4), 70_000, np.int32),
        np.full((3, 4), -1, np.int32),
    ],
)
def test_pixels_without_a_known_white_are_refused(pixels):
    data = encoded(Image.fromarray(pixels), "TIFF")
    with pytest.raises(decode.BadImage, match="white is unknown: save it with 8 bits"):
        decode.Picture(data).image()


def test_cmyk_jpegs_plain_and_inverted_by_adobe():
    inks = np.zeros((32, 128, 4), np.uint8)
    inks[:, :32, 0] = inks[:, 32:64, 1] = inks[:, 64:96, 2] = inks[:, 96:, 3] = 255
    picture = Image.merge("CMYK", [Image.fromarray(inks[..., i]) for i in range(4)])
    data = encoded(picture, "JPEG", quality=95)
    assert b"Adobe" in data
    actual = decode.decode(data)[16, 16::32].astype(int)
    expected = [(0, 255, 255), (255, 0, 255), (255, 255, 0), (0, 0, 0)]  # cyan is white less red
    np.testing.assert_allclose(actual, expected, atol=3)


def test_the_first_frame_of_an_animation_is_decoded():
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "lime", "blue")]
    for format in ("GIF", "WEBP"):
        data = encoded(frames[0], format, save_all=True, append_images=frames[1:])
        np.testing.assert_allclose(decode.decode(data)[3, 4].astype(int), (255, 0, 0), atol=3)


def test_the_first_image_of_a_multi_picture_file_is_decoded():
    first, second = Image.fromarray(scene()), Image.new("RGB", (80, 60))
    data = encoded(first, "MPO", save_all=True, append_images=[second])
    assert difference(decode.decode(data), scene()) < 2
    assert decode.decode(data, side=30).shape == (30, 40, 3)


# --------------------------------------------------------------------------------- orientation

# What EXIF says of each value: where row 0 and column 0 of the stored picture are when it is seen.
SEEN = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


def stored(upright, orientation):
    """The pixels that a camera stores for an upright picture, by EXIF's definition."""
    row, column = SEEN[orientation]
    picture = upright
    if "bottom" in (row, column):
        picture = picture[::-1]
    if "right" in (row, column):
        picture = picture[:, ::-1]
    return picture.transpose(1, 0, 2) if row in ("left", "right") else picture


def oriented(upright, orientation, format="JPEG", **options):
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = np.ascontiguousarray(stored(upright, orientation))
    return encoded(picture, format, exif=exif.tobytes(), **options)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_orientation_is_applied(orientation, format):
    data = oriented(scene(), orientation, format, **({"quality": 95} if format in LOSSY else {}))
    assert difference(decode.decode(data), scene()) < 1.5
    assert size(data) == (60, 80)


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>'


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("places", ["tag", "packet", "tag and packet"])
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_a_tiff_is_turned_once(orientation, places, compression):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    if "tag" in places:
        tags[274] = orientation
    if "packet" in places:
        tags[700] = XMP % orientation
        tags.tagtype[700] = 1  # bytes
    picture = np.ascontiguousarray(stored(scene(), orientation))
    data = encoded(picture, "TIFF", tiffinfo=tags, compression=compression)
    np.testing.assert_array_equal(decode.decode(data), scene())
    box = (10, 20, 30, 40)
    part = decode.Picture(data).cut(box, (30, 40), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(part, scene()[10:40, 20:60])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_refer_to_the_upright_picture(orientation):
    large = scene(600, 800)
    data = oriented(large, orientation, quality=95)
    box, size = (100.5, 300.25, 250, 400), (25, 50)
    actual = decode.Picture(data).cut(box, size, Image.Resampling.BILINEAR)
    edges = (300.25, 100.5, 700.25, 350.5)
    expected = Image.fromarray(large).resize((50, 25), Image.Resampling.BILINEAR, edges)
    assert difference(actual, np.asarray(expected)) < 1.5
    assert abs(actual.astype(int) - np.asarray(expected)).max() < 8


def test_orientation_stored_after_the_pixels_of_a_png():
    data = oriented(scene(), 6, "PNG")
    start = data.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(data[start : start + 4])
    late = data[:start] + data[end:-12] + data[start:end] + data[-12:]
    assert size(late) == (60, 80)
    np.testing.assert_array_equal(decode.decode(late), scene())


def test_damaged_metadata_are_ignored():
    data = oriented(scene(), 6)
    at = data.index(b"Exif\0\0") + 6
    spoilt = data[:at] + b"\xff" * 8 + data[at + 8 :]
    assert decode.decode(spoilt).shape == (80, 60, 3)


# --------------------------------------------------------------------------- reduced decoding


@pytest.mark.parametrize(
    ("side", "shape"),
    [(0, (600, 801)), (301, (600, 801)), (300, (300, 401)), (76, (150, 201)), (75, (75, 101))],
)
def test_a_jpeg_is_decoded_at_the_smallest_sufficient_size(side, shape):
    data = encoded(scene(600, 801), "JPEG", quality=95)
    actual = decode.decode(data, side)
    assert actual.shape[:2] == shape
    reference = Image.fromarray(scene(600, 801)).resize(shape[::-1], Image.Resampling.BOX)
    assert difference(actual, np.asarray(reference)) < 1.5
    assert decode.decode(encoded(scene(600, 801)), side).shape[:2] == (600, 801)  # PNG


def textured(height, width, seed=0):
    """An image like a photograph: noise whose strength falls with the frequency."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for octave in range(7):
        shape = (max(2, height >> octave), max(2, width >> octave))
        noise = Image.fromarray(rng.integers(0, 256, (*shape, 3)).astype(np.uint8))
        total += np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC)) * 1.8**octave
    total -= total.min()
    return np.rint(total * (255 / total.max())).astype(np.uint8)


JPEGS = {
    "4:2:0": {},
    "4:2:2": {"subsampling": 1},
    "4:4:4": {"subsampling": 0},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_rows": 1},
    "optimised": {"optimize": True},
}


@pytest.mark.parametrize("kind", JPEGS)
def test_skipping_rows_below_the_box_does_not_change_the_result(kind, monkeypatch):
    data = encoded(textured(301, 403), "JPEG", quality=85, **JPEGS[kind])
    whole = Image.open(io.BytesIO(data))
    for box in [(0, 0, 20, 20), (3.5, 80.2, 150, 160.7), (40, 100, 200, 190), (0, 50, 260, 200)]:
        for size in [(16, 16), (40, 30), (200, 190)]:
            actual = decode.Picture(data).cut(box, size, Image.Resampling.BILINEAR)
            with monkeypatch.context() as patch:
                patch.setattr(decode, "_shortened", lambda data, height, rows: io.BytesIO(data))
                expected = decode.Picture(data).cut(box, size, Image.Resampling.BILINEAR)
            # Pillow may choose another order of the two passes: a rounding.
            assert abs(actual.astype(int) - expected.astype(int)).max() <= 1, (box, size)
    rows = 150
    short = np.asarray(Image.open(decode._shortened(data, 301, rows)))
    assert len(short) == rows
    np.testing.assert_array_equal(short[: rows - 2], np.asarray(whole)[: rows - 2])


def test_only_usual_jpeg_headers_are_shortened():
    data = encoded(textured(301, 403), "JPEG")
    frame = data.index(b"\xff\xc0")
    filled = data[:frame] + b"\xff\xff" + data[frame:]
    assert Image.open(decode._shortened(filled, 301, 99)).size == (403, 99)
    junk = data[:frame] + b"junk" + data[frame:]
    for odd in (junk, data[:2] + b"\xff\xd0" + data[2:], data[:frame], data[:-2]):
        assert decode._shortened(odd, 301, 99).getvalue() == odd
    assert decode._shortened(data, 300, 99).getvalue() == data


@pytest.mark.parametrize("shrink", [2.5, 4.0, 5.3, 9.0, 17.0])
@pytest.mark.parametrize("filter", [Image.Resampling.BILINEAR, Image.Resampling.BICUBIC])
@pytest.mark.parametrize(
    "format",
    [
        "JPEG",
        "PNG",
        pytest.param("WEBP", marks=pytest.mark.slow),
        pytest.param("BMP", marks=pytest.mark.slow),
        pytest.param("GIF", marks=pytest.mark.slow),
    ],
)
def test_reduced_decoding_is_within_a_grey_level_of_full_decoding(shrink, filter, format):
    data = encoded(textured(700, 900), format, **({"quality": 90} if format == "JPEG" else {}))
    box = (31.0, 77.0, 560.0, 700.0)
    size = (int(560 / shrink), int(700 / shrink))
    actual = decode.Picture(data).cut(box, size, filter)
    whole = Image.open(io.BytesIO(data)).convert("RGB")
    expected = whole.resize(size[::-1], filter, (77, 31, 777, 591))
    assert difference(actual, np.asarray(expected)) < 1


def test_nearest_samples_the_full_resolution():
    data = encoded(textured(400, 400), "JPEG", quality=90)
    actual = decode.Picture(data).cut((0, 0, 400, 400), (40, 40), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(actual, decode.decode(data)[5::10, 5::10])


def test_a_box_of_unchanged_size_is_copied():
    actual = decode.Picture(encoded(scene())).cut(
        (7, 9, 20, 30), (20, 30), Image.Resampling.LANCZOS
    )
    np.testing.assert_array_equal(actual, scene()[7:27, 9:39])


def test_a_picture_can_be_cut_twice():
    picture = decode.Picture(encoded(scene(), "JPEG"))
    first = picture.cut((0, 0, 30, 30), (10, 10), Image.Resampling.BILINEAR)
    assert picture.image().size == (80, 60)
    again = picture.cut((0, 0, 30, 30), (10, 10), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(first, again)


# --------------------------------------------------------------------------------- bad images


@pytest.mark.parametrize(
    "content", [b"", b"\xff", b"no picture at all", b"\xff\xd8\xff", b"GIF89a"]
)
def test_data_that_is_not_an_image_is_refused_in_one_line(content):
    for read in (decode.decode, size):
        with pytest.raises(decode.BadImage) as caught:
            read(content)
        assert 0 < len(str(caught.value)) < 200
        assert "\n" not in str(caught.value)
        assert "0x" not in str(caught.value)


@pytest.mark.parametrize("share", [0.02, 0.2, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("format", decode.FORMATS)
def test_truncated_files_are_refused(format, share):
    data = encoded(textured(90, 120), format)
    with pytest.raises(decode.BadImage):
        decode.decode(data[: int(share * len(data))])


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_a_truncated_jpeg_is_refused_for_every_box(share):
    exif = Image.Exif()
    exif[0x0112] = 1
    thumbnail = encoded(scene(), "JPEG")  # its end marker is not the picture's
    data = encoded(textured(300, 300), "JPEG", exif=exif.tobytes() + thumbnail)
    picture = decode.Picture(data[: int(share * len(data))])
    with pytest.raises(decode.BadImage, match="truncated"):
        picture.cut((0, 0, 30, 30), (10, 10), Image.Resampling.BILINEAR)


def test_a_missing_file_is_not_a_bad_image(tmp_path):
    with pytest.raises(FileNotFoundError):
        decode.decode(tmp_path / "nothing.jpg")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("times", [1.5, 4.0])  # Pillow warns up to twice its limit, then raises
@pytest.mark.parametrize("format", decode.FORMATS)
def test_a_decompression_bomb_is_refused_from_its_header(format, times, monkeypatch):
    data = encoded(scene(), format)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(60 * 80 / times))
    for read in (decode.decode, size):
        with pytest.raises(decode.BadImage, match="bomb"):
            read(data)


def test_a_huge_png_is_refused_without_decoding():
    bomb = bytearray(png(np.zeros((1, 1), np.uint16)))
    bomb[16:24] = struct.pack(">II", 50_000, 50_000)
    bomb[29:33] = struct.pack(">I", zlib.crc32(bomb[12:29]))
    with pytest.raises(decode.BadImage, match="bomb"):
        decode.decode(bytes(bomb))
