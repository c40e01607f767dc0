"""Facts about a copy of a set with smaller images, stored beside the copy's files."""

import dataclasses
import json
import pathlib
import re
import typing

from errors import UserError, reported

VERSION = 1
FILE = "canon_copy.json"


@dataclasses.dataclass(frozen=True)
class CopyInfo:
    """Facts about a copy.

    square: it holds the central square of each image, as AlexNet's 256x256 (Krizhevsky 2012,
    sec. 2). quality: of its JPEGs, 1 to 100; 0: it holds pixels. examples: of the source, by split.
    digest: of the source's class names and files; empty in copies of earlier versions.
    """

    source: str
    shorter_side: int
    square: bool
    quality: int
    on_bad_image: str
    examples: dict[str, int]
    version: int = VERSION
    digest: str = ""

    @property
    def name(self) -> str:
        """The copy's name as a TFDS set: imagenet2012_256, photos_256sq, photos_256_raw."""
        stem = re.sub(r"[^a-z0-9]+", "_", self.source.lower()).strip("_") or "images"
        stem = stem if stem[0].isalpha() else f"set_{stem}"
        return f"{stem}_{self.shorter_side}{'sq' * self.square}{'' if self.quality else '_raw'}"

    @property
    def description(self) -> str:
        """A phrase for messages."""
        kind = "central squares" if self.square else "a shorter side"
        form = f"JPEG quality {self.quality}" if self.quality else "not encoded"
        return f"a copy of {self.source} with {kind} of {self.shorter_side} pixels, {form}"

    def check_view(self, view, is_training: bool = True) -> None:
        """Raises UserError if the copy's images are too small for a `views.View`, or cropped.

        They would be enlarged, or cropped twice: the network would not see the configured images.
        """
        scales = {view.test_scale, *(view.train_scale if view.train == "scale" else ())}
        if view.size and max(scales) > self.shorter_side:
            raise UserError(
                f"config.view needs shorter sides up to {max(scales)}, but the data set is"
                f" {self.description}: prepare a larger copy, or train with the original"
            )
        if view.size and self.square and view.train == "area" and is_training:
            raise UserError(
                f"config.view.train=area needs whole images, but the set is {self.description}:"
                " train with a copy without --square, or with the original"
            )
        if view.size and self.square and view.train == "scale" and not view.square:
            raise UserError(
                f"the data set is {self.description}: set config.view.square=True, or train with"
                " the original"
            )

    def check_scales(self, shorter_sides, whole: bool) -> None:
        """Raises UserError if an evaluation needs larger images, or whole images of squares.

        whole: True if the evaluation uses more than the central square of an image.
        """
        if shorter_sides and max(shorter_sides) > self.shorter_side:
            raise UserError(
                f"the evaluation needs shorter sides up to {max(shorter_sides)}, but the data set"
                f" is {self.description}: prepare a larger copy, or evaluate on the original"
            )
        if whole and self.square:
            raise UserError(
                f"the evaluation needs whole images, but the data set is {self.description}:"
                " evaluate on the original, or with config.evaluate.protocol=ten_crop"
            )


def read(folder: pathlib.Path) -> CopyInfo | None:
    """Facts about the copy in a folder; None if the folder holds no copy.

    Raises UserError if another version of Canon wrote the copy, or the file is damaged.
    """
    path = folder / FILE
    problem, advice = f"cannot read {path}", "make the copy again"
    with reported(problem, advice, OSError, ValueError, RecursionError):
        try:
            fields = json.loads(path.read_text())
        except (FileNotFoundError, NotADirectoryError):
            return None
    if isinstance(fields, dict):
        fields = {"digest": "", **fields}
    if not isinstance(fields, dict) or not _is_valid(fields):
        raise UserError(
            f"{folder} was prepared by another version of Canon: make the copy again, with"
            " `python -m input_pipeline.prepare`"
        )
    return CopyInfo(**fields)


def _is_valid(fields: dict) -> bool:
    """Whether the fields and their types are those of this version's `CopyInfo`."""
    types = {
        field.name: typing.get_origin(field.type) or field.type
        for field in dataclasses.fields(CopyInfo)
    }
    if {name: type(value) for name, value in fields.items()} != types:
        return False
    counts = fields["examples"].values()
    return fields["version"] == VERSION and all(type(count) is int for count in counts)
