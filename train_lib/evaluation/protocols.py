"""The papers' evaluation protocols: which views of an image make one prediction, and how.

A protocol makes one or more passes over a split. The weighted sum of their class probabilities is
the prediction.
"""

import dataclasses
from typing import Any

from errors import UserError
from models import registry
from train_lib.evaluation.passes import Pass, device_crops, host_crops, single_view, whole_images
from train_lib.experiment import Experiment

# The views of each protocol, which have equal weight.
PROTOCOLS: dict[str, tuple[str, ...]] = {
    # Each image once, as in the evaluations during training: whole, or its central crop.
    "full": ("single_view",),
    "center": ("single_view",),
    # The four corners and the centre, and their mirror images (Krizhevsky 2012, sec. 4.1).
    "ten_crop": ("ten_crop",),
    # A grid of 5x5 crops, or GoogLeNet's squares, and their mirror images, at each scale.
    "multi_crop": ("multi_crop",),
    # The network slid over the whole image and its mirror image, at each scale.
    "dense": ("dense",),
    # Both, at the same scales (Simonyan & Zisserman 2015, table 5).
    "dense_and_multi_crop": ("dense", "multi_crop"),
}


def of(exp: Experiment) -> "Protocol":
    """The protocol that config.evaluate.protocol chooses for an experiment."""
    name = exp.config.evaluate.protocol
    if name == "auto":
        name = "center" if _is_cut(exp) else "full"
    return Protocol(exp, name)


def _is_cut(exp: Experiment) -> bool:
    """Whether the network takes a part of each image."""
    return bool(exp.config.view.size) or exp.input_shape[0] < min(exp.info.image_shape[:2])


@dataclasses.dataclass(frozen=True)
class Protocol:
    """A protocol of an experiment. name: one of `PROTOCOLS`."""

    exp: Experiment
    name: str

    @property
    def views(self) -> tuple[str, ...]:
        return PROTOCOLS[self.name]

    @property
    def is_single_view(self) -> bool:
        return self.views == ("single_view",)

    def passes(self) -> list[Pass]:
        """The passes over a split. Their weights sum to 1."""
        return [
            dataclasses.replace(one_pass, weight=one_pass.weight / len(self.views))
            for views in self.views
            for one_pass in self._passes_of(views)
        ]

    def _passes_of(self, views: str) -> list[Pass]:
        exp, scales = self.exp, self.scales
        if views == "single_view":
            return [single_view(exp)]
        if views == "dense":
            return whole_images(exp, scales)
        if views == "multi_crop":
            return [host_crops(exp, exp.config.evaluate.crops, scales)]
        return [host_crops(exp, views, scales) if exp.config.view.size else device_crops(exp)]

    @property
    def scales(self) -> tuple[int, ...]:
        """Lengths of the images' shorter side, in pixels.

        With evaluate.multi_scale, the published ones. For a fixed training scale S: S - 32, S,
        S + 32. For scales drawn from a range: its smallest, middle and largest (Simonyan &
        Zisserman 2015, sec. 4.2). For GoogLeNet's squares: four, 32 apart, from test_scale
        (Szegedy 2014, sec. 7: 256, 288, 320, 352).
        """
        section, view = self.exp.config.evaluate, self.exp.config.view
        if section.scales:
            return tuple(section.scales)
        if not view.size:
            return (min(self.exp.info.image_shape[:2]),)
        if not section.multi_scale:
            return (view.test_scale,)
        if self._uses_squares:
            return tuple(view.test_scale + 32 * i for i in range(4))
        low, high = view.train_scale
        return (low - 32, low, low + 32) if low == high else (low, round((low + high) / 2), high)

    @property
    def _uses_squares(self) -> bool:
        return self.views == ("multi_crop",) and self.exp.config.evaluate.crops == "squares"

    def settings(self) -> dict[str, Any]:
        """The settings that an evaluation's result lists after the protocol's name."""
        section, settings = self.exp.config.evaluate, {}
        if not self.is_single_view:
            settings["scales"] = list(self.scales)
        if "multi_crop" in self.views:
            settings["crops"] = section.crops
        if "dense" in self.views:
            settings["map_average"] = section.map_average
        return settings

    def check_copy(self) -> None:
        """Raises UserError if the data set is a copy with too small images for the protocol."""
        if self.exp.info.copy and not self.is_single_view:
            # Ten crops need only the central square of an image.
            self.exp.info.copy.check_scales(self.scales, whole=self.name != "ten_crop")

    def check(self) -> None:
        """Raises UserError if the network cannot be evaluated as the config says."""
        if self.is_single_view:
            self._check_single_view()
            return
        section, view = self.exp.config.evaluate, self.exp.config.view
        side = self.exp.input_shape[0]
        if section.scales and section.multi_scale:
            raise UserError("config.evaluate.scales and .multi_scale: set only one of them")
        is_vgg = self.exp.config.model.name == "vgg" and view.train == "scale"
        if section.multi_scale and not (view.size and (self._uses_squares or is_vgg)):
            raise UserError(
                "config.evaluate.multi_scale=True stands for the scales of VGG, and of GoogLeNet's"
                " 144 crops: give those of this network with config.evaluate.scales"
            )
        if view.size and side != view.size:
            raise UserError(
                f"{self._setting}: config.view gives {view.size} pixels and config.preprocess makes"
                f" {side} of them: set config.preprocess.crop and .pad to 0"
            )
        if "multi_crop" in self.views and not view.size:
            raise UserError(f"{self._setting} needs config.view.size: choose another protocol")
        if self.name == "ten_crop" and not view.size:
            self._check_device_crops()
        if "dense" in self.views:
            self._check_dense()
        smallest = min(self.scales)
        if smallest < side:
            raise UserError(
                f"a shorter side of {smallest} (from config.evaluate.scales or .multi_scale) is"
                f" less than the {side} pixels that the network takes: give larger"
                " config.evaluate.scales"
            )

    @property
    def _setting(self) -> str:
        """The config's setting, for messages."""
        return f"config.evaluate.protocol={self.exp.config.evaluate.protocol}"

    def _check_single_view(self) -> None:
        is_cut, section = _is_cut(self.exp), self.exp.config.evaluate
        if (self.name == "full") == is_cut:
            uses, other = ("central crops", "center") if is_cut else ("whole images", "full")
            raise UserError(f"{self._setting}: this recipe uses {uses}: choose {other}")
        if section.scales or section.multi_scale:
            raise UserError(
                f"{self._setting} uses only one scale, config.view.test_scale: leave out"
                " config.evaluate.scales and .multi_scale, or choose another protocol"
            )

    def _check_device_crops(self) -> None:
        if self.exp.config.evaluate.scales:
            raise UserError(
                f"{self._setting}: config.evaluate.scales needs config.view.size: set both"
            )
        if not _is_cut(self.exp):
            raise UserError(f"{self._setting}: the network takes these images whole: choose full")

    def _check_dense(self) -> None:
        (height, width, _), model = self.exp.input_shape, self.exp.config.model.name
        sliding = registry.sliding()
        if model not in sliding:
            raise UserError(
                f"{self._setting}: {model} cannot be applied to larger images (only"
                f" {', '.join(sliding)} can): choose another protocol"
            )
        if height != width:
            raise UserError(
                f"{self._setting}: the network takes {height}x{width} images, and dense needs"
                " square ones: choose another protocol"
            )
