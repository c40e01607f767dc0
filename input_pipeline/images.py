"""The user's own image files, for prediction."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from command_line import expand
from errors import UserError, printable, reported
from input_pipeline import decode
from input_pipeline.split import Info, Split


class Ink(NamedTuple):
    """The form of the characters in a set's images, in whose middle they stand.

    side: the longer side of a character in pixels. share: its mean brightness within a square of
    that side, as a share of white. resolution: the side of the images before they were enlarged.
    """

    side: int
    share: float
    resolution: int


INK = {"digits": Ink(28, 0.31, 8), "mnist": Ink(20, 0.26, 28)}  # both have 28x28 pixels
_SHADOW = 64  # with ink of 255: what is less bright is the paper, or a shadow on it
_THICKER = 8  # most steps of making strokes thicker, each by 1/32 of the side


def read(
    path: str, shape: tuple[int, int, int], invert: str, ink: Ink | None = None
) -> tuple[np.ndarray, bool]:
    """An image as uint8 `shape` (height, width, channels), and whether it was inverted.

    EXIF orientation is applied, transparency becomes white, 16-bit grey is scaled to 8 bits. An
    image of another size is resized to fit and padded with its background (the median of its
    border).
    invert: "yes", "no", or "auto", which inverts grey images with a light border: the images of
    grey data sets are light on dark.
    ink: of INK, if the image is a character. Unless the image has the right size already, the
    character is brought into the form that it has in the set, see `_character`.

    Raises UserError for a file that is missing, not an image, truncated, or implausibly large.
    """
    height, width, channels = shape
    with _user_errors(path):
        picture = decode.Picture(path).image()
    picture = picture.convert("L" if channels == 1 else "RGB")
    pixels = np.asarray(picture)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    background = np.median(border, axis=0)
    is_light = channels == 1 and background > 127
    inverted = invert == "yes" or (invert == "auto" and is_light)
    if inverted:
        picture, background = ImageOps.invert(picture), 255 - background
    if picture.size != (width, height):
        fill = tuple(int(v) for v in np.atleast_1d(background))
        colour, size = fill[0] if channels == 1 else fill, (width, height)
        if ink and background <= 127:  # `_character` needs light ink
            picture, size, colour = _character(picture, background, ink.share), (ink.side,) * 2, 0
        picture = ImageOps.pad(picture, size, Image.Resampling.BICUBIC, color=colour)
        margins = (width - size[0]) // 2, (height - size[1]) // 2
        picture = ImageOps.expand(picture, margins, colour)
        if ink and ink.resolution < width:
            picture = picture.resize((ink.resolution,) * 2, Image.Resampling.BOX)
            picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(picture).reshape(shape), bool(inverted)


def _character(picture: Image.Image, background: float, share: float) -> Image.Image:
    """A light character on dark, cropped to its ink, in full contrast.

    Ink is what is more than half as bright as the brightest pixel, above the background. The thin
    strokes of a pen would be faint in a small image, so they are made thicker until the mean
    brightness is the share of white.
    """
    light = np.asarray(picture, np.float32) - background
    light *= 255 / max(light.max(), 1)
    ink = Image.fromarray(np.uint8(np.where(light < _SHADOW, 0, light)))
    for _ in range(_THICKER):
        ink = ImageOps.pad(_cropped(ink), (64, 64), color=0)
        if np.mean(ink) >= 255 * share:
            break
        ink = ImageOps.expand(ink, 1).filter(ImageFilter.MaxFilter(3))
    return _cropped(ink)


def _cropped(ink: Image.Image) -> Image.Image:
    """The box around the pixels that are more than half as bright as white; all, if none are."""
    return ink.crop(ink.point(lambda v: 255 * (v > 127)).getbbox())


def find(names: Sequence[str]) -> list[str]:
    """The named files; a folder stands for the image files in it, at any depth, sorted.

    Hidden files in folders are left out. Raises UserError for a missing file, and for a folder
    without images.
    """
    paths = []
    for name in names:
        path = expand(name)
        if path.is_dir():
            inside = sorted(
                p
                for p in path.rglob("*")
                if p.suffix.lower() in decode.EXTENSIONS
                and p.is_file()
                and not any(part.startswith(".") for part in p.relative_to(path).parts)
            )
            if not inside:
                raise UserError(f"no image files ({', '.join(decode.EXTENSIONS)}) in {path}")
            paths += map(str, inside)
        elif path.is_file():
            paths.append(str(path))
        else:
            raise UserError(f"no image file {path}: give paths to image files in --images")
    return paths


@dataclasses.dataclass(frozen=True)
class PictureSplit(Split):
    """Image files as a split, for networks that cut views. info: of the network's data set.

    Every label is 0.
    """

    info: Info
    paths: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def id(self, i: int) -> str:
        return self.paths[i]

    def read(self, i: int) -> tuple[bytes, int, str]:
        """See `Split.read`. Raises OSError if the file cannot be read."""
        return pathlib.Path(self.paths[i]).read_bytes(), 0, printable(self.paths[i])


def content(path: str) -> bytes:
    """The content of an image file. Raises UserError if it cannot be read."""
    with _user_errors(path):
        return pathlib.Path(path).read_bytes()


def _user_errors(path: str):
    """A context that turns errors of reading an image file into UserError."""
    if not pathlib.Path(path).is_file():
        raise UserError(f"no image file {path}: give paths to PNG or JPEG files in --images")
    problem, advice = f"cannot read {path} as an image", "give a PNG or JPEG file"
    return reported(problem, advice, decode.BadImage, OSError)
