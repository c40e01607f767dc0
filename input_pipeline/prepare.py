"""Prepares a set for training: downloads it, or copies it with smaller images.

    python -m input_pipeline.prepare mnist [--data_dir=DIR] [--from=DIR]
    python -m input_pipeline.prepare imagenette/160px [--data_dir=DIR]
    python -m input_pipeline.prepare imagenet2012 --shorter_side=256 [--data_dir=DIR] [--out=DIR]
    python -m input_pipeline.prepare PATH/TO/FOLDER --shorter_side=256 --out=DIR

mnist, fashion_mnist, cifar10 and cifar100 are made from their authors' files, which are downloaded,
or taken from the folder --from. Every other set comes through TFDS. That needs pip install
'.[prepare]', because TFDS encodes images with TensorFlow. imagenet2012 also needs ImageNet's own
files, for its account holders: put ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar into
DIR/downloads/manual.

The last two copy a prepared set or a folder of images (FOLDER/train and FOLDER/val, or only class
folders with --test_fraction), so that training decodes small images. Train on the copy with
--config.dataset.name=imagenet2012_256 --config.dataset.data_dir=DIR. --square keeps central
squares, as AlexNet did. --raw stores pixels instead of JPEGs: six times the space, no decoding; the
copy is called imagenet2012_256_raw. An interrupted command can be run again: it keeps what is done.
"""

import argparse
import pathlib
import shlex
import sys
from collections.abc import Sequence

import command_line
from command_line import expand
from errors import UserError, one_line, printable, reported
from input_pipeline import originals

# Files that the user has to download. Given only one of them, TFDS would prepare one split only,
# which training refuses.
_IMAGENET = ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar")
_MANUAL_FILES = {"imagenet2012": _IMAGENET, "imagenet2012_subset": _IMAGENET}
# A recipe for each set that is made from its authors' files.
_RECIPES = {
    "mnist": "configs/lenet5.py:mnist",
    "fashion_mnist": "configs/lenet5.py:mnist --config.dataset.name=fashion_mnist",
    "cifar10": "configs/resnet_cifar10.py:20",
    "cifar100": "configs/resnet_cifar10.py:20 --config.dataset.name=cifar100",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Prepares one set. Returns the exit status, after one line on standard error if not 0."""
    parser = argparse.ArgumentParser(
        prog="python -m input_pipeline.prepare", description=__doc__.splitlines()[0]
    )
    parser.add_argument("name", help="a TFDS set (mnist, imagenet2012, ...) or a folder of images")
    parser.add_argument("--data_dir", default="", help="folder of TFDS sets (default: TFDS's rule)")
    parser.add_argument("--from", dest="source", default="", help="folder of the original files")
    group = parser.add_argument_group("a copy with smaller images")
    group.add_argument("--shorter_side", type=int, default=0, help="pixels")
    copy_options = [
        group.add_argument("--square", action="store_true", help="keep only the central square"),
        group.add_argument("--quality", type=int, default=95, help="of the JPEGs, 1 to 100"),
        group.add_argument("--raw", action="store_true", help="store pixels instead of JPEGs"),
        group.add_argument("--out", default="", help="folder of the copy (default: --data_dir)"),
        group.add_argument("--processes", type=int, default=0, help="(default: one per core)"),
        group.add_argument("--on_bad_image", choices=("error", "skip"), default="error"),
        group.add_argument(
            "--test_fraction", type=float, default=0.0, help="of a folder without splits"
        ),
    ]
    arguments = parser.parse_args(argv)
    given = [o.dest for o in copy_options if getattr(arguments, o.dest) != o.default]
    try:
        if given and not arguments.shorter_side:
            raise UserError(f"--{given[0]} applies to a copy: also give --shorter_side=PIXELS")
        is_original = arguments.name in originals.ORIGINALS
        if arguments.source and arguments.shorter_side:
            raise UserError(
                "--from and --shorter_side do not go together: prepare the set with --from, then"
                " copy it with --shorter_side"
            )
        if arguments.source and not is_original:
            raise UserError(f"--from is for {', '.join(originals.ORIGINALS)}: leave it out")
        if arguments.shorter_side:
            print(_copy(arguments, given))
        else:
            print(_from_original(arguments) if is_original else _download(arguments))
        return 0
    except (UserError, OSError) as error:
        message = printable(str(error)).replace("--config.dataset.test_", "--test_")
        print(f"prepare: {message}", file=sys.stderr)
        return UserError.exit_code
    except KeyboardInterrupt:
        print("prepare: interrupted: run the same command again", file=sys.stderr)
        return 130


def _copy(arguments, given: Sequence[str]) -> str:
    """Makes a copy with smaller images. given: names of its options. Returns the line to print."""
    from input_pipeline import cache, copies, stream
    from input_pipeline.copy_info import CopyInfo
    from input_pipeline.folder import ImageFolder
    from input_pipeline.tfds_sets import PreparedSet

    if arguments.shorter_side < 1:
        raise UserError(f"--shorter_side={arguments.shorter_side}: must be 1 or more")
    if not 1 <= arguments.quality <= 100:
        raise UserError(f"--quality={arguments.quality}: must be from 1 to 100")
    if arguments.processes < 0:
        raise UserError(f"--processes={arguments.processes}: must be 0 or more")
    if arguments.raw and "quality" in given:
        raise UserError("--raw stores no JPEGs: leave --quality out")
    folder = expand(arguments.name)
    if arguments.test_fraction and not folder.is_dir():
        raise UserError("--test_fraction is for a folder of images: leave it out")
    if folder.is_dir():
        name, names = folder.resolve().name, ["train", "test"]
        source = ImageFolder(str(folder), test_fraction=arguments.test_fraction)
    else:
        source = PreparedSet.find(arguments.name, arguments.data_dir)
        name, names = arguments.name, source.labelled_splits()
    if not arguments.out and not arguments.data_dir:
        raise UserError("the copy needs a folder: give --out=DIR")
    out = expand(arguments.out or arguments.data_dir)
    directory = folder if folder.is_dir() else source.directory
    if out.resolve().is_relative_to(directory.resolve()):
        raise UserError(
            f"{out} is inside the folder that is copied ({directory}): choose another --out"
        )
    splits = {split: source.load(split) for split in names}
    if folder.is_dir():
        files = [(f"{n}/{id}", *facts) for n, s in splits.items() for id, *facts in s.files()]
    else:
        files = cache.sources(source.directory)
    copy = CopyInfo(
        name,
        arguments.shorter_side,
        arguments.square,
        0 if arguments.raw else arguments.quality,
        arguments.on_bad_image,
        {name: len(split) for name, split in splits.items()},
        digest=cache.digest(splits[names[0]].info.class_names, files),
    )
    directory, counts = copies.make(splits, copy, out, arguments.processes or stream.cores())
    examples = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    return (
        f"prepared: {directory} ({examples}): train with"
        f" --config.dataset.name={directory.parent.name}"
        f" --config.dataset.data_dir={directory.parents[1]}"
    )


def _from_original(arguments) -> str:
    """Prepares a set from its authors' files. Returns the lines to print."""
    from input_pipeline import tfds_sets

    root = tfds_sets.root(arguments.data_dir)
    source = expand(arguments.source) if arguments.source else None
    directory, is_new = originals.prepare(arguments.name, root, source)
    data_dir = f" --config.dataset.data_dir={shlex.quote(str(root))}" if arguments.data_dir else ""
    unused = " (--from was not used)" if source and not is_new else ""
    return (
        f"{'prepared' if is_new else 'already prepared'}{unused}: {directory}: train with\n"
        f"    python main.py --config={_RECIPES[arguments.name]} --workdir=runs/{arguments.name}"
        f"{data_dir}"
    )


def _download(arguments) -> str:
    """Downloads and prepares a set through TFDS. Returns the line to print."""
    from input_pipeline import tfds_sets

    builder = _builder(arguments)
    if pathlib.Path(builder.data_dir, "dataset_info.json").exists():
        return f"already prepared: {builder.data_dir}"
    manual = tfds_sets.root(arguments.data_dir) / "downloads" / "manual"  # TFDS's rule
    missing = [f for f in _MANUAL_FILES.get(builder.name, ()) if not (manual / f).is_file()]
    if missing:
        raise UserError(
            f"{builder.name} cannot be downloaded without an account at image-net.org: download"
            f" {' and '.join(missing)} by hand into {manual}, then run the same command again"
        )
    try:
        import tensorflow  # noqa: F401
    except ImportError as error:
        raise UserError(
            "preparing a set needs TensorFlow: pip install '.[prepare]', then run again"
        ) from error
    advice = "check the connection and the free space, then run the same command again"
    with reported(f"could not download and prepare {arguments.name}", advice):
        try:
            builder.download_and_prepare()
        except Exception as error:
            instructions = builder.MANUAL_DOWNLOAD_INSTRUCTIONS
            if not instructions or (manual.is_dir() and any(manual.iterdir())):
                raise
            raise UserError(
                f"{arguments.name} needs files that you put into {manual}, which is empty:"
                f" {' '.join(instructions.split())[:400]}"
            ) from error
    return f"prepared: {builder.data_dir}"


def _builder(arguments):
    """TFDS's builder of the set. Raises UserError if TFDS has no such set."""
    import tensorflow_datasets as tfds

    directory = expand(arguments.data_dir) if arguments.data_dir else None
    try:
        return tfds.builder(arguments.name, data_dir=directory, file_format="array_record")
    except Exception as error:  # also for names that TFDS cannot parse
        if expand(arguments.name).is_dir():
            raise UserError(
                f"{arguments.name} is a folder, which training reads directly; for a copy with"
                " smaller images give --shorter_side=PIXELS"
            ) from error
        if not isinstance(error, tfds.core.DatasetNotFoundError):
            raise UserError(
                f"cannot set up {arguments.name} ({one_line(error)}): check the name"
            ) from error
        raise UserError(
            f"{arguments.name!r} is neither a set in TFDS's catalogue nor a folder: check the"
            " name or path"
        ) from error


if __name__ == "__main__":
    command_line.begin()
    sys.exit(main())
