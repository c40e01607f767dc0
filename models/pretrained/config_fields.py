"""The config fields that belong to a file's weights: how its net was shown images, its heads."""

from typing import Any


def view(
    mean: tuple[float, ...],
    deviation: tuple[float, ...] = (),
    high: float = 1.0,
    size: int = 224,
) -> dict[str, Any]:
    """Images u in 0..1 enter as high * (u - mean) / deviation, the central `size` pixels of 256.

    mean, deviation: of red, green and blue, in 0..1; deviation () divides by nothing. They are
    resized bilinearly, as torchvision tests the first weights of all its nets here (its presets'
    default) and OpenCV's resize, by which Caffe's tools made their images, does by default.
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
    """Values of 0..255 in 0..1."""
    return tuple(value / 255 for value in mean)


def auxiliary(present: bool) -> dict[str, Any]:
    """GoogLeNet's two heads of training: as the file has them."""
    if present:
        return {"model.auxiliary_heads": True}
    return {"model.auxiliary_heads": False, "loss.auxiliary_weight": 0.0}
