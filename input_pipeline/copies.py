"""Copies of sets with smaller images, so that training decodes little. TFDS reads them.

A copy is an `array_record` set NAME_256/1.0.0 whose images are JPEGs of one shorter side, or their
bare pixels (NAME_256_raw): six times the space, and nothing to decode. It is written shard by
shard, each of them whole or not at all, so that an interrupted copy goes on; its metadata, without
which TFDS sees no set, come last. `canon_copy.json` beside them says what it is.
"""

import concurrent.futures
import dataclasses
import io
import json
import multiprocessing
import os
import pathlib
import re
import sys
import typing

import numpy as np
from PIL import Image

from errors import UserError, one_line
from input_pipeline import cache, decode, views

VERSION = 1
FILE = "canon_copy.json"
SET_VERSION = "1.0.0"
SHARD = 1024  # examples


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a copy is of.

    square: the central square of each image, as AlexNet's (sec. 2) 256x256. quality: of its JPEGs,
    1 to 100; 0: it holds pixels.
    """

    source: str
    shorter_side: int
    square: bool
    quality: int
    on_bad_image: str
    examples: dict[str, int]  # by split
    version: int = VERSION

    @property
    def words(self) -> str:
        """For people."""
        kind = "central squares" if self.square else "a shorter side"
        form = f"JPEG quality {self.quality}" if self.quality else "not encoded"
        return f"a copy of {self.source} with {kind} of {self.shorter_side} pixels, {form}"

    def describe(self) -> dict:
        """As JSON takes it."""
        return dataclasses.asdict(self)

    def check(self, view: views.View) -> None:
        """Raises UserError for a view that the copy's images are too small for, or too little of.

        They would be enlarged, or cropped twice, and the net would see other images than the
        config says.
        """
        scales = {view.test_scale, *(view.train_scale if view.train == "scale" else ())}
        if view.size and max(scales) > self.shorter_side:
            raise UserError(
                f"config.view wants shorter sides up to {max(scales)}, but the data set is"
                f" {self.words}: prepare a larger copy, or train with the original"
            )
        if view.size and self.square and view.train == "scale" and not view.square:
            raise UserError(
                f"the data set is {self.words}: set config.view.square=True, or train with the"
                " original"
            )

    def check_scales(self, sides, whole: bool) -> None:
        """Raises UserError for tests that look at larger images, or at whole ones.

        sides: the shorter sides. whole: whether more than the central square is looked at.
        """
        if sides and max(sides) > self.shorter_side:
            raise UserError(
                f"the test wants shorter sides up to {max(sides)}, but the data set is"
                f" {self.words}: prepare a larger copy, or test with the original"
            )
        if whole and self.square:
            raise UserError(
                f"the test looks at whole images, but the data set is {self.words}: test with the"
                " original, or by config.evaluate.protocol=ten_crop"
            )


def shrink(data, side: int, square: bool) -> Image.Image:
    """An encoded image or uint8 array, with a shorter side of `side`; RGB, or L if it is grey.

    A smaller image keeps its size, unless its central square is wanted: that is enlarged.
    Raises decode.BadImage.
    """
    if not isinstance(data, bytes):
        picture = Image.fromarray(data[..., 0] if data.shape[-1] == 1 else data)
    else:
        picture = decode.Picture(data).image(side)
    width, height = picture.size
    if square:
        rows, columns = views.rescaled(height, width, side)
        top, left = views.central(rows, side), views.central(columns, side)
        y, x, h, w = views.square_at(height, width, side, top, left, side)
        return picture.resize((side, side), Image.Resampling.BICUBIC, (x, y, x + w, y + h))
    if min(width, height) <= side:
        return picture
    rows, columns = views.rescaled(height, width, side)
    return picture.resize((columns, rows), Image.Resampling.BICUBIC)


def _features(class_names, encoded: bool):
    import tensorflow_datasets as tfds

    shape = (None, None, 3)
    if encoded:
        image = tfds.features.Image(shape=shape, encoding_format="jpeg")
    else:
        image = tfds.features.Tensor(shape=shape, dtype=np.uint8, encoding="bytes")
    label = tfds.features.ClassLabel(names=list(class_names))
    return tfds.features.FeaturesDict({"image": image, "label": label})


def _content(picture: Image.Image, quality: int) -> io.BytesIO | np.ndarray:
    """A picture as `_features` takes it."""
    if not quality:
        return decode.pixels(picture)
    file = io.BytesIO()
    picture.convert("RGB").save(file, "JPEG", quality=quality)
    file.seek(0)
    return file


_shared: tuple = ()  # in a worker: the splits and the plan, which are sent once


def _share(*values) -> None:
    global _shared
    _shared = values


def _write_shard(key: str, path: pathlib.Path, first: int, last: int) -> tuple[int, list]:
    """Examples first ... last - 1 of a split; the number written, and words on what was skipped."""
    from array_record.python import array_record_module

    splits, plan = _shared
    split = splits[key]
    features = _features(split.info.class_names, bool(plan.quality))
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    skipped = []
    try:
        # group_size 1: random access reads one example, not a block of them. JPEGs gain nothing
        # from compression, and pixels shall cost nothing.
        options = "group_size:1,uncompressed"
        writer = array_record_module.ArrayRecordWriter(str(temporary), options)
        for i in range(first, last):
            data, label, name = split.read(i)
            try:
                picture = shrink(data, plan.shorter_side, plan.square)
            except decode.BadImage as error:
                if plan.on_bad_image == "error":
                    raise UserError(
                        f"cannot read {name} ({error}): replace or delete it, or leave out what"
                        " cannot be read by --on_bad_image=skip"
                    ) from error
                skipped.append(f"skipped {name} ({error})")
                continue
            example = {"image": _content(picture, plan.quality), "label": label}
            writer.write(features.serialize_example(example))
        writer.close()
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # array_record's own are RuntimeErrors
        raise UserError(
            f"cannot copy to {path} ({one_line(error)}): check the folders and the free space, then"
            " run the same command again"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return last - first - len(skipped), skipped


def name_of(source: str, side: int, square: bool, quality: int) -> str:
    """What the copy is called, as a TFDS set: imagenet2012_256, photos_256sq, photos_256_raw."""
    stem = re.sub(r"[^a-z0-9]+", "_", source.lower()).strip("_") or "images"
    stem = stem if stem[0].isalpha() else f"set_{stem}"
    return f"{stem}_{side}{'sq' * square}{'' if quality else '_raw'}"


def make(
    splits: dict,
    source: str,
    out: pathlib.Path,
    side: int,
    square: bool,
    quality: int,
    on_bad_image: str,
    processes: int,
) -> tuple[pathlib.Path, dict[str, int]]:
    """Copies the splits (name -> as `sources.load` gives); the folder, and examples by split.

    Raises UserError for what cannot be read or written, and where a copy was begun otherwise.
    """
    import tensorflow_datasets as tfds
    from array_record.python import array_record_module
    from tqdm import tqdm

    for key in splits:
        if not re.fullmatch(r"\w[\w.-]*", key):  # a part of the files' names
            raise UserError(f"{source} has a split called {key!r}, as no file can be: rename it")
    name = name_of(source, side, square, quality)
    folder = out / name / SET_VERSION
    examples = {key: len(split) for key, split in splits.items()}
    plan = Plan(source, side, square, quality, on_bad_image, examples)
    _begin(folder, plan)

    tasks, templates = [], {}
    for key, split in splits.items():
        count = -(-len(split) // SHARD)
        templates[key] = tfds.core.ShardedFileTemplate(
            data_dir=folder,
            template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            dataset_name=name,
            split=key,
            filetype_suffix="array_record",
        )
        for number in range(count):
            path = templates[key].sharded_filepath(shard_index=number, num_shards=count)
            first, last = number * SHARD, min((number + 1) * SHARD, len(split))
            tasks.append((key, pathlib.Path(path), first, last))
    lengths: dict = {key: {} for key in splits}
    bar = tqdm(total=sum(examples.values()), unit="image", disable=not sys.stderr.isatty())
    # Spawned: a fork would copy the locks that other threads hold.
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(processes, context, _share, (splits, plan))
    with bar, pool:
        waiting = {}
        for key, path, first, last in tasks:
            if path.exists():  # of a run before this
                reader = array_record_module.ArrayRecordReader(str(path))
                lengths[key][path] = reader.num_records()
                bar.update(last - first)
            else:
                waiting[pool.submit(_write_shard, key, path, first, last)] = key, path, last - first
        try:
            for done in concurrent.futures.as_completed(waiting):
                key, path, count = waiting[done]
                lengths[key][path], skipped = done.result()
                for line in skipped:
                    bar.write(line, file=sys.stderr)
                bar.update(count)
        except concurrent.futures.process.BrokenProcessPool as error:
            raise UserError(
                "a process that was writing ended (out of memory?): run the same command again,"
                " perhaps with fewer --processes"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)
    written = {key: sum(by_path.values()) for key, by_path in lengths.items()}
    _finish(folder, plan, splits, templates, lengths)
    return folder, written


def _begin(folder: pathlib.Path, plan: Plan) -> None:
    found = read(folder)
    # Shards that are there had no unreadable image, or left it out: either goes on as the other.
    if found and dataclasses.replace(found, on_bad_image=plan.on_bad_image) != plan:
        raise UserError(
            f"{folder} was begun as another copy ({found.words}, of {found.examples}):"
            " delete it, or choose another --out"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(plan.describe(), indent=2) + "\n"
        cache.write_whole(folder / FILE, lambda file: file.write(text.encode()))
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error}): choose another --out") from error


def _finish(folder, plan: Plan, splits, templates, lengths) -> None:
    """The metadata that make the files a TFDS set."""
    import tensorflow_datasets as tfds

    infos = [
        tfds.core.SplitInfo(
            name=key,
            shard_lengths=[by_path[path] for path in sorted(by_path)],
            num_bytes=sum(path.stat().st_size for path in by_path),
            filename_template=templates[key],
        )
        for key, by_path in lengths.items()
    ]
    names = next(iter(splits.values())).info.class_names
    tfds.folder_dataset.write_metadata(
        data_dir=str(folder),
        features=_features(names, bool(plan.quality)),
        split_infos=infos,
        description=f"{plan.words}, written by Canon.",
        check_data=False,
    )


def read(folder: pathlib.Path) -> Plan | None:
    """What the copy in a folder is of; None if it is no copy.

    Raises UserError for one that another version of Canon wrote.
    """
    path = folder / FILE
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read {path} ({one_line(error)}): make the copy again") from error
    if not isinstance(found, dict) or not _is_plan(found):
        raise UserError(
            f"{folder} was prepared by another version of Canon: make the copy again, with"
            " `python -m input_pipeline.prepare`"
        )
    return Plan(**found)


def _is_plan(found: dict) -> bool:
    """Whether it is what this version's `Plan.describe` gives."""
    fields = {field.name: field.type for field in dataclasses.fields(Plan)}
    kinds = {name: typing.get_origin(kind) or kind for name, kind in fields.items()}
    if {name: type(value) for name, value in found.items()} != kinds:
        return False
    counts = found["examples"].values()
    return found["version"] == VERSION and all(type(count) is int for count in counts)
