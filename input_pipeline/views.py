"""What the host cuts from an image: one square of a fixed size, at random for training.

A view is first a box in the image, a pure function of the image's size and a random generator;
then the box is resized in one go. Flips and all that is done to colours happen on the device.
"""

import dataclasses
import math
from typing import NamedTuple

import numpy as np
from PIL.Image import Resampling

from errors import UserError
from input_pipeline import decode

TRAIN = ("scale", "area", "center")
INTERPOLATIONS = {
    "bilinear": Resampling.BILINEAR,
    "bicubic": Resampling.BICUBIC,
    "lanczos": Resampling.LANCZOS,
    "box": Resampling.BOX,
    "nearest": Resampling.NEAREST,
}
# "Bilinear, area, nearest neighbor and cubic, with equal probability" (Szegedy 2014, sec. 6);
# area is the mean of the pixels that fall together, Pillow's box.
RANDOM = ("bilinear", "bicubic", "box", "nearest")
RANDOM_TEST = "bicubic"
_LARGEST = 2**16  # pixels of a side, or times as wide as high
TRIES = 10  # of a random area whose shape fits into the image


class Box(NamedTuple):
    """A part of an image, in pixels of its full size; fractions of them are fine."""

    top: float
    left: float
    height: float
    width: float


@dataclasses.dataclass(frozen=True)
class View:
    """The config's `view` section, whose fields it has; `configs.schema` says what they mean."""

    size: int
    train: str
    train_scale: tuple[int, int]
    square: bool
    area: tuple[float, float]
    aspect: tuple[float, float]
    interpolation: str
    test_scale: int

    @classmethod
    def from_config(cls, section) -> "View":
        """Raises UserError, one line naming the field, for values that make no view."""
        values = {field.name: getattr(section, field.name) for field in dataclasses.fields(cls)}
        view = cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
        view.check()
        return view

    def cut(self, image, rng=None) -> tuple[np.ndarray, tuple[int, int]]:
        """See the function `cut`."""
        return cut(image, self, rng)

    def blank(self, image_shape: tuple[int, int, int]) -> np.ndarray:
        """What stands for an image of a set that cannot be read."""
        height, width, channels = image_shape
        return np.zeros((self.size or height, self.size or width, channels), np.uint8)

    def check(self) -> None:
        """Raises UserError, one line naming the field, for values that make no view."""

        def refuse(field: str, what: str):
            raise UserError(f"config.view.{field}={getattr(self, field)}: {what}")

        if self.size < 0:
            refuse("size", "must be 0 or more")
        if self.train not in TRAIN:
            refuse("train", f"choose one of {', '.join(TRAIN)}")
        if self.interpolation not in (*INTERPOLATIONS, "random"):
            refuse("interpolation", f"choose one of {', '.join(INTERPOLATIONS)}, random")
        for field in ("train_scale", "area", "aspect"):
            values = getattr(self, field)
            numbers = all(isinstance(v, int | float) for v in values) and len(values) == 2
            if not numbers or not 0 < values[0] <= values[1] <= _LARGEST:
                refuse(field, "must be two numbers above 0, the smaller one first")
        if self.area[1] > 1:
            refuse("area", "must be at most 1, the whole image")
        if not all(isinstance(scale, int) for scale in self.train_scale):
            refuse("train_scale", "must be whole numbers of pixels")
        if self.square and self.train != "scale":
            refuse("square", "goes with config.view.train=scale only")
        if self.train == "scale" and self.size > self.train_scale[0]:
            refuse("train_scale", f"must be config.view.size={self.size} or more")
        if self.size > self.test_scale:
            refuse("test_scale", f"must be config.view.size={self.size} or more")


def rescaled(height: int, width: int, shorter: int) -> tuple[int, int]:
    """(height, width) of an image brought to a shorter side, the other one rounded down.

    As torchvision's `Resize` rounds; the papers do not say.
    """
    if height <= width:
        return shorter, int(shorter * width / height)
    return int(shorter * height / width), shorter


def central(length: int, part: int) -> int:
    """Where the central `part` of a length starts; halves go to even, as in torchvision."""
    return round((length - part) / 2)


def square_at(height: int, width: int, shorter: int, top: int, left: int, size: int) -> Box:
    """In a height x width image, the box of a square of the image rescaled to a shorter side.

    top, left, size: of the square, in whole pixels of the rescaled image.
    """
    rows, columns = rescaled(height, width, shorter)
    y, x = height / rows, width / columns
    return Box(top * y, left * x, size * y, size * x)


def scale(height: int, width: int, view, rng: np.random.Generator) -> tuple[Box, tuple[int, int]]:
    """A square at a random place of the image rescaled to a random shorter side S.

    S is uniform over the integers train_scale[0] .. train_scale[1]: fixed at 256 for AlexNet
    (Krizhevsky 2012, sec. 2) and at 256 or 384 for VGG, or jittered in 256 .. 512 (Simonyan 2015,
    sec. 3.1) or in 256 .. 480 (He 2015, sec. 3.4). All places of the size x size square are
    equally likely, both edges included: of the central S x S square if `square` (Krizhevsky 2012,
    sec. 4.1), otherwise of the whole image.
    Returns the box and, if `square`, the (top, left) of the view in the S x S square, else (0, 0).
    """
    low, high = view.train_scale
    shorter = int(rng.integers(low, high + 1))
    rows, columns = rescaled(height, width, shorter)
    if not view.square:
        top, left = (int(rng.integers(0, side - view.size + 1)) for side in (rows, columns))
        return square_at(height, width, shorter, top, left, view.size), (0, 0)
    top, left = (int(v) for v in rng.integers(0, shorter - view.size + 1, 2))
    y, x = central(rows, shorter) + top, central(columns, shorter) + left
    return square_at(height, width, shorter, y, x, view.size), (top, left)


def area(height: int, width: int, view, rng: np.random.Generator) -> Box:
    """A patch of random area and aspect ratio at a random place (Szegedy 2014, sec. 6).

    The share of the image's area is uniform in `area`. The paper constrains the aspect ratio to
    `aspect` without a distribution: it is uniform in the logarithm, so that wide and tall
    are as likely, as in torchvision. After ten shapes that do not fit: the largest central
    patch whose aspect ratio is allowed.
    """
    smallest, largest = view.aspect
    for _ in range(TRIES):
        pixels = height * width * rng.uniform(*view.area)
        ratio = math.exp(rng.uniform(math.log(smallest), math.log(largest)))
        w, h = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 0 < w <= width and 0 < h <= height:
            top, left = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
            return Box(int(top), int(left), h, w)
    h = max(1, min(height, round(width / smallest)))
    w = max(1, min(width, round(height * largest)))
    return Box((height - h) // 2, (width - w) // 2, h, w)


def center(height: int, width: int, view) -> tuple[Box, tuple[int, int]]:
    """The central square of the image rescaled to the shorter side `test_scale`.

    Returns the same as `scale`; with `square`, it is the centre of the central S x S square.
    """
    rows, columns = rescaled(height, width, view.test_scale)
    if not view.square:
        top, left = central(rows, view.size), central(columns, view.size)
        return square_at(height, width, view.test_scale, top, left, view.size), (0, 0)
    offset = central(view.test_scale, view.size)
    top, left = (central(side, view.test_scale) + offset for side in (rows, columns))
    return square_at(height, width, view.test_scale, top, left, view.size), (offset, offset)


def place(
    height: int, width: int, view, rng: np.random.Generator | None
) -> tuple[Box, tuple[int, int]]:
    """The box of a training view, or of the test view where rng is None; and its offset.

    The offset is (top, left) within the central S x S square, which a mean image covers, with
    view.square; otherwise (0, 0).
    """
    if rng is None or view.train == "center":
        return center(height, width, view)
    if view.train == "area":
        return area(height, width, view, rng), (0, 0)
    return scale(height, width, view, rng)


def resampling(interpolation: str, rng: np.random.Generator | None) -> Resampling:
    """Pillow's filter of an interpolation's name; "random" draws one of RANDOM."""
    if interpolation == "random":
        interpolation = RANDOM_TEST if rng is None else RANDOM[rng.integers(len(RANDOM))]
    return INTERPOLATIONS[interpolation]


def cut(
    image: bytes | np.ndarray, view, rng: np.random.Generator | None = None
) -> tuple[np.ndarray, tuple[int, int]]:
    """One view of an image, uint8 [size, size, channels], and its offset (see `place`).

    image: an encoded one, which gives RGB, or uint8 [height, width, 1 or 3]; what is smaller than
    the scale is enlarged. view: a `View`; of size 0, the image comes whole. rng: draws a
    training view; None: the test view.
    Raises decode.BadImage for what cannot be decoded.
    """
    if not view.size:
        return (decode.decode(image) if isinstance(image, bytes) else image), (0, 0)
    picture = decode.opened(image)
    box, offset = place(picture.height, picture.width, view, rng)
    return picture.cut(box, (view.size,) * 2, resampling(view.interpolation, rng)), offset
