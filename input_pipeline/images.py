"""The user's own picture files, as one image of a data set's shape."""

import pathlib

import numpy as np
from PIL import Image, ImageOps

from errors import UserError, one_line
from input_pipeline import decode


def read(path: str, shape: tuple[int, int, int], invert: str) -> tuple[np.ndarray, bool]:
    """Any readable picture as uint8 `shape` (height, width, channels), and whether it was inverted.

    EXIF orientation is applied, transparency becomes white paper, 16-bit grey is scaled, and a
    picture of another shape is fitted in whole, the rest filled with its background (the median
    of its border).
    invert: "yes", "no", or "auto": for grey data sets, whose images are light on dark, a picture
    with a light border is inverted.

    Raises UserError for a file that is missing, no image, truncated, or implausibly large.
    """
    if not pathlib.Path(path).is_file():
        raise UserError(f"no image file {path}: give paths to PNG or JPEG files in --images")
    height, width, channels = shape
    try:
        picture = decode.Picture(path, formats=None).image()
    except (decode.BadImage, OSError) as error:
        raise UserError(
            f"cannot read {path} as an image ({one_line(error)}): give a PNG or JPEG file"
        ) from error
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
