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


def of(exp: Experiment) -> "Protocol":
    """The protocol that config.evaluate.protocol chooses for an experiment."""
    name = exp.config.evaluate.protocol
    if name == "auto":
        name = "center" if _is_cut(exp) else "full"
    return PROTOCOLS[name](exp, name)


def _is_cut(exp: Experiment) -> bool:
    """Whether the network takes a part of each image."""
    return bool(exp.config.view.size) or exp.input_shape[0] < min(exp.info.image_shape[:2])


@dataclasses.dataclass(frozen=True)
class Protocol:
    """A protocol of an experiment. name: as config.evaluate.protocol has it."""

    exp: Experiment
    name: str

    @property
    def setting(self) -> str:
        """The config's setting, for messages."""
        return f"config.evaluate.protocol={self.exp.config.evaluate.protocol}"


class SingleView(Protocol):
    """Each image once, as the evaluations during training: whole, or its central crop."""

    is_single_view = True

    def settings(self) -> dict[str, Any]:
        """The settings that an evaluation's result lists after the protocol's name."""
        return {}

    def check_copy(self) -> None:
        """Raises UserError if the data set is a copy with too small images for the protocol."""

    def check(self) -> None:
        """Raises UserError if the network cannot be evaluated as the config says."""
        is_cut, section = _is_cut(self.exp), self.exp.config.evaluate
        if (self.name == "full") == is_cut:
            uses, other = ("central crops", "center") if is_cut else ("whole images", "full")
            raise UserError(f"{self.setting}: this recipe uses {uses}: choose {other}")
        if section.scales or section.multi_scale:
            raise UserError(
                f"{self.setting} uses only one scale, config.view.test_scale: leave out"
                " config.evaluate.scales and .multi_scale, or choose another protocol"
            )

    def passes(self) -> list[Pass]:
        """Their weights sum to 1."""
        return [single_view(self.exp)]


class _MultiView(Protocol):
    """Several views of each image, at one scale or several."""

    is_single_view = False
    needs_whole_images = True  # not only their central squares
    uses_squares = False  # those of GoogLeNet, which have other scales

    @property
    def scales(self) -> tuple[int, ...]:
        """Lengths of the images' shorter side, in pixels."""
        section, view = self.exp.config.evaluate, self.exp.config.view
        if section.scales:
            return tuple(section.scales)
        if not view.size:
            return (min(self.exp.info.image_shape[:2]),)
        return self._published_scales() if section.multi_scale else (view.test_scale,)

    def _published_scales(self) -> tuple[int, ...]:
        """For a fixed training scale S: S - 32, S, S + 32. For scales drawn from a range: its
        smallest, middle and largest (Simonyan & Zisserman 2015, sec. 4.2). For GoogLeNet's
        squares: four, 32 apart, from test_scale (Szegedy 2014, sec. 7: 256, 288, 320, 352).
        """
        view = self.exp.config.view
        if self.uses_squares:
            return tuple(view.test_scale + 32 * i for i in range(4))
        low, high = view.train_scale
        return (low - 32, low, low + 32) if low == high else (low, round((low + high) / 2), high)

    def settings(self):
        return {"scales": list(self.scales)}

    def check(self):
        exp, section, view = self.exp, self.exp.config.evaluate, self.exp.config.view
        side = exp.input_shape[0]
        if section.scales and section.multi_scale:
            raise UserError("config.evaluate.scales and .multi_scale: set only one of them")
        if section.multi_scale and not (view.size and (self.uses_squares or view.train == "scale")):
            raise UserError(
                "config.evaluate.multi_scale follows config.view.train_scale, which this recipe"
                " does not use: give config.evaluate.scales"
            )
        if view.size and side != view.size:
            raise UserError(
                f"{self.setting}: config.view gives {view.size} pixels and config.preprocess makes"
                f" {side} of them: set config.preprocess.crop and .pad to 0"
            )
        self._check_views()
        smallest = min(self.scales)
        if smallest < side:
            raise UserError(
                f"a shorter side of {smallest} (from config.evaluate.scales or .multi_scale) is"
                f" less than the {side} pixels that the network takes: give larger"
                " config.evaluate.scales"
            )

    def _check_views(self) -> None:
        """Raises UserError if the experiment does not have the views of this protocol."""

    def check_copy(self):
        if self.exp.info.copy:
            self.exp.info.copy.check_scales(self.scales, whole=self.needs_whole_images)


class TenCrop(_MultiView):
    """The four corners and the centre, and their mirror images (Krizhevsky 2012, sec. 4.1)."""

    needs_whole_images = False

    def _check_views(self):
        if self.exp.config.view.size:
            return
        if self.exp.config.evaluate.scales:
            raise UserError(
                f"{self.setting}: config.evaluate.scales needs config.view.size: set both"
            )
        if not _is_cut(self.exp):
            raise UserError(f"{self.setting}: the network takes these images whole: choose full")

    def passes(self):
        if self.exp.config.view.size:
            return [host_crops(self.exp, "ten_crop", self.scales)]
        return [device_crops(self.exp)]


class MultiCrop(_MultiView):
    """A grid of 5x5 crops, or GoogLeNet's squares, and their mirror images, at each scale."""

    @property
    def uses_squares(self):
        return self.exp.config.evaluate.crops == "squares"

    def settings(self):
        return super().settings() | {"crops": self.exp.config.evaluate.crops}

    def _check_views(self):
        if not self.exp.config.view.size:
            raise UserError(f"{self.setting} needs config.view.size: choose another protocol")
        super()._check_views()

    def passes(self):
        return [host_crops(self.exp, self.exp.config.evaluate.crops, self.scales)]


class Dense(_MultiView):
    """The network slid over the whole image and its mirror image, at each scale."""

    def settings(self):
        return super().settings() | {"map_average": self.exp.config.evaluate.map_average}

    def _check_views(self):
        super()._check_views()
        (height, width, _), model = self.exp.input_shape, self.exp.config.model.name
        sliding = registry.sliding()
        if model not in sliding:
            raise UserError(
                f"{self.setting}: {model} cannot be applied to larger images (only"
                f" {', '.join(sliding)} can): choose another protocol"
            )
        if height != width:
            raise UserError(
                f"{self.setting}: the network takes {height}x{width} images, and dense needs"
                " square ones: choose another protocol"
            )

    def passes(self):
        return whole_images(self.exp, self.scales)


class DenseAndMultiCrop(Dense, MultiCrop):
    """Both with equal weight, at the same scales (Simonyan & Zisserman 2015, table 5)."""

    uses_squares = False

    def passes(self):
        both = Dense.passes(self) + MultiCrop.passes(self)
        return [dataclasses.replace(one_pass, weight=one_pass.weight / 2) for one_pass in both]


PROTOCOLS: dict[str, type[Protocol]] = {
    "full": SingleView,
    "center": SingleView,
    "ten_crop": TenCrop,
    "multi_crop": MultiCrop,
    "dense": Dense,
    "dense_and_multi_crop": DenseAndMultiCrop,
}
