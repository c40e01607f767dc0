"""Encoded images to pixels.

A picture is opened first, which reads only its header. It is decoded when the needed part is known:
of a JPEG, no more rows and no finer a resolution than that part needs.
"""

import contextlib
import io
import os
import pathlib
import warnings

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.Image import Transpose

from errors import one_line

# Not every format of Pillow: for EPS it starts Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")
# Extensions of their files, in lower or upper case.
EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".bmp", ".gif"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"),
    *(".jp2", ".j2k", ".j2c", ".jpx", ".jpf", ".avif"),
)

# A JPEG is decoded at 1/2, 1/4 or 1/8 of its size while that is at least this many times the needed
# size; the rest is resampled. Pillow's `thumbnail` uses the same number. On photographs the result
# differs from the full resolution by less than a grey level on average.
REDUCING_GAP = 2.0

# By EXIF orientation: what turns the stored picture upright, and whether its rows and its columns
# run backwards. From 5 on, rows become columns.
_TURNS = {
    2: (Transpose.FLIP_LEFT_RIGHT, False, True),
    3: (Transpose.ROTATE_180, True, True),
    4: (Transpose.FLIP_TOP_BOTTOM, True, False),
    5: (Transpose.TRANSPOSE, False, False),
    6: (Transpose.ROTATE_270, True, False),
    7: (Transpose.TRANSVERSE, True, True),
    8: (Transpose.ROTATE_90, False, True),
}
_ORIENTATION = 0x0112  # the EXIF tag
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # tags of TIFF

Box = tuple[float, float, float, float]  # (top, left, height, width) in pixels, also fractions
Size = tuple[int, int]  # (height, width)

# Pillow's size limit is an error here, and damaged metadata do not matter. A filter for one call
# would not be safe in threads.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


class BadImage(ValueError):
    """An image that cannot be read. The message is a short reason, without the file's name."""


@contextlib.contextmanager
def _bad_images():
    """Turns the many types of exceptions that Pillow raises for damaged files into BadImage."""
    try:
        yield
    except BadImage:
        raise
    except UnidentifiedImageError as error:
        raise BadImage("not an image in a known format") from error
    except Exception as error:
        raise BadImage(one_line(error)) from error


class Picture:
    """A picture whose header is read and whose pixels are not decoded yet.

    height, width: its full size in pixels, with the EXIF orientation applied.
    """

    def __init__(self, source: bytes | str | os.PathLike):
        """source: an encoded image, or the path of one.

        Raises BadImage for an empty file, another format, a damaged header, and a picture of more
        than Image.MAX_IMAGE_PIXELS (a decompression bomb); OSError if a path cannot be read.
        """
        is_path = isinstance(source, str | os.PathLike)
        self._data = pathlib.Path(source).read_bytes() if is_path else source
        if not self._data:
            raise BadImage("the file is empty")
        with _bad_images():
            self._image = self._open(io.BytesIO(self._data))
            self._turn = _turn(self._image, self._data)
            if self._image.format == "TIFF":
                self._image.load()  # Pillow turns it now, which may change its size
        self.width, self.height = self._image.size
        self._is_transposed = self._turn >= 5
        if self._is_transposed:
            self.width, self.height = self.height, self.width

    def image(self, side: int = 0) -> Image.Image:
        """The whole picture upright, in mode RGB, or L if it is opaque grey.

        side: the needed shorter side; a JPEG may come at 1/2, 1/4 or 1/8 of its size if its shorter
        side stays at least this. 0: full size. Raises BadImage for truncated and damaged files.
        """
        with _bad_images():
            scale = _scale(min(self.height, self.width) / side) if side else 1
            return self._upright(flatten(self._load(scale)[0]))

    def cut(self, box: Box, size: Size, resample: Image.Resampling) -> np.ndarray:
        """The part `box` of the upright picture, resized: uint8 RGB [height, width, 3], read-only.

        As if the whole picture were resized and then cropped (see `resize`), except for the effect
        of decoding at reduced size (see REDUCING_GAP). Raises BadImage for truncated and damaged
        files.
        """
        if self._turn:
            box, size = self._stored(box), size[::-1] if self._is_transposed else size
        shrink = box[2] / size[0], box[3] / size[1]
        # Nearest takes single pixels, not averages of pixels.
        is_nearest = resample == Image.Resampling.NEAREST
        scale = 1 if is_nearest else _scale(min(shrink) / REDUCING_GAP)
        # Below the box, the resampling filter needs up to 3 pixels of the result (Lanczos), and
        # the decoder's upsampling of colours needs the next block of up to 32 rows.
        bottom = int(box[0] + box[2] + 3 * max(shrink[0], 1) + 32)
        with _bad_images():
            image, scale = self._load(scale, bottom)
            image = flatten(image)
            box = tuple(value / scale for value in box)
            return pixels(self._upright(resize(image, box, size, resample)))

    def _open(self, stream: io.BytesIO) -> Image.Image:
        image = Image.open(stream, formats=FORMATS)
        if image.format == "PNG" and "transparency" in image.info:
            _scale_transparency(image, bits=self._data[24])
        limit = Image.MAX_IMAGE_PIXELS
        width, height = image.size
        if limit and width * height > limit:
            raise BadImage(
                f"{width}x{height} pixels are more than {limit}: it may be a decompression bomb"
            )
        return image

    def _load(self, scale: int, bottom: int | None = None) -> tuple[Image.Image, int]:
        """Decodes the stored picture, at least down to full-size row `bottom`.

        Returns it and its scale: a JPEG comes at 1 / scale of its size, other formats at scale 1.
        """
        # An opened image can be decoded once. The second time, it is opened again.
        image, self._image = self._image or self._open(io.BytesIO(self._data)), None
        if image.format in ("JPEG", "MPO"):
            if bottom is not None and bottom < 0.95 * image.height:
                image = self._open(_shortened(self._data, image.height, bottom))
            if scale > 1:
                width, height = image.size
                image.draft(None, (width // scale, height // scale))
        else:
            scale = 1
        image.load()
        return image, scale

    def _stored(self, box: Box) -> Box:
        """A box of the upright picture as one of the stored picture."""
        _, rows_backwards, columns_backwards = _TURNS[self._turn]
        top, left, height, width = box
        rows, columns = self.height, self.width
        if self._is_transposed:
            top, left, height, width, rows, columns = left, top, width, height, columns, rows
        if rows_backwards:
            top = rows - top - height
        if columns_backwards:
            left = columns - left - width
        return top, left, height, width

    def _upright(self, image: Image.Image) -> Image.Image:
        return image.transpose(_TURNS[self._turn][0]) if self._turn else image


class Pixels:
    """A decoded picture, uint8 [height, width, 1 or 3], with the interface of `Picture`."""

    def __init__(self, image: np.ndarray):
        self._pixels, (self.height, self.width, self._channels) = image, image.shape

    def cut(self, box: Box, size: Size, resample: Image.Resampling) -> np.ndarray:
        """See `Picture.cut`; the result has as many channels as the picture."""
        top, left, height, width = map(int, box)
        if box == (top, left, height, width) and (height, width) == size:
            return self._pixels[top : top + height, left : left + width]  # nothing to resize
        image = Image.fromarray(self._pixels[..., 0] if self._channels == 1 else self._pixels)
        return np.asarray(resize(image, box, size, resample)).reshape(*size, self._channels)


def open_image(image: bytes | np.ndarray) -> Picture | Pixels:
    """An image, encoded or uint8 [height, width, 1 or 3], ready to be cut. Raises as `Picture`."""
    return Picture(image) if isinstance(image, bytes) else Pixels(image)


def _turn(image: Image.Image, data: bytes) -> int:
    """The EXIF orientation of an opened image if it is one of _TURNS, otherwise 0."""
    if image.format == "TIFF":
        return 0  # Pillow turns a TIFF when it loads the pixels
    if image.format == "PNG" and "exif" not in image.info and b"eXIf" in data:
        image.load()  # this chunk may follow the pixels
    if not image.info.keys() & {"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"}:
        return 0
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged metadata: the pixels are still good
        return 0
    return orientation if orientation in _TURNS else 0


def _scale_transparency(image: Image.Image, bits: int) -> None:
    """Scales the transparent grey or colour of a PNG like Pillow scales its pixels.

    bits: of a channel, in the file. Pillow reads all but grey of 16 bits as 8 bits.
    """
    value = image.info["transparency"]
    if image.mode == "L" and isinstance(value, int):
        image.info["transparency"] = value * 255 // (2**bits - 1)
    elif image.mode == "RGB" and bits == 16:
        image.info["transparency"] = tuple(channel >> 8 for channel in value)


def _scale(shrink: float) -> int:
    """The strongest reduction, 1, 2, 4 or 8, that is at most `shrink`."""
    return next((scale for scale in (8, 4, 2) if scale <= shrink), 1)


def _shortened(data: bytes, height: int, rows: int) -> io.BytesIO:
    """The same JPEG with a header that says `rows` rows instead of `height`.

    The decoder then skips the rows below, which saves most of its cost. A file with an unusual
    header stays as it is, and so does one without an end marker: it must be reported as truncated.
    """
    stream = io.BytesIO(data)
    at = 2
    while at + 9 < len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # padding
            at += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # the frame header
            is_usual = int.from_bytes(data[at + 5 : at + 7]) == height
            if is_usual and data.rfind(b"\xff\xd9") > at:
                stream.seek(at + 5)
                stream.write(rows.to_bytes(2))
            break
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return stream


def flatten(image: Image.Image) -> Image.Image:
    """A picture of any mode in mode RGB, or L if it is opaque grey.

    Transparency becomes white, 16-bit grey is scaled to 8 bits. Raises BadImage for pixels of 32
    bits and for pixels with signs: files do not say which value is white.
    """
    tags = getattr(image, "tag_v2", {})  # of a TIFF
    has_signs = 2 in tags.get(_SAMPLE_FORMAT, ())
    if has_signs or image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
        raise BadImage("its pixels have 32 bits or signs, so white is unknown: save it with 8 bits")
    if image.mode in ("RGB", "L") and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):  # 16 bits of grey, also in mode I: Pillow scales a PPM to them
        grey = np.array(image, np.float32)  # the only copy: it may have 90 million pixels
        if "transparency" in image.info:
            grey[grey == image.info["transparency"]] = 65535
        white = 2 ** tags.get(_BITS, (16,))[0] - 1  # a TIFF may have 12 bits
        if tags.get(_PHOTOMETRIC) == 0:  # white is 0
            np.subtract(white, grey, out=grey)
        grey *= 255 / white
        return Image.fromarray(np.rint(grey, out=grey).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if image.mode == "1" else "RGB")


def resize(image: Image.Image, box: Box, size: Size, resample: Image.Resampling) -> Image.Image:
    """The part `box` of an image, resized.

    Equal, except for rounding, to resizing the whole image by the same factors and then cropping:
    at the border of the box the filter sees the pixels outside. Shrinking is antialiased.
    """
    top, left, height, width = box
    corners = (
        max(left, 0),
        max(top, 0),
        min(left + width, image.width),
        min(top + height, image.height),
    )
    if (height, width) == size and (top, left) == (int(top), int(left)):
        return image.crop(tuple(map(int, corners)))  # several times faster
    return image.resize(size[::-1], resample, corners, reducing_gap=REDUCING_GAP)


def pixels(image: Image.Image) -> np.ndarray:
    """uint8 RGB [height, width, 3], read-only, of an image in mode RGB or L."""
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def decode(source: bytes | str | os.PathLike, side: int = 0) -> np.ndarray:
    """An encoded image, or the file of one, as uint8 RGB [height, width, 3], upright, read-only.

    The first frame of an animation. side: see `Picture.image`.
    Raises BadImage with a short reason if it cannot be decoded, OSError for a missing file.
    """
    return pixels(Picture(source).image(side))
