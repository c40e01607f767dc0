"""The user's own picture files, as one image of a data set's shape."""

import pathlib
import warnings

import numpy as np
from PIL import Image, ImageOps

from errors import UserError, one_line


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
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as file:
                picture = ImageOps.exif_transpose(file)
                picture.load()
                if picture.mode.startswith("I"):  # 16 or 32 bits of grey
                    grey = np.asarray(picture, np.float64)
                    top = 65535 if grey.max() > 255 else 255
                    picture = Image.fromarray((grey.clip(0, top) * (255 / top)).astype(np.uint8))
                rgba = picture.convert("RGBA")
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise UserError(
            f"cannot read {path} as an image ({one_line(error)}): give a PNG or JPEG file"
        ) from error
    paper = Image.new("RGBA", rgba.size, "white")
    picture = Image.alpha_composite(paper, rgba).convert("L" if channels == 1 else "RGB")
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
