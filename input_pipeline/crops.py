"""What tests look at of one image: several crops of it, or all of it, as the papers have it.

Crops are squares of `size` pixels of the image brought to a shorter side Q, for one or more Q.
Which ones is a pure function of its height and width. Mirrored ones are made on the device.
"""

import dataclasses

import numpy as np
from PIL import Image

from input_pipeline import decode, views

GRID = 5  # VGG's crops along each side (Simonyan & Zisserman 2015, sec. 4.3)
# Pixels of a whole image, filled up to its bucket: nets hold several times 64 float32 maps of it
# and of its mirror, 2 GB each time for so many.
LARGEST = 2**22


@dataclasses.dataclass(frozen=True)
class Crop:
    """A square of the rescaled image, in whole pixels; resized if it is not of the size wanted.

    offset: (top, left) within the central Q x Q square, which a mean image covers.
    """

    top: int
    left: int
    side: int
    offset: tuple[int, int] = (0, 0)


def corners_and_center(side: int, size: int) -> list[tuple[int, int]]:
    """(top, left) of the four corners and the centre of a side x side square."""
    far, middle = side - size, views.central(side, size)
    return [(0, 0), (0, far), (far, 0), (far, far), (middle, middle)]


def ten_crop(height: int, width: int, size: int) -> list[Crop]:
    """Corners and centre of the central square (Krizhevsky 2012, sec. 4.1); mirrored, they are ten.

    height, width: of the rescaled image.
    """
    side = min(height, width)
    y, x = views.central(height, side), views.central(width, side)
    return [
        Crop(y + top, x + left, size, (top, left)) for top, left in corners_and_center(side, size)
    ]


def grid(height: int, width: int, size: int) -> list[Crop]:
    """5 x 5 places at equal distances, both edges included; mirrored, they are 50.

    "A regular grid of 5x5" (Simonyan & Zisserman 2015, sec. 4.3) over the rescaled image.
    """
    rows, columns = (
        [round(i * (length - size) / (GRID - 1)) for i in range(GRID)] for length in (height, width)
    )
    return [Crop(top, left, size) for top in rows for left in columns]


def squares(height: int, width: int, size: int) -> list[Crop]:
    """Of three squares, corners, centre, and the square resized; mirrored, they are 36.

    The left, central and right square of the rescaled image, or the top, central and bottom one
    (Szegedy 2014, sec. 7). At the paper's four scales 144.
    """
    side = min(height, width)
    found = []
    for share in (0, 1, 2):
        y, x = (
            (0, views.central(length, side), length - side)[share] for length in (height, width)
        )
        found += [Crop(y + top, x + left, size) for top, left in corners_and_center(side, size)]
        found.append(Crop(y, x, side))
    return found


KINDS = {"ten_crop": ten_crop, "grid": grid, "squares": squares}


def rescale(
    picture: decode.Picture | decode.Pixels, shorter: int, resample: Image.Resampling
) -> np.ndarray:
    """A whole picture brought to a shorter side: uint8 [height, width, channels].

    Raises decode.BadImage for what cannot be decoded, or has more than LARGEST pixels then.
    """
    height, width = picture.height, picture.width
    rows, columns = views.rescaled(height, width, shorter)
    if bucket(rows) * bucket(columns) > LARGEST:
        raise decode.BadImage(
            f"its {width}x{height} pixels are {columns}x{rows} at a shorter side of {shorter}, and"
            f" an image of more than {LARGEST:,} is too large"
        )
    return picture.cut((0, 0, height, width), (rows, columns), resample)


@dataclasses.dataclass(frozen=True)
class Crops:
    """Reads crops of an image: those of `kind` (see KINDS), at each of the shorter sides."""

    kind: str
    size: int
    scales: tuple[int, ...]
    interpolation: str = "bilinear"

    @property
    def count(self) -> int:
        """Crops of an image, without mirrored ones."""
        return len(KINDS[self.kind](self.size, self.size, self.size)) * len(self.scales)

    def blank(self, image_shape: tuple[int, int, int]) -> np.ndarray:
        """What stands for an image of a set that cannot be read."""
        return np.zeros((self.count, self.size, self.size, image_shape[2]), np.uint8)

    def cut(self, image: bytes | np.ndarray, rng=None) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [crops, size, size, channels] and their offsets int32 [crops, 2], scale by scale.

        image: as in `views.cut`. rng: not used. Raises decode.BadImage as `rescale`.
        """
        resample = views.resampling(self.interpolation, None)
        picture, found, offsets = decode.opened(image), [], []
        for shorter in self.scales:
            whole = rescale(picture, shorter, resample)
            for crop in KINDS[self.kind](*whole.shape[:2], self.size):
                part = whole[crop.top : crop.top + crop.side, crop.left : crop.left + crop.side]
                if crop.side != self.size:
                    part = rescale(decode.Pixels(part), self.size, resample)
                found.append(part)
                offsets.append(crop.offset)
        return np.stack(found), np.array(offsets, np.int32)


@dataclasses.dataclass(frozen=True)
class Whole:
    """Reads whole images, brought to one shorter side."""

    shorter: int
    interpolation: str = "bilinear"

    def blank(self, image_shape: tuple[int, int, int]) -> np.ndarray:
        """What stands for an image of a set that cannot be read."""
        return np.zeros((self.shorter, self.shorter, image_shape[2]), np.uint8)

    def cut(self, image: bytes | np.ndarray, rng=None) -> tuple[np.ndarray, tuple[int, int]]:
        """uint8 [height, width, channels], and no offset. image, rng, errors: as in `Crops.cut`."""
        resample = views.resampling(self.interpolation, None)
        return rescale(decode.opened(image), self.shorter, resample), (0, 0)


def bucket(length: int) -> int:
    """The next of four lengths an octave: 256, 320, 384, 448, 512, 640, ...

    Images are filled up to such lengths, so that few shapes are compiled.
    """
    step = max(1, 2 ** ((length - 1).bit_length() - 3))
    return -(-length // step) * step
