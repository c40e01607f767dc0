"""The config fields that belong to pretrained weights: preprocessing, view, auxiliary heads."""

from typing import Any


def view(
    mean: tuple[float, ...],
    deviation: tuple[float, ...] = (),
    high: float = 1.0,
    size: int = 224,
) -> dict[str, Any]:
    """Fields for an input high * (u - mean) / deviation of images u in 0..1.

    The input is the central square of `size` pixels of an image whose shorter side is 256. mean,
    deviation: of red, green and blue, in 0..1; deviation (): no division. Images are resized
    bilinearly: so do torchvision's presets for the first weights of all its networks here, and
    OpenCV by default, with which Caffe's tools made their images.
    """
    return {
        "preprocess.mean": "given",
        "preprocess.given_mean": mean,
        "preprocess.deviation": deviation,
        "preprocess.low": 0.0,
        "preprocess.high": high,
        "view.size": size,
        "view.test_scale": 256,
        "view.interpolation": "bilinear",
    }


def from_255(*mean: float) -> tuple[float, ...]:
    """Values of 0..255, scaled to 0..1."""
    return tuple(value / 255 for value in mean)


def auxiliary(present: bool) -> dict[str, Any]:
    """GoogLeNet's two auxiliary heads. present: whether the file has them."""
    if present:
        return {"model.auxiliary_heads": True}
    return {"model.auxiliary_heads": False, "loss.auxiliary_weight": 0.0}
