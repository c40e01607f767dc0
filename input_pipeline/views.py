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

_NAMES = ("bilinear", "bicubic", "lanczos", "box", "nearest")
INTERPOLATIONS = {name: Resampling[name.upper()] for name in _NAMES}
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

    def describe(self) -> str:
        """Of which part of an image a view is cut; "" if images are used whole."""
        if not self.size:
            return ""
        test, (low, high) = f"a shorter side of {self.test_scale}", self.train_scale
        if self.train == "area":
            low, high = self.area
            return f"cut from {low:.0%} to {high:.0%} of the area (evaluation: {test})"
        if self.train == "center" or low == high == self.test_scale:
            return f"cut from {test}"
        scales = f"{low} to {high}" if low < high else f"{low}"
        return f"cut from a shorter side of {scales} (evaluation: {self.test_scale})"

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
        picture = decode.open_image(image)
        box, offset = self.place(picture.height, picture.width, rng)
        return picture.cut(box, (self.size,) * 2, resampling(self.interpolation, rng)), offset

    def place(
        self, height: int, width: int, rng: np.random.Generator | None
    ) -> tuple[Box, tuple[int, int]]:
        """The box of a training view, or of the test view if rng is None; and its offset.

        The image, height x width, is rescaled to a shorter side S. A view is a size x size square
        at a random place of it, the central one in the test view. All places are equally likely,
        edges included. With `square`, it lies in the central S x S square (Krizhevsky 2012,
        sec. 4.1). The offset is its (top, left) there, because a mean image covers this square;
        otherwise (0, 0).

        S is test_scale in the test view. In training, S is uniform over the integers
        train_scale[0] .. train_scale[1]: 256 for AlexNet (Krizhevsky 2012, sec. 2); 256, 384 or
        256 .. 512 for VGG (Simonyan 2015, sec. 3.1); 256 .. 480 for ResNet (He 2015, sec. 3.4).
        """
        if rng is None or self.train == "center":
            shorter, start = self.test_scale, central
        elif self.train == "area":
            return self.random_area(height, width, rng), (0, 0)
        else:
            low, high = self.train_scale
            shorter = int(rng.integers(low, high + 1))

            def start(length: int, part: int) -> int:
                return int(rng.integers(0, length - part + 1))

        rows, columns = rescaled(height, width, shorter)
        # The part of the rescaled image in which the square lies.
        part_rows, part_columns = (shorter, shorter) if self.square else (rows, columns)
        top, left = start(part_rows, self.size), start(part_columns, self.size)
        corner = central(rows, part_rows) + top, central(columns, part_columns) + left
        box = square_at(height, width, shorter, corner, self.size)
        return box, (top, left) if self.square else (0, 0)

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


def square_at(height: int, width: int, shorter: int, corner: tuple[int, int], size: int) -> Box:
    """The box, in a height x width image, of a square of the image rescaled to a shorter side.

    corner, size: (top, left) and side of the square, in whole pixels of the rescaled image.
    """
    rows, columns = rescaled(height, width, shorter)
    y, x = height / rows, width / columns
    return Box(corner[0] * y, corner[1] * x, size * y, size * x)


def resampling(interpolation: str, rng: np.random.Generator | None) -> Resampling:
    """Pillow's filter for an interpolation's name; "random" draws one of RANDOM."""
    if interpolation == "random":
        interpolation = RANDOM_TEST if rng is None else RANDOM[rng.integers(len(RANDOM))]
    return INTERPOLATIONS[interpolation]
