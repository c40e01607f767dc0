"""The user's own picture files, as the images of a data set."""

import contextlib
import pathlib

import numpy as np
from PIL import Image, ImageOps

from errors import UserError, one_line
from input_pipeline import decode, views


def read(path: str, shape: tuple[int, int, int], invert: str) -> tuple[np.ndarray, bool]:
    """Any readable picture as uint8 `shape` (height, width, channels), and whether it was inverted.

    EXIF orientation is applied, transparency becomes white paper, 16-bit grey is scaled, and a
    picture of another shape is fitted in whole, the rest filled with its background (the median
    of its border).
    invert: "yes", "no", or "auto": for grey data sets, whose images are light on dark, a picture
    with a light border is inverted.

    Raises UserError for a file that is missing, no image, truncated, or implausibly large.
    """
    height, width, channels = shape
    with _one_line(path):
        picture = decode.Picture(path, formats=None).image()
    picture = picture.convert("L" if channels == 1 else "RGB")
    pixels = np.asarray(picture)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    background = np.median(border, axis=0)
    light = channels == 1 and background > 127
    inverted = invert == "yes" or (invert == "auto" and light)
    if inverted:
        picture, background = ImageOps.invert(picture), 255 - background
    if picture.size != (width, height):
        fill = tuple(int(v) for v in np.atleast_1d(background))
        colour = fill[0] if channels == 1 else fill
        picture = ImageOps.pad(picture, (width, height), Image.Resampling.BICUBIC, color=colour)
    return np.asarray(picture).reshape(shape), bool(inverted)


def cut(path: str, view: views.View) -> np.ndarray:
    """The test view of a picture, uint8 RGB [size, size, 3]. Raises UserError as `read`."""
    with _one_line(path):
        return views.cut(pathlib.Path(path).read_bytes(), view)[0]


@contextlib.contextmanager
def _one_line(path: str):
    if not pathlib.Path(path).is_file():
        raise UserError(f"no image file {path}: give paths to PNG or JPEG files in --images")
    try:
        yield
    except (decode.BadImage, OSError) as error:
        raise UserError(
            f"cannot read {path} as an image ({one_line(error)}): give a PNG or JPEG file"
        ) from error
