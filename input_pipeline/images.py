"""The user's own picture files, as the images of a data set."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps

from errors import UserError, one_line, printable
from input_pipeline import decode, folder
from input_pipeline.split import Info, Split

# What is looked for in folders, in any case: files in one of `decode.MORE_FORMATS`.
EXTENSIONS = (
    *folder.EXTENSIONS,
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".avif"),
)


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
        picture = decode.Picture(path, formats=decode.MORE_FORMATS).image()
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


def find(images: Sequence[str]) -> list[str]:
    """Files as they are named, and in place of folders the image files in them, at any depth.

    Hidden ones in folders are left out. Raises UserError for what is not there, and for a folder
    without images.
    """
    found = []
    for name in images:
        path = pathlib.Path(name).expanduser()
        if path.is_dir():
            inside = sorted(
                p
                for p in path.rglob("*")
                if p.suffix.lower() in EXTENSIONS
                and p.is_file()
                and not any(part.startswith(".") for part in p.relative_to(path).parts)
            )
            if not inside:
                raise UserError(f"no image files ({', '.join(EXTENSIONS)}) in {path}")
            found += map(str, inside)
        elif path.is_file():
            found.append(str(path))
        else:
            raise UserError(f"no image file {path}: give paths to image files in --images")
    return found


@dataclasses.dataclass(frozen=True)
class PictureSplit(Split):
    """Picture files as a split, for nets that take views of them.

    info: of the data set that the net knows. Their labels are 0.
    """

    info: Info
    paths: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def id(self, i: int) -> str:
        return self.paths[i]

    def read(self, i: int) -> tuple[bytes | np.ndarray, int, str]:
        """The i-th file's `content`, 0, and its path. Raises OSError where it cannot be read."""
        data = pathlib.Path(self.paths[i]).read_bytes()
        return _decoded_if_rare(data), 0, printable(self.paths[i])


def content(path: str) -> bytes | np.ndarray:
    """What is in a picture file, as `decode.opened` takes it.

    Raises UserError where there is no file to read.
    """
    with _one_line(path):
        return _decoded_if_rare(pathlib.Path(path).read_bytes())


def _decoded_if_rare(data: bytes) -> bytes | np.ndarray:
    """A picture as it is or, in a format that data sets do not have, as uint8 RGB [h, w, 3].

    What is no picture stays as it is: who cuts it refuses it, with the reason.
    """
    try:
        decode.Picture(data)  # reads the header only
    except decode.BadImage:
        with contextlib.suppress(decode.BadImage):
            return decode.pixels(decode.Picture(data, formats=decode.MORE_FORMATS).image())
    return data


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
