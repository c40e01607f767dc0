"""What evaluation protocols cut from an image: several crops, or the whole image, as in the papers.

Crops are squares of `size` pixels from the image rescaled to a shorter side Q, for one or more Q.
Their places follow from the image's height and width. The device adds their mirror images.
"""

import dataclasses

import numpy as np
from PIL import Image

from input_pipeline import decode, views

GRID = 5  # VGG's crops along each side (Simonyan & Zisserman 2015, sec. 4.3)
# Pixels of a whole image, padded to its bucket: networks hold several times 64 float32 maps of the
# image and of its mirror image, 2 GB each time at this size.
LARGEST = 2**22


@dataclasses.dataclass(frozen=True)
class Crop:
    """A square of the rescaled image, in whole pixels; it is resized if `side` is not `size`.

    offset: (top, left) within the central Q x Q square, which a mean image covers.
    """

    top: int
    left: int
    side: int
    offset: tuple[int, int] = (0, 0)


def corners_and_center(side: int, size: int) -> list[tuple[int, int]]:
    """(top, left) of the crops at the four corners and the centre of a side x side square."""
    far, middle = side - size, views.central(side, size)
    return [(0, 0), (0, far), (far, 0), (far, far), (middle, middle)]


def ten_crop(height: int, width: int, size: int) -> list[Crop]:
    """Corners and centre of the central square (Krizhevsky 2012, sec. 4.1); 10 with mirror images.

    height, width: of the rescaled image, here and below.
    """
    side = min(height, width)
    y, x = views.central(height, side), views.central(width, side)
    return [
        Crop(y + top, x + left, size, (top, left)) for top, left in corners_and_center(side, size)
    ]


def grid(height: int, width: int, size: int) -> list[Crop]:
    """The "regular grid of 5x5" (Simonyan & Zisserman 2015, sec. 4.3); 50 with mirror images.

    The grid covers the whole image, both edges included.
    """
    rows, columns = (
        [round(i * (length - size) / (GRID - 1)) for i in range(GRID)] for length in (height, width)
    )
    return [Crop(top, left, size) for top in rows for left in columns]


def squares(height: int, width: int, size: int) -> list[Crop]:
    """Corners, centre and the resized whole of three squares; 36 with mirror images.

    The squares are at the left, centre and right of the image, or at its top, centre and bottom
    (Szegedy 2014, sec. 7). At the paper's four scales 144.
    """
    side = min(height, width)
    crops = []
    for i in range(3):
        y, x = ((0, views.central(length, side), length - side)[i] for length in (height, width))
        crops += [Crop(y + top, x + left, size) for top, left in corners_and_center(side, size)]
        crops.append(Crop(y, x, side))
    return crops


KINDS = {"ten_crop": ten_crop, "grid": grid, "squares": squares}


def rescale(
    picture: decode.Picture | decode.Pixels, shorter: int, resample: Image.Resampling
) -> np.ndarray:
    """A whole picture brought to a shorter side: uint8 [height, width, channels].

    Raises decode.BadImage if it cannot be decoded, or would have more than LARGEST pixels.
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
    """Cuts the crops of one of KINDS at each of the shorter sides `scales`."""

    kind: str
    size: int
    scales: tuple[int, ...]
    interpolation: str = "bilinear"

    @property
    def count(self) -> int:
        """Crops per image, without mirror images."""
        return len(KINDS[self.kind](self.size, self.size, self.size)) * len(self.scales)

    def cut(self, image: bytes | np.ndarray, rng=None) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [crops, size, size, channels], scale by scale, and their offsets int32 [crops, 2].

        image: as in `View.cut`. rng: not used. Raises decode.BadImage as `rescale`.
        """
        resample = views.resampling(self.interpolation, None)
        picture, parts, offsets = decode.open_image(image), [], []
        for shorter in self.scales:
            whole = rescale(picture, shorter, resample)
            for crop in KINDS[self.kind](*whole.shape[:2], self.size):
                part = whole[crop.top : crop.top + crop.side, crop.left : crop.left + crop.side]
                if crop.side != self.size:
                    part = rescale(decode.Pixels(part), self.size, resample)
                parts.append(part)
                offsets.append(crop.offset)
        return np.stack(parts), np.array(offsets, np.int32)


@dataclasses.dataclass(frozen=True)
class Whole:
    """Cuts whole images, brought to one shorter side."""

    shorter: int
    interpolation: str = "bilinear"

    def cut(self, image: bytes | np.ndarray, rng=None) -> tuple[np.ndarray, tuple[int, int]]:
        """uint8 [height, width, channels], and no offset; see `Crops.cut`."""
        resample = views.resampling(self.interpolation, None)
        return rescale(decode.open_image(image), self.shorter, resample), (0, 0)


def bucket(length: int) -> int:
    """The next of four lengths per octave: 256, 320, 384, 448, 512, 640, ...

    Images are padded to such lengths, so that few shapes are compiled.
    """
    step = max(1, 2 ** ((length - 1).bit_length() - 3))
    return -(-length // step) * step
