"""MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100 from their authors' files, without TensorFlow.

`prepare` downloads the files, or takes them from a folder, checks them, and writes the set as TFDS
does: the same examples in the same order, in the same files. So training reads it as any other set.
"""

import contextlib
import dataclasses
import gzip
import hashlib
import http.client
import io
import pathlib
import pickle
import re
import sys
import tarfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from PIL import Image

from command_line import bar_options
from errors import UserError, reported

_CHUNK = 2**16  # bytes that are downloaded at a time
_TIMEOUT = 30  # seconds without an answer
_CIFAR = "https://www.cs.toronto.edu/~kriz/"
_CIFAR10 = "airplane,automobile,bird,cat,deer,dog,frog,horse,ship,truck"
_CLOTHES = "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot"

# MD5 of MNIST's unpacked files, computed from them.
_MNIST_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
# MD5 of CIFAR's files for Python, from torchvision 0.29.1, datasets/cifar.py.
_CIFAR10_MD5 = {
    "cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a",
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
_CIFAR100_MD5 = {
    "cifar-100-python.tar.gz": "eb9058c3a382ffc7106e4002c42a8d85",
    "train": "16019d7e3df5f24257cddd939b257f8d",
    "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    "meta": "7973b15100ade9c7d40fb424638fde48",
}

Arrays = tuple[np.ndarray, np.ndarray]  # images uint8 [n, height, width, channels]; labels [n]


@dataclasses.dataclass(frozen=True)
class Original:
    """A data set as its authors publish it. The values of SHA-256 are those of TFDS.

    url: of the folder of its files. files: {name: SHA-256} of the files to download. md5: {name:
    MD5} of unpacked files and of other archives. other_md5: {MD5: name of the set} of files of
    another set that have the same names. members: pattern of the names of files with data,
    unpacked. archives: pattern of the names of archives that hold them, in one of `folders`.
    version: of the set in TFDS. sizes: of the training and the test split.
    """

    url: str
    files: Mapping[str, str]
    md5: Mapping[str, str]
    other_md5: Mapping[str, str]
    members: str
    archives: str
    folders: tuple[str, ...]
    version: str
    sizes: tuple[int, int]
    class_names: tuple[str, ...] = ()  # empty: the files have them


def _idx(url: str, class_names: Sequence[str], *digests: str, is_mnist: bool) -> Original:
    return Original(
        url=url,
        files={f"{name}.gz": d for name, d in zip(_MNIST_MD5, digests, strict=True)},
        md5=_MNIST_MD5 if is_mnist else {},
        other_md5={} if is_mnist else dict.fromkeys(_MNIST_MD5.values(), "mnist"),
        members=r"(train|t10k)-(images|labels)[-.]idx[13]-ubyte",
        archives=r"(?!)",  # matches nothing
        folders=(),
        version="3.0.1",
        sizes=(60_000, 10_000),
        class_names=tuple(class_names),
    )


def _cifar(classes: int, class_names: Sequence[str], digest: str) -> Original:
    kinds = ("batches-bin", "batches-py") if classes == 10 else ("binary", "python")
    names = "data_batch_[1-5]|test_batch" if classes == 10 else "train|test|meta|fine_label_names"
    return Original(
        url=_CIFAR,
        files={f"cifar-{classes}-binary.tar.gz": digest},
        md5=_CIFAR10_MD5 if classes == 10 else _CIFAR100_MD5,
        other_md5={},
        members=rf"({names})(\.bin|\.txt)?",
        archives=rf"cifar-{classes}-(binary|python)\.tar\.gz",
        folders=tuple(f"cifar-{classes}-{kind}" for kind in kinds),
        version="3.0.2",
        sizes=(50_000, 10_000),
        class_names=tuple(class_names),
    )


ORIGINALS = {
    "mnist": _idx(
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        "0123456789",
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        is_mnist=True,
    ),
    "fashion_mnist": _idx(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        _CLOTHES.split(","),
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        is_mnist=False,
    ),
    "cifar10": _cifar(
        10,
        _CIFAR10.split(","),
        "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    ),
    "cifar100": _cifar(100, (), "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec"),
}


def prepare(
    name: str, root: pathlib.Path, source: pathlib.Path | None = None
) -> tuple[pathlib.Path, bool]:
    """Prepares a set of ORIGINALS in the folder of all sets, unless it is there.

    Returns the folder of the set, and whether it was prepared.

    source: a folder that holds the files, packed or unpacked; None: they are downloaded into
        ROOT/downloads/NAME, where files that are there already are kept.
    Raises UserError, one line, for files that are missing, damaged or of another set.
    """
    original = ORIGINALS[name]
    if source and not source.is_dir():
        raise UserError(f"there is no folder {source}: give the folder of the original files")
    directory = root / name / original.version
    if (directory / "dataset_info.json").exists():
        return directory, False
    if source is None:
        source = root / "downloads" / name
        for file, digest in original.files.items():
            _download(original.url + file, source / file, digest)
    files = dict(_members(original, source))
    _check_complete(original, files, source)
    splits, class_names = {}, original.class_names
    advice = f"give a folder with {' and '.join(original.files)}, as published"
    with reported(f"cannot read {name} in {source}", advice, *_DAMAGE):
        for split, size in zip(("train", "test"), original.sizes, strict=True):
            read = _read_cifar if original.folders else _read_idx
            images, labels = splits[split] = read(files, split)
            if not len(images) == len(labels) == size:
                raise ValueError(
                    f"{split} has {len(images):,} images and {len(labels):,} labels, not {size:,}"
                )
        class_names = class_names or _fine_label_names(files)
        if max(labels.max() for _, labels in splits.values()) >= len(class_names):
            raise ValueError(f"there are labels above {len(class_names) - 1}")
        _check_different(files)
    _write(name, root, splits, class_names)
    return directory, True


# Every error of damaged files, or files of another kind.
_DAMAGE = (ValueError, KeyError, OSError, EOFError, StopIteration, pickle.UnpicklingError)
_DAMAGE += (tarfile.TarError, zlib.error, IndexError, TypeError, AttributeError)


def _download(url: str, path: pathlib.Path, digest: str) -> None:
    """Downloads a file, or the rest of it. Raises UserError, one line, if that is not possible."""
    from tqdm import tqdm

    if path.exists():
        return
    part = path.with_name(path.name + ".part")
    advice = (
        f"check the connection and run the same command again, which continues; or put {path.name}"
        f" into {path.parent} by hand"
    )
    if part.exists() and _sha256(part) == digest:  # interrupted before it was renamed
        part.rename(path)
        return
    with reported(f"cannot download {url}", advice, OSError, http.client.HTTPException):
        part.parent.mkdir(parents=True, exist_ok=True)
        start = part.stat().st_size if part.exists() else 0
        request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
        with _opened(request, part) as response:
            start = start if response.status == 206 else 0  # 200: the server sends all of it
            total = start + int(response.headers.get("Content-Length", 0))
            options = {"desc": path.name, "total": total, "initial": start, **bar_options()}
            bar = tqdm(unit="B", unit_scale=True, **options)
            with part.open("ab" if start else "wb") as file, bar:
                while chunk := response.read(_CHUNK):
                    file.write(chunk)
                    bar.update(len(chunk))
        if part.stat().st_size < total:
            raise OSError(f"the connection ended after {part.stat().st_size:,} of {total:,} bytes")
    if _sha256(part) != digest:
        part.unlink()
        raise UserError(
            f"{url} is not the file that was published (its SHA-256 differs): run the same command"
            f" again, or put {path.name} into {path.parent} by hand"
        )
    part.rename(path)


def _opened(request: urllib.request.Request, part: pathlib.Path):
    """The server's response. A part that is as long as the file, or longer, is deleted."""
    try:
        return urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.unlink()
        raise


def _sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _members(original: Original, folder: pathlib.Path) -> Iterator[tuple[str, bytes]]:
    """(name, content) of the files with data in a folder and its archives, unpacked.

    Raises UserError if one cannot be read, or is not the published file.
    """
    folders = [folder, *(folder / name for name in original.folders)]
    paths = [path for place in folders if place.is_dir() for path in sorted(place.iterdir())]
    for path in filter(pathlib.Path.is_file, paths):
        name = path.name.removesuffix(".gz").replace(".idx", "-idx")
        with reported(f"cannot read {path}", "download it again", *_DAMAGE):
            if re.fullmatch(original.archives, path.name):
                _check(original, path, path.name, path.read_bytes())
                with tarfile.open(path) as archive:
                    for member in filter(tarfile.TarInfo.isfile, archive):
                        if re.fullmatch(original.members, name := pathlib.Path(member.name).name):
                            yield name, archive.extractfile(member).read()
            elif re.fullmatch(original.members, name):
                content = path.read_bytes()
                content = gzip.decompress(content) if path.suffix == ".gz" else content
                _check(original, path, name, content)
                yield name, content


def _check(original: Original, path: pathlib.Path, name: str, content: bytes) -> None:
    """Raises UserError if a file is known not to be the published one.

    name, content: of the unpacked file, or of an archive.
    """
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if md5 in original.other_md5:
        raise UserError(f"{path} belongs to {original.other_md5[md5]}: give another folder")
    expected, expected_md5 = original.files.get(path.name), original.md5.get(name)
    if not expected and not expected_md5:
        return  # there is nothing to compare with
    if md5 != expected_md5 and _sha256(path) != expected:
        raise UserError(
            f"{path} is not the file that was published (its checksum differs): delete it and"
            " download it again"
        )


def _check_complete(original: Original, files: Mapping[str, bytes], folder: pathlib.Path) -> None:
    """Raises UserError if a published file is missing. CIFAR's files have several forms."""
    missing = [name for name in original.files if name.removesuffix(".gz") not in files]
    if missing and not (original.folders and files):
        them = "it" if len(missing) == 1 else "them"
        raise UserError(f"{folder} has no {' and '.join(missing)}: put {them} there")


def _check_different(files: Mapping[str, bytes]) -> None:
    """Raises ValueError if two files have the same content."""
    names = {}
    for name, content in files.items():
        if names.setdefault(content, name) != name:
            raise ValueError(f"{names[content]} and {name} have the same content")


def _read_idx(files: Mapping[str, bytes], split: str) -> Arrays:
    """Images and labels in the format of MNIST's files."""
    arrays = []
    for kind, dimensions in (("images", 3), ("labels", 1)):
        prefix = {"train": "train", "test": "t10k"}[split]
        name = f"{prefix}-{kind}-idx{dimensions}-ubyte"
        content = files[name]
        magic, *shape = np.frombuffer(content[: 4 * (dimensions + 1)], ">u4").tolist()
        if magic != 0x800 + dimensions:
            raise ValueError(f"{name} is not in the IDX format")
        arrays.append(np.frombuffer(content, np.uint8, offset=4 * (dimensions + 1)).reshape(shape))
    images, labels = arrays
    return images.reshape(-1, 28, 28, 1), labels


def _read_cifar(files: Mapping[str, bytes], split: str) -> Arrays:
    """Images and labels in CIFAR's binary format, or in its Python format."""
    pattern = re.compile("test.*" if split == "test" else "(train|data_batch).*")
    names = sorted(filter(pattern.fullmatch, files))
    binary = [name for name in names if name.endswith(".bin")]
    batches = [_binary(files[name]) for name in binary] or [_pickled(files[name]) for name in names]
    pixels, labels = map(np.concatenate, zip(*batches, strict=True))
    return np.ascontiguousarray(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)), labels


def _binary(content: bytes) -> Arrays:
    """Pixels [n, 3072] and labels [n]. CIFAR-100 has two labels: of a group, and of the class."""
    labels = 1 if len(content) % 3073 == 0 else 2
    rows = np.frombuffer(content, np.uint8).reshape(-1, labels + 3072)
    return rows[:, labels:], rows[:, labels - 1]


def _pickled(content: bytes) -> Arrays:
    """As `_binary`."""
    batch = _Unpickler(io.BytesIO(content), encoding="latin1").load()
    labels = batch["fine_labels" if "fine_labels" in batch else "labels"]
    return np.asarray(batch["data"], np.uint8), np.asarray(labels, np.uint8)


class _Unpickler(pickle.Unpickler):
    """Reads NumPy's arrays, and refuses every other class: it could run any code."""

    def find_class(self, module: str, name: str):
        if (module.partition(".")[0], name) not in {
            *(("numpy", "ndarray"), ("numpy", "dtype"), ("numpy", "_reconstruct")),
        }:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, which is no array")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def _fine_label_names(files: Mapping[str, bytes]) -> tuple[str, ...]:
    """The class names of CIFAR-100."""
    if "meta" in files:
        return tuple(
            _Unpickler(io.BytesIO(files["meta"]), encoding="latin1").load()["fine_label_names"]
        )
    return tuple(files["fine_label_names.txt"].decode().split())


def _write(
    name: str, root: pathlib.Path, splits: Mapping[str, Arrays], class_names: Sequence[str]
) -> None:
    """Writes a set in TFDS's format, in which the number of an example decides its place."""
    import tensorflow_datasets as tfds

    def png(image: np.ndarray) -> io.BytesIO:  # TFDS encodes arrays with TensorFlow
        stream = io.BytesIO()
        Image.fromarray(image.squeeze()).save(stream, "PNG")
        stream.seek(0)
        return stream

    def examples(images: np.ndarray, labels: np.ndarray) -> Iterator[tuple[int, dict]]:
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield i, {"image": png(image), "label": int(label)}

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version(ORIGINALS[name].version)

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=splits["train"][0].shape[1:]),
                "label": tfds.features.ClassLabel(names=class_names),
            }
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                supervised_keys=("image", "label"),
            )

        def _split_generators(self, dl_manager):
            return {split: examples(*arrays) for split, arrays in splits.items()}

        def _generate_examples(self):
            raise NotImplementedError  # TFDS demands this method, and does not call it here

    Builder.name = name
    Builder.url_infos = {}  # else TFDS looks for a list of checksums beside this file
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    advice = "check the free space and the permissions, then run the same command again"
    # TFDS prints that it downloads.
    quiet = contextlib.redirect_stdout(io.StringIO())
    with reported(f"cannot write {name} in {root}", advice, OSError), quiet:
        Builder(data_dir=root, file_format="array_record").download_and_prepare()
