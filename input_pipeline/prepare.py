"""Prepares a set for training: downloads it through TFDS, or copies it with smaller images.

    python -m input_pipeline.prepare mnist [--data_dir=DIR]
    python -m input_pipeline.prepare imagenet2012 --shorter_side=256 [--data_dir=DIR] [--out=DIR]
    python -m input_pipeline.prepare PATH/TO/FOLDER --shorter_side=256 --out=DIR

The first needs a connection and the optional extra: pip install '.[prepare]' (TFDS's builders use
TensorFlow to encode images). For imagenet2012 it needs also ImageNet's own files, which only its
account holders get: ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar, put into
DIR/downloads/manual. The others copy a prepared set, or a folder of images (FOLDER/train,
FOLDER/val, or classes alone with --test_fraction), so that training decodes small images: train
with --config.dataset.name=imagenet2012_256 --config.dataset.data_dir=DIR. --square keeps central
squares, as AlexNet did; --raw keeps pixels, which take six times the space of JPEGs and no time
to decode, and calls the copy imagenet2012_256_raw. What is already there is left alone; what was
interrupted goes on.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

from errors import UserError, one_line


def main(argv: Sequence[str] | None = None) -> int:
    """Prepares one set; returns the exit status, after one line on standard error if not 0."""
    parser = argparse.ArgumentParser(
        prog="python -m input_pipeline.prepare", description=__doc__.splitlines()[0]
    )
    parser.add_argument("name", help="a TFDS set (mnist, imagenet2012, ...) or a folder of images")
    parser.add_argument("--data_dir", default="", help="where TFDS sets are (default: TFDS's rule)")
    copy = parser.add_argument_group("a copy with smaller images")
    copy.add_argument("--shorter_side", type=int, default=0, help="pixels")
    copy.add_argument("--square", action="store_true", help="only the central square")
    copy.add_argument("--quality", type=int, default=95, help="of the JPEGs, 1 to 100")
    copy.add_argument("--raw", action="store_true", help="bare pixels instead of JPEGs")
    copy.add_argument("--out", default="", help="where to put it (default: --data_dir)")
    copy.add_argument("--processes", type=int, default=0, help="(default: one a core)")
    copy.add_argument("--on_bad_image", choices=("error", "skip"), default="error")
    copy.add_argument("--test_fraction", type=float, default=0.0, help="of a folder without splits")
    arguments = parser.parse_args(argv)
    of_copies = ("square", "quality", "raw", "out", "processes", "on_bad_image", "test_fraction")
    given = [name for name in of_copies if getattr(arguments, name) != parser.get_default(name)]
    try:
        if given and not arguments.shorter_side:
            raise UserError(f"--{given[0]} is of a copy: give --shorter_side=PIXELS, too")
        print(_copy(arguments) if arguments.shorter_side else _download(arguments))
        return 0
    except UserError as error:
        print(f"prepare: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("prepare: interrupted: run the same command again", file=sys.stderr)
        return 130


def _copy(arguments) -> str:
    from configs.common import base
    from input_pipeline import copies, sources, stream, tfds_arrays

    if arguments.shorter_side < 1:
        raise UserError(f"--shorter_side={arguments.shorter_side}: must be 1 or more")
    if not 1 <= arguments.quality <= 100:
        raise UserError(f"--quality={arguments.quality}: must be in 1 .. 100")
    dataset = base().dataset
    dataset.data_dir, dataset.name = arguments.data_dir, arguments.name
    folder = pathlib.Path(arguments.name).expanduser()
    if folder.is_dir():
        dataset.name, dataset.data_dir = sources.FOLDER, str(folder)
        dataset.test_fraction = arguments.test_fraction
        source, names = folder.resolve().name, ["train", "test"]
    else:
        directory = sources.tfds_directory(dataset)
        source = arguments.name
        names = list(tfds_arrays.builder(source, directory).info.splits)
        if source in sources.UNLABELLED_TEST:
            names.remove("test")
    if not arguments.out and not arguments.data_dir:
        raise UserError("where shall the copy go? Give --out=DIR")
    splits = {name: sources.load(dataset, name) for name in names}
    made, written = copies.make(
        splits,
        source,
        pathlib.Path(arguments.out or arguments.data_dir).expanduser(),
        arguments.shorter_side,
        arguments.square,
        0 if arguments.raw else arguments.quality,
        arguments.on_bad_image,
        arguments.processes or stream.cores(),
    )
    parts = ", ".join(f"{count:,} {name}" for name, count in written.items())
    return (
        f"prepared: {made} ({parts}): train with --config.dataset.name={made.parent.name}"
        f" --config.dataset.data_dir={made.parents[1]}"
    )


def _download(arguments) -> str:
    import tensorflow_datasets as tfds

    from configs.common import base
    from input_pipeline import sources

    directory = pathlib.Path(arguments.data_dir).expanduser() if arguments.data_dir else None
    try:
        builder = tfds.builder(arguments.name, data_dir=directory, file_format="array_record")
    except Exception as error:  # also of names that it cannot parse
        if pathlib.Path(arguments.name).expanduser().is_dir():
            raise UserError(
                f"{arguments.name} is a folder, which training reads as it is; for a copy with"
                " smaller images give --shorter_side=PIXELS"
            ) from error
        if not isinstance(error, tfds.core.DatasetNotFoundError):
            raise UserError(f"cannot set up {arguments.name} ({one_line(error)})") from error
        raise UserError(
            f"{arguments.name!r} is neither a set in TFDS's catalogue nor a folder here: give the"
            " name or path of one"
        ) from error
    if pathlib.Path(builder.data_dir, "dataset_info.json").exists():
        return f"already there: {builder.data_dir}"
    dataset = base().dataset
    dataset.data_dir = arguments.data_dir
    manual = sources.tfds_root(dataset) / "downloads" / "manual"  # TFDS's rule
    _check_placed_by_hand(builder.name, manual)
    try:
        import tensorflow  # noqa: F401
    except ImportError as error:
        raise UserError(
            "preparing a set needs TensorFlow: pip install '.[prepare]', then run again"
        ) from error
    try:
        builder.download_and_prepare()
    except Exception as error:  # no network, no space, a server's error
        by_hand = builder.MANUAL_DOWNLOAD_INSTRUCTIONS
        if by_hand and not (manual.is_dir() and any(manual.iterdir())):
            raise UserError(
                f"{arguments.name} takes files that you put into {manual}, which is empty:"
                f" {' '.join(by_hand.split())[:400]}"
            ) from error
        raise UserError(
            f"could not download and prepare {arguments.name} ({one_line(error)}): check the"
            " connection and the free space, then run the same command again"
        ) from error
    return f"prepared: {builder.data_dir}"


# What the user has to place, of sets that TFDS does not download. Without this TFDS would prepare
# one split without the other, too, with which no run begins.
_IMAGENET = ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar")
BY_HAND = {"imagenet2012": _IMAGENET, "imagenet2012_subset": _IMAGENET}


def _check_placed_by_hand(name: str, manual: pathlib.Path) -> None:
    """Raises UserError where a set of BY_HAND lacks files. manual: where TFDS looks for them."""
    missing = [file for file in BY_HAND.get(name, ()) if not (manual / file).is_file()]
    if missing:
        raise UserError(
            f"{name} cannot be downloaded without an account at image-net.org: put"
            f" {' and '.join(missing)} from there into {manual}, then run again"
        )


if __name__ == "__main__":
    sys.exit(main())
