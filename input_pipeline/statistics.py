"""Mean image, mean colour and principal colours of a set, computed once and kept beside it.

    python -m input_pipeline.statistics cifar10 [--data_dir=DIR] [--split=train]
    python -m input_pipeline.statistics imagenet2012 --scale=256 --square    # as AlexNet's
    python -m input_pipeline.statistics PATH/TO/FOLDER --scale=256 --size=224

prints and stores what training with config.preprocess.mean or config.augment.lighting would
compute at its start. Of images that differ in size, --scale and --size or --square say what
counts: the shorter side scaled to so many pixels, then the central square.
"""

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from errors import UserError, one_line
from input_pipeline import cache, sources
from input_pipeline.split import ArraySplit

_CHUNK = 2**22  # pixel values that are added up at once: 32 MB in float64


@dataclasses.dataclass(frozen=True, eq=False)
class Statistics:
    """Of `examples` images [h, w, c] of one size.

    image: their mean, float32 [h, w, c] in 0..255. mean: of all pixels, float64 [c] in 0..255.
    eigenvalues, eigenvectors: of the covariance (over all pixels, divided by their number) of
    the channels in 0..1; float64 [c], falling, and [c, c], a column each, whose component of
    the largest magnitude is positive.
    """

    image: np.ndarray
    mean: np.ndarray
    eigenvalues: np.ndarray
    eigenvectors: np.ndarray
    examples: int

    def save(self, path: pathlib.Path) -> None:
        """Writes a .npz, whole or not at all. Raises OSError."""
        cache.write_npz(path, **{k: np.asarray(v) for k, v in vars(self).items()})


def from_arrays(fields: dict[str, np.ndarray]) -> Statistics:
    """Statistics from arrays that were read. Raises ValueError for others than `Statistics` has."""
    kinds = {name: (value.ndim, value.dtype.kind) for name, value in fields.items()}
    wanted = {"image": (3, "f"), "mean": (1, "f"), "eigenvalues": (1, "f")}
    if kinds != wanted | {"eigenvectors": (2, "f"), "examples": (0, "i")}:
        raise ValueError("its arrays are none of a set's statistics")
    channels = fields["image"].shape[2]
    shapes = [fields[name].shape for name in ("mean", "eigenvalues", "eigenvectors")]
    if shapes != [(channels,), (channels,), (channels, channels)]:
        raise ValueError("its arrays do not fit together")
    return Statistics(**fields | {"examples": int(fields["examples"])})


def load(path: pathlib.Path) -> Statistics:
    """What `save` wrote. Raises UserError for a missing, damaged or other file."""
    try:
        return from_arrays(cache.read_npz(path))
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot read the statistics {path} ({one_line(error)}): delete it, and they are"
            " computed again"
        ) from error


def compute(images: Iterable[np.ndarray], count: int, title: str) -> Statistics:
    """The statistics of `count` images, uint8 [h, w, c], in one pass.

    Sums are of whole numbers below 2^53 (for a million images of 256x256 too), hence exact in
    float64 and the same in any order. Raises UserError if the sizes differ or there is no image.
    """
    from tqdm import tqdm

    total, products, examples = 0.0, 0.0, 0
    with tqdm(total=count, desc=title, disable=not sys.stderr.isatty(), leave=False) as bar:
        for chunk in _chunks(images):
            values = chunk.astype(np.float64)
            pixels = values.reshape(-1, values.shape[-1])
            total = total + values.sum(axis=0)
            products = products + pixels.T @ pixels
            examples += len(chunk)
            bar.update(len(chunk))
    if not examples:
        raise UserError(f"{title}: there is no image")
    pixels = examples * total.shape[0] * total.shape[1]
    mean = total.sum(axis=(0, 1)) / pixels
    covariance = (products / pixels - np.outer(mean, mean)) / 255**2
    eigenvalues, eigenvectors = (found[..., ::-1] for found in np.linalg.eigh(covariance))
    largest = np.abs(eigenvectors).argmax(axis=0)
    eigenvectors = eigenvectors * np.sign(eigenvectors[largest, range(len(mean))])
    return Statistics(
        image=(total / examples).astype(np.float32),
        mean=mean,
        eigenvalues=eigenvalues.clip(0),  # rounding can leave -1e-17 of colours in a plane
        eigenvectors=eigenvectors,
        examples=examples,
    )


def _chunks(images: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The images in stacks of about _CHUNK values."""
    chunk, shape = [], None
    for image in images:
        if image.shape != (shape or image.shape):
            raise UserError(
                f"the images differ in size ({'x'.join(map(str, shape))} and"
                f" {'x'.join(map(str, image.shape))}): set config.view.size"
            )
        shape = image.shape
        chunk.append(image)
        if len(chunk) * image.size >= _CHUNK:
            yield np.stack(chunk)
            chunk = []
    if chunk:
        yield np.stack(chunk)


def find_or_compute(
    dataset,
    view=None,
    load_split: Callable | None = None,
    workers: Callable | None = None,
) -> Statistics:
    """The statistics of dataset.train_split as `view` cuts it: stored ones, or computed and stored.

    They are kept in the set's folder, or in the cache where that cannot be written. Stored ones
    of a set whose files have changed since are left alone. load_split: gives the split to a
    caller that may hold it already. workers: see `stream.Reading`. Raises UserError if the split
    cannot be loaded or its images differ in size.
    """
    places = _places(dataset, view)
    for path in places:
        if path.exists():
            try:
                return load(path)
            except UserError:
                print(f"the statistics {path} are damaged: made again", file=sys.stderr)
    split = load_split() if load_split else sources.load(dataset, dataset.train_split)
    title = f"statistics of {dataset.name} {dataset.train_split}, once"
    statistics = compute(_images(dataset, split, view, workers), len(split), title)
    failure = None
    for path in places:
        try:
            statistics.save(path)
            break
        except OSError as error:
            failure = error
    else:
        if failure:
            print(f"could not store the statistics ({failure}): going on", file=sys.stderr)
    return statistics


def _counted(view) -> tuple[int, int]:
    """(scale, side): the shorter side is scaled to one, and the central square of the other counts.

    (0, 0): images as they come. Of a view that takes its crops from a central square (AlexNet),
    all of that square counts. Not of the view: its interpolation, which a mean does not show.
    """
    if view is None or not view.size:
        return 0, 0
    return view.test_scale, view.test_scale if view.square else view.size


def _images(dataset, split, view, workers) -> Iterable[np.ndarray]:
    """The images that count, uint8 [h, w, c], all of one size."""
    scale, side = _counted(view)
    if not side:
        if isinstance(split, ArraySplit):
            return split.images
        raise UserError(f"the images of {dataset.name} differ in size: set config.view.size")
    from input_pipeline import stream, views

    view = views.View.from_section(view)
    counted = {"size": side, "test_scale": scale, "train": "center", "square": False}
    view = dataclasses.replace(view, interpolation="bilinear", **counted)
    reading = stream.Reading(view, dataset.on_bad_image, workers)
    return (
        image
        for batch in stream.eval_batches(split, reading, batch_size=64, devices=1)
        for image in batch["image"][batch["mask"] > 0]
    )


def _places(dataset, view) -> list[pathlib.Path]:
    """Where statistics may be stored, the best place first; the embedded set has nowhere."""
    directory = sources.directory(dataset)
    if directory is None:
        return []
    counted = _counted(view)
    words = ("statistics", dataset.train_split, *(str(size) for size in counted if size))
    # The key does not hold the folder: statistics may move with the set.
    key = (dataset.name, dataset.train_split, counted)
    if dataset.test_fraction:
        key += (dataset.test_fraction,)
    name = cache.file_name(directory, words, key)
    return [directory / name, cache.root(dataset.cache_dir) / "statistics" / name]


def main(argv: Sequence[str] | None = None) -> int:
    """Prints and stores one set's statistics; returns the exit status."""
    from configs.common import base

    parser = argparse.ArgumentParser(
        prog="python -m input_pipeline.statistics", description=__doc__.splitlines()[0]
    )
    parser.add_argument("name", help="a data set (cifar10, imagenet2012, ...) or an image folder")
    parser.add_argument("--data_dir", default="", help="where it is (default: TFDS's rule)")
    parser.add_argument("--split", default="train")
    parser.add_argument("--scale", type=int, default=256, help="of the shorter side, in pixels")
    parser.add_argument(
        "--size", type=int, default=0, help="of the central square (0: images as they come)"
    )
    parser.add_argument(
        "--square", action="store_true", help="the central square of the whole shorter side"
    )
    parser.add_argument("--test_fraction", type=float, default=0.0, help="of an undivided folder")
    arguments = parser.parse_args(argv)
    dataset, view = base().dataset, base().view
    dataset.update(
        {"name": arguments.name, "data_dir": arguments.data_dir, "train_split": arguments.split}
    )
    if pathlib.Path(arguments.name).expanduser().is_dir():
        dataset.update({"name": sources.FOLDER, "data_dir": arguments.name})
        dataset.test_fraction = arguments.test_fraction
    view.size = arguments.size or (arguments.scale if arguments.square else 0)
    view.square, view.test_scale = arguments.square, arguments.scale
    try:
        found = find_or_compute(dataset, view)
        stored = [path for path in _places(dataset, view) if path.exists()]
    except UserError as error:
        print(f"statistics: {error}", file=sys.stderr)
        return error.exit_code

    def row(values) -> str:
        return "  ".join(f"{value:9.4f}" for value in values)

    size = "x".join(map(str, found.image.shape))
    print(f"{arguments.name} {arguments.split}: {found.examples:,} images of {size}")
    print(f"mean, of 0..255        {row(found.mean)}")
    print(f"eigenvalues, of 0..1   {row(found.eigenvalues)}")
    for i, vector in enumerate(found.eigenvectors):
        print(f"{'' if i else 'eigenvectors, columns':22} {row(vector)}")
    if stored:
        print(f"stored in {stored[0]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
