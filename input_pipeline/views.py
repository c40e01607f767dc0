"""The part of an image that the host cuts: a square of a fixed size, at random in training.

A view is first a box in the image, a pure function of the image's size and a random generator. The
box is then resized in one step. Flips and changes of colour happen on the device.
"""

import dataclasses
import math
from typing import NamedTuple

import numpy as np
from PIL.Image import Resampling

from input_pipeline import decode

INTERPOLATIONS = {
    "bilinear": Resampling.BILINEAR,
    "bicubic": Resampling.BICUBIC,
    "lanczos": Resampling.LANCZOS,
    "box": Resampling.BOX,
    "nearest": Resampling.NEAREST,
}
# "Bilinear, area, nearest neighbor and cubic, with equal probability" (Szegedy 2014, sec. 6). Area
# is the mean of the pixels that fall together: Pillow's box.
RANDOM = ("bilinear", "bicubic", "box", "nearest")
RANDOM_TEST = "bicubic"
TRIES = 10  # of random areas, until one fits into the image


class Box(NamedTuple):
    """A part of an image, in pixels of its full size, also fractions of pixels."""

    top: float
    left: float
    height: float
    width: float


@dataclasses.dataclass(frozen=True)
class View:
    """The config's section `view`; configs/schema.py explains its fields."""

    size: int
    train: str
    train_scale: tuple[int, int]
    square: bool
    area: tuple[float, float]
    aspect: tuple[float, float]
    interpolation: str
    test_scale: int

    @classmethod
    def from_section(cls, section) -> "View":
        """From a section that `configs.schema.validate` has accepted."""
        values = {field.name: getattr(section, field.name) for field in dataclasses.fields(cls)}
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})

    def cut(
        self, image: bytes | np.ndarray, rng: np.random.Generator | None = None
    ) -> tuple[np.ndarray, tuple[int, int]]:
        """One view of an image, uint8 [size, size, channels], and its offset (see `place`).

        image: encoded, which gives RGB, or uint8 [height, width, 1 or 3]. An image smaller than the
        scale is enlarged; of size 0, the view is the whole image as it is. rng: for a training
        view; None: the test view. Raises decode.BadImage for an image that cannot be decoded.
        """
        if not self.size:
            return (decode.decode(image) if isinstance(image, bytes) else image), (0, 0)
        picture = decode.opened(image)
        box, offset = self.place(picture.height, picture.width, rng)
        return picture.cut(box, (self.size,) * 2, resampling(self.interpolation, rng)), offset

    def place(
        self, height: int, width: int, rng: np.random.Generator | None
    ) -> tuple[Box, tuple[int, int]]:
        """The box of a training view, or of the test view if rng is None; and its offset.

        The offset is (top, left) within the central S x S square, which a mean image covers, if
        `square`; otherwise (0, 0). height, width: of the image.
        """
        if rng is None or self.train == "center":
            return self._center(height, width)
        if self.train == "area":
            return self.random_area(height, width, rng), (0, 0)
        return self.random_scale(height, width, rng)

    def random_scale(
        self, height: int, width: int, rng: np.random.Generator
    ) -> tuple[Box, tuple[int, int]]:
        """A square at a random place of the image rescaled to a random shorter side S.

        S is uniform over the integers train_scale[0] .. train_scale[1]: 256 for AlexNet (Krizhevsky
        2012, sec. 2); 256, 384 or 256 .. 512 for VGG (Simonyan 2015, sec. 3.1); 256 .. 480 for
        ResNet (He 2015, sec. 3.4). All places of the size x size square are equally likely, edges
        included: in the central S x S square if `square` (Krizhevsky 2012, sec. 4.1), otherwise in
        the whole image.
        """
        low, high = self.train_scale
        shorter = int(rng.integers(low, high + 1))
        rows, columns = rescaled(height, width, shorter)
        if not self.square:
            top, left = (int(rng.integers(0, side - self.size + 1)) for side in (rows, columns))
            return square_at(height, width, shorter, top, left, self.size), (0, 0)
        top, left = (int(v) for v in rng.integers(0, shorter - self.size + 1, 2))
        y, x = central(rows, shorter) + top, central(columns, shorter) + left
        return square_at(height, width, shorter, y, x, self.size), (top, left)

    def random_area(self, height: int, width: int, rng: np.random.Generator) -> Box:
        """A patch of random area and aspect ratio at a random place (Szegedy 2014, sec. 6).

        The share of the image's area is uniform in `area`. The paper limits the aspect ratio to
        `aspect` without a distribution; it is uniform in the logarithm, as in torchvision, so that
        wide and tall are equally likely. After TRIES shapes that do not fit: the largest central
        patch with an allowed aspect ratio.
        """
        smallest, largest = self.aspect
        for _ in range(TRIES):
            pixels = height * width * rng.uniform(*self.area)
            ratio = math.exp(rng.uniform(math.log(smallest), math.log(largest)))
            w, h = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
            if 0 < w <= width and 0 < h <= height:
                top, left = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
                return Box(int(top), int(left), h, w)
        h = max(1, min(height, round(width / smallest)))
        w = max(1, min(width, round(height * largest)))
        return Box((height - h) // 2, (width - w) // 2, h, w)

    def _center(self, height: int, width: int) -> tuple[Box, tuple[int, int]]:
        """The central square of the image rescaled to the shorter side `test_scale`.

        With `square`, it is the centre of the central S x S square.
        """
        rows, columns = rescaled(height, width, self.test_scale)
        if not self.square:
            top, left = central(rows, self.size), central(columns, self.size)
            return square_at(height, width, self.test_scale, top, left, self.size), (0, 0)
        offset = central(self.test_scale, self.size)
        top, left = (central(side, self.test_scale) + offset for side in (rows, columns))
        return square_at(height, width, self.test_scale, top, left, self.size), (offset, offset)


def rescaled(height: int, width: int, shorter: int) -> tuple[int, int]:
    """(height, width) of an image brought to a shorter side; the other side is rounded down.

    torchvision's `Resize` rounds so; the papers do not say.
    """
    if height <= width:
        return shorter, int(shorter * width / height)
    return int(shorter * height / width), shorter


def central(length: int, part: int) -> int:
    """The start of the central `part` of a length; halves go to even, as in torchvision."""
    return round((length - part) / 2)


def square_at(height: int, width: int, shorter: int, top: int, left: int, size: int) -> Box:
    """The box, in a height x width image, of a square of the image rescaled to a shorter side.

    top, left, size: of the square, in whole pixels of the rescaled image.
    """
    rows, columns = rescaled(height, width, shorter)
    y, x = height / rows, width / columns
    return Box(top * y, left * x, size * y, size * x)


def resampling(interpolation: str, rng: np.random.Generator | None) -> Resampling:
    """Pillow's filter for an interpolation's name; "random" draws one of RANDOM."""
    if interpolation == "random":
        interpolation = RANDOM_TEST if rng is None else RANDOM[rng.integers(len(RANDOM))]
    return INTERPOLATIONS[interpolation]
