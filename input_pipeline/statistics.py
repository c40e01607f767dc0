"""Mean image, mean colour and principal colours of a set, computed once and stored with the set.

    python -m input_pipeline.statistics cifar10 [--data_dir=DIR] [--split=train]
    python -m input_pipeline.statistics imagenet2012 --scale=256 --square    # as AlexNet
    python -m input_pipeline.statistics PATH/TO/FOLDER --scale=256 --size=224

prints and stores what training with config.preprocess.mean or config.augment.lighting would
compute at its start. If images differ in size, the shorter side is scaled to --scale pixels, and
the central square is measured: of --size pixels or, with --square, of the whole shorter side.
"""

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

import command_line
from command_line import expand
from errors import UserError, printable, reported
from input_pipeline import cache, sources, stream
from input_pipeline.reading import Reading
from input_pipeline.split import ArraySplit, Split
from input_pipeline.views import View

_CHUNK = 2**22  # pixel values that are added up at once: 32 MB in float64


@dataclasses.dataclass(frozen=True, eq=False)
class Statistics:
    """Statistics of `examples` images [h, w, c] of one size.

    image: the mean image, float32 [h, w, c] in 0..255. mean: of all pixels, float64 [c] in 0..255.
    eigenvalues, eigenvectors: of the channels' covariance over all pixels, in 0..1 units (divided
    by the number of pixels): float64 [c], descending, and [c, c], one per column. The largest
    component of each eigenvector is positive.
    """

    image: np.ndarray
    mean: np.ndarray
    eigenvalues: np.ndarray
    eigenvectors: np.ndarray
    examples: int

    def arrays(self) -> dict[str, np.ndarray]:
        """The fields as arrays, to be stored."""
        return {name: np.asarray(value) for name, value in vars(self).items()}

    def save(self, path: pathlib.Path) -> None:
        """Writes a .npz file atomically. Raises OSError."""
        cache.write_npz(path, **self.arrays())


def from_arrays(arrays: dict[str, np.ndarray]) -> Statistics:
    """Statistics from stored arrays. Raises ValueError for names, types or shapes that differ."""
    kinds = {name: (value.ndim, value.dtype.kind) for name, value in arrays.items()}
    expected = {"image": (3, "f"), "mean": (1, "f"), "eigenvalues": (1, "f")}
    if kinds != expected | {"eigenvectors": (2, "f"), "examples": (0, "i")}:
        raise ValueError("its arrays are not the statistics of a set")
    channels = arrays["image"].shape[2]
    shapes = [arrays[name].shape for name in ("mean", "eigenvalues", "eigenvectors")]
    if shapes != [(channels,), (channels,), (channels, channels)]:
        raise ValueError("its arrays differ in their number of channels")
    if not all(np.isfinite(value).all() for value in arrays.values()):
        raise ValueError("its values are not finite")
    return Statistics(**arrays | {"examples": int(arrays["examples"])})


def load(path: pathlib.Path) -> Statistics:
    """Reads a file that `save` wrote. Raises UserError if it is missing or damaged."""
    advice = "delete the file to have them computed again"
    with reported(f"cannot read the statistics {path}", advice, OSError, ValueError):
        return from_arrays(cache.read_npz(path))


def compute(images: Iterable[np.ndarray], count: int, title: str) -> Statistics:
    """The statistics of `count` images, uint8 [h, w, c], in one pass. title: of the progress bar.

    Sums are of whole numbers below 2^53 (even for a million images of 256x256), hence exact in
    float64 and equal in any order. Raises UserError if sizes differ or there is no image.
    """
    from tqdm import tqdm

    options = {"desc": title, "leave": False, **command_line.bar_options()}
    total, products, examples = 0.0, 0.0, 0
    with tqdm(total=count, **options) as bar:
        for chunk in _chunks(images):
            values = chunk.astype(np.float64)
            pixels = values.reshape(-1, values.shape[-1])
            total = total + values.sum(axis=0)
            products = products + pixels.T @ pixels
            examples += len(chunk)
            bar.update(len(chunk))
    if not examples:
        raise UserError(f"{title}: there is no image: check the data set")
    pixels = examples * total.shape[0] * total.shape[1]
    mean = total.sum(axis=(0, 1)) / pixels
    covariance = (products / pixels - np.outer(mean, mean)) / 255**2
    eigenvalues, eigenvectors = (values[..., ::-1] for values in np.linalg.eigh(covariance))
    largest = np.abs(eigenvectors).argmax(axis=0)
    eigenvectors = eigenvectors * np.sign(eigenvectors[largest, range(len(mean))])
    return Statistics(
        image=(total / examples).astype(np.float32),
        mean=mean,
        eigenvalues=eigenvalues.clip(0),  # rounding can give -1e-17 for colours in a plane
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
    load_split: Callable[[], Split] | None = None,
    workers: Callable | None = None,
) -> Statistics:
    """The stored statistics of dataset.train_split as `view` cuts it, or computed and stored ones.

    dataset, view: sections of a config. Statistics are stored in the set's folder, or in the cache
    if the folder is read-only. If the set's files have changed, they are computed again.
    load_split: gives the split, if the caller may have loaded it. workers: see `reading.Reading`.
    Raises UserError if the split cannot be loaded or its images differ in size.
    """

    def make() -> dict[str, np.ndarray]:
        split = load_split() if load_split else sources.load(dataset, dataset.train_split)
        title = f"statistics of {dataset.name} {dataset.train_split}, once"
        return compute(_images(dataset, split, view, workers), len(split), title).arrays()

    return cache.load_or_make(_paths(dataset, view), from_arrays, make)


def _measured_sizes(view) -> tuple[int, int]:
    """(scale, side): the shorter side is scaled to `scale`; the central square `side` is measured.

    (0, 0): whole images as they are. If a view cuts from a central square (AlexNet), that whole
    square is measured. The interpolation does not matter: a mean does not show it.
    """
    if view is None or not view.size:
        return 0, 0
    return view.test_scale, view.test_scale if view.square else view.size


def _images(dataset, split: Split, view, workers: Callable | None) -> Iterable[np.ndarray]:
    """The measured images, uint8 [h, w, c], all of one size."""
    scale, side = _measured_sizes(view)
    if not side:
        if isinstance(split, ArraySplit):
            return split.images
        raise UserError(f"the images of {dataset.name} differ in size: set config.view.size")
    measured = {"size": side, "test_scale": scale, "train": "center", "square": False}
    view = dataclasses.replace(View.from_section(view), interpolation="bilinear", **measured)
    reading = Reading(view, dataset.on_bad_image, workers)
    return (
        image
        for batch in stream.eval_batches(split, reading, batch_size=64, devices=1)
        for image in batch["image"][batch["mask"] > 0]
    )


def _paths(dataset, view) -> list[pathlib.Path]:
    """The possible files of the statistics, the best first; none for the embedded set."""
    directory = sources.directory(dataset)
    if directory is None:
        return []
    sizes = _measured_sizes(view)
    words = ("statistics", dataset.train_split, *(str(size) for size in sizes if size))
    # The key does not contain the folder: statistics may be moved together with the set.
    key = (dataset.name, dataset.train_split, sizes)
    if dataset.test_fraction:
        key += (dataset.test_fraction,)
    if dataset.train_per_class:
        key += ("train_per_class", dataset.train_per_class)
    if dataset.division:
        key += ("division", dataset.division)
    name = cache.file_name(directory, words, key)
    return [directory / name, cache.root(dataset.cache_dir) / "statistics" / name]


def main(argv: Sequence[str] | None = None) -> int:
    """Prints and stores one set's statistics. Returns the exit status."""
    from configs.schema import base

    parser = argparse.ArgumentParser(
        prog="python -m input_pipeline.statistics", description=__doc__.splitlines()[0]
    )
    add = parser.add_argument
    add("name", help="a data set (cifar10, imagenet2012, ...) or a folder of images")
    add("--data_dir", default="", help="folder of TFDS sets (default: TFDS's rule)")
    add("--split", default="train")
    add("--scale", type=int, default=256, help="of the shorter side, in pixels")
    add("--size", type=int, default=0, help="of the central square (0: images as they are)")
    add("--square", action="store_true", help="the central square of the whole shorter side")
    add("--test_fraction", type=float, default=0.0, help="of a folder without splits")
    arguments = parser.parse_args(argv)
    dataset, view = base().dataset, base().view
    dataset.update(name=arguments.name, data_dir=arguments.data_dir, train_split=arguments.split)
    view.size = arguments.size or (arguments.scale if arguments.square else 0)
    view.square, view.test_scale = arguments.square, arguments.scale
    try:
        if expand(arguments.name).is_dir():
            dataset.update(name=sources.FOLDER, data_dir=arguments.name)
            dataset.test_fraction = arguments.test_fraction
        elif arguments.test_fraction:
            raise UserError("--test_fraction is for a folder of images: leave it out")
        if arguments.size < 0 or arguments.scale < 1:
            raise UserError("--size and --scale are numbers of pixels: 0 or more, 1 or more")
        if arguments.size > arguments.scale:
            raise UserError(f"--size={arguments.size}: must be at most --scale={arguments.scale}")
        statistics = find_or_compute(dataset, view)
        stored = [path for path in _paths(dataset, view) if path.exists()]
    except (UserError, OSError) as error:
        message = printable(str(error)).replace("--config.dataset.test_", "--test_")
        print(f"statistics: {message}", file=sys.stderr)
        return UserError.exit_code

    def row(values) -> str:
        return "  ".join(f"{value:9.4f}" for value in values)

    size = "x".join(map(str, statistics.image.shape))
    print(f"{arguments.name} {arguments.split}: {statistics.examples:,} images of {size}")
    print(f"mean, of 0..255        {row(statistics.mean)}")
    print(f"eigenvalues, of 0..1   {row(statistics.eigenvalues)}")
    for i, vector in enumerate(statistics.eigenvectors):
        print(f"{'' if i else 'eigenvectors, columns':22} {row(vector)}")
    if stored:
        print(f"stored in {stored[0]}")
    return 0


if __name__ == "__main__":
    command_line.begin()
    sys.exit(main())
