"""Makes a copy of a set with smaller images, so that training decodes less. TFDS reads the copy.

The copy is an `array_record` set NAME_256/1.0.0 of JPEGs with one shorter side, or of plain pixels
(NAME_256_raw), which take six times the space and need no decoding. Each shard is written
atomically, so that an interrupted copy can be resumed. The metadata are written last; without them
TFDS sees no set.
"""

import concurrent.futures
import dataclasses
import io
import itertools
import json
import multiprocessing
import pathlib
import re
import sys
from collections.abc import Iterable

import numpy as np
from PIL import Image

import command_line
from errors import UserError, reported
from input_pipeline import cache, copy_info, decode, views
from input_pipeline.copy_info import CopyInfo
from input_pipeline.split import Split
from input_pipeline.tfds_sets import PreparedSet

SET_VERSION = "1.0.0"
SHARD = 1024  # examples


@dataclasses.dataclass(frozen=True)
class _Shard:
    """The examples first ... last - 1 of the split called `split`, and the file for them."""

    split: str
    path: pathlib.Path
    first: int
    last: int


def shrink(data: bytes | np.ndarray, side: int, square: bool) -> Image.Image:
    """An image brought to a shorter side of `side`, in mode RGB, or L if it is grey.

    data: encoded, or uint8 [height, width, 1 or 3]. A smaller image keeps its size, except that a
    central square (`square`) is enlarged to `side`. Raises decode.BadImage.
    """
    if not isinstance(data, bytes):
        picture = Image.fromarray(data[..., 0] if data.shape[-1] == 1 else data)
    else:
        picture = decode.Picture(data).image(side)
    width, height = picture.size
    if square:
        rows, columns = views.rescaled(height, width, side)
        corner = views.central(rows, side), views.central(columns, side)
        y, x, h, w = views.square_at(height, width, side, corner, side)
        return picture.resize((side, side), Image.Resampling.BICUBIC, (x, y, x + w, y + h))
    if min(width, height) <= side:
        return picture
    rows, columns = views.rescaled(height, width, side)
    return picture.resize((columns, rows), Image.Resampling.BICUBIC)


def make(
    splits: dict[str, Split], copy: CopyInfo, out: pathlib.Path, processes: int
) -> tuple[pathlib.Path, dict[str, int]]:
    """Writes the copy into the folder `out`. Resumes an interrupted copy of the same images.

    splits: by name. Returns the copy's folder, and the number of examples by split.
    Raises UserError if an image cannot be read, the folder cannot be written or another copy was
    started there.
    """
    import tensorflow_datasets as tfds

    for name in splits:
        if not re.fullmatch(r"\w[\w.-]*", name):  # it becomes part of file names
            raise UserError(
                f"{copy.source} has a split called {name!r}, which cannot be part of a file name:"
                " rename it"
            )
    folder = out / copy.name / SET_VERSION
    class_names = next(iter(splits.values())).info.class_names
    _start(folder, copy, class_names)
    templates = {name: _template(folder, copy.name, name) for name in splits}
    shards = {name: _shards(templates[name], len(split)) for name, split in splits.items()}
    lengths = _write_shards(splits, copy, itertools.chain(*shards.values()), processes)
    infos = [
        tfds.core.SplitInfo(
            name=name,
            shard_lengths=[lengths[shard] for shard in shards[name]],
            num_bytes=sum(shard.path.stat().st_size for shard in shards[name]),
            filename_template=templates[name],
        )
        for name in splits
    ]
    tfds.folder_dataset.write_metadata(
        data_dir=str(folder),
        features=_features(class_names, copy.quality),
        split_infos=infos,
        description=f"{copy.description}, written by Canon.",
        check_data=False,
    )
    return folder, {info.name: info.num_examples for info in infos}


def _start(folder: pathlib.Path, copy: CopyInfo, class_names: tuple[str, ...]) -> None:
    """Writes the facts about the copy first, unless the folder holds another copy."""
    present = copy_info.read(folder) or copy
    advice = "delete it, or choose another --out"
    # Finished shards had no unreadable image, or left it out: both are right for either choice.
    settings = {"on_bad_image": copy.on_bad_image, "digest": copy.digest}
    if dataclasses.replace(present, **settings) != copy:
        raise UserError(
            f"{folder} already holds another copy ({present.description}, of {present.examples}):"
            f" {advice}"
        )
    if present.digest:
        is_same = present.digest == copy.digest
    else:  # written by an earlier version
        copy = dataclasses.replace(copy, digest="")
        is_finished = (folder / "dataset_info.json").exists()
        present_set = PreparedSet(copy.name, folder)
        is_same = not is_finished or present_set.dataset_info().class_names == class_names
    if not is_same:
        raise UserError(
            f"{folder} already holds a copy of other images, or of images that have changed since:"
            f" {advice}"
        )
    text = json.dumps(dataclasses.asdict(copy), indent=2) + "\n"
    with reported(f"cannot write to {folder}", "choose another --out", OSError):
        folder.mkdir(parents=True, exist_ok=True)
        cache.write_whole(folder / copy_info.FILE, lambda file: file.write(text.encode()))


def _template(folder: pathlib.Path, set_name: str, split: str):
    """TFDS's names of the shards of a split."""
    import tensorflow_datasets as tfds

    return tfds.core.ShardedFileTemplate(
        data_dir=folder, dataset_name=set_name, split=split, filetype_suffix="array_record"
    )


def _shards(template, examples: int) -> list[_Shard]:
    paths = template.sharded_filepaths(-(-examples // SHARD))
    return [
        _Shard(template.split, pathlib.Path(path), i * SHARD, min((i + 1) * SHARD, examples))
        for i, path in enumerate(paths)
    ]


def _write_shards(
    splits: dict[str, Split], copy: CopyInfo, shards: Iterable[_Shard], processes: int
) -> dict[_Shard, int]:
    """Writes the shards that do not exist yet. Returns the number of examples in each shard."""
    from array_record.python import array_record_module
    from tqdm import tqdm

    lengths, futures = {}, {}
    total = sum(map(len, splits.values()))
    bar = tqdm(total=total, unit="image", **command_line.bar_options())
    # Spawned: a fork would copy the locks that other threads hold.
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(processes, context, _keep_shared, (splits, copy))
    with bar, pool:
        for shard in shards:
            if shard.path.exists():  # written before an interruption
                reader = array_record_module.ArrayRecordReader(str(shard.path))
                lengths[shard] = reader.num_records()
                bar.update(shard.last - shard.first)
            else:
                futures[pool.submit(_write_shard, shard)] = shard
        try:
            for future in concurrent.futures.as_completed(futures):
                shard = futures[future]
                lengths[shard], messages = future.result()
                for message in messages:
                    bar.write(message, file=sys.stderr)
                bar.update(shard.last - shard.first)
        except concurrent.futures.process.BrokenProcessPool as error:
            raise UserError(
                "a writing process ended (out of memory?): run the same command again, perhaps"
                " with fewer --processes"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)
    return lengths


_shared: tuple = ()  # in a worker process: the splits and the CopyInfo, sent once


def _keep_shared(*values) -> None:
    global _shared
    _shared = values


def _write_shard(shard: _Shard) -> tuple[int, list[str]]:
    """Writes one shard. Returns its number of examples, and a message for each skipped image."""
    from array_record.python import array_record_module

    splits, copy = _shared
    split = splits[shard.split]
    features = _features(split.info.class_names, copy.quality)
    messages = []

    def write(file) -> None:
        # group_size 1: random access reads one example, not a block. JPEGs gain nothing from
        # compression, and pixels must need no decoding.
        options = "group_size:1,uncompressed"
        writer = array_record_module.ArrayRecordWriter(file.name, options)
        for i in range(shard.first, shard.last):
            data, label, name = split.read(i)
            try:
                picture = shrink(data, copy.shorter_side, copy.square)
            except decode.BadImage as error:
                if copy.on_bad_image == "error":
                    raise UserError(
                        f"cannot read {name} ({error}): leave out unreadable images with"
                        " --on_bad_image=skip, or replace or delete it and start a new copy"
                    ) from error
                messages.append(f"skipped {name} ({error})")
                continue
            example = {"image": _content(picture, copy.quality), "label": label}
            writer.write(features.serialize_example(example))
        writer.close()

    advice = "check the folders and the free space, then run the same command again"
    # array_record raises RuntimeError
    with reported(f"cannot copy to {shard.path}", advice, OSError, RuntimeError):
        cache.write_whole(shard.path, write)
    return shard.last - shard.first - len(messages), messages


def _features(class_names: tuple[str, ...], quality: int):
    """TFDS's description of an example."""
    import tensorflow_datasets as tfds

    shape = (None, None, 3)
    if quality:
        image = tfds.features.Image(shape=shape, encoding_format="jpeg")
    else:
        image = tfds.features.Tensor(shape=shape, dtype=np.uint8, encoding="bytes")
    label = tfds.features.ClassLabel(names=list(class_names))
    return tfds.features.FeaturesDict({"image": image, "label": label})


def _content(picture: Image.Image, quality: int) -> bytes | np.ndarray:
    """A picture as `_features` takes it."""
    if not quality:
        return decode.pixels(picture)
    file = io.BytesIO()
    picture.convert("RGB").save(file, "JPEG", quality=quality)
    return file.getvalue()
