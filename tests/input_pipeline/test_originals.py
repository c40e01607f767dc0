"""Data sets from their authors' files: formats, downloads, and what is refused."""

import dataclasses
import gzip
import hashlib
import http.server
import io
import pickle
import struct
import tarfile
import threading
from typing import ClassVar

import numpy as np
import pytest

from errors import UserError
from input_pipeline import originals, prepare
from input_pipeline.tfds_sets import PreparedSet

ORIGINALS, SIZES = originals.ORIGINALS, (20, 10)
DAMAGED_GZIP = gzip.compress(b"x")[:10] + b"\x07"  # no such type of block


@pytest.fixture(autouse=True)
def small_sets(monkeypatch):
    """The sets have 20 and 10 examples, of which no checksums are known."""
    small = {
        name: dataclasses.replace(o, sizes=SIZES, files=dict.fromkeys(o.files), md5={})
        for name, o in originals.ORIGINALS.items()
    }
    monkeypatch.setattr(originals, "ORIGINALS", small)


def examples(side, channels, classes):
    """{split: (images uint8, labels uint8)} of two small splits."""
    rng = np.random.default_rng(0)
    return {
        split: (
            rng.integers(0, 256, (size, side, side, channels), np.uint8),
            rng.integers(0, classes, size, np.uint8),
        )
        for split, size in zip(("train", "test"), SIZES, strict=True)
    }


def idx_files(sets):
    """The four files of MNIST, unpacked."""
    files = {}
    for prefix, (images, labels) in zip(("train", "t10k"), sets.values(), strict=True):
        header = np.array([0x803, len(images), 28, 28], ">u4").tobytes()
        files[f"{prefix}-images-idx3-ubyte"] = header + images.tobytes()
        header = np.array([0x801, len(labels)], ">u4").tobytes()
        files[f"{prefix}-labels-idx1-ubyte"] = header + labels.tobytes()
    return files


def rows(images):
    """CIFAR's rows: all of red, of green, of blue."""
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


class _Python2(pickle._Pickler):
    """Stores bytes as Python 2 stored strings, in which form CIFAR has its pixels."""

    def save_bytes(self, content):
        self.write(pickle.BINSTRING + struct.pack("<i", len(content)) + content)
        self.memoize(content)

    dispatch: ClassVar = {**pickle._Pickler.dispatch, bytes: save_bytes}


def pickled(value):
    stream = io.BytesIO()
    _Python2(stream, protocol=2).dump(value)
    return stream.getvalue().replace(b"numpy._core", b"numpy.core")


def cifar_files(sets, kind, classes):
    """The files of CIFAR-10 (two training batches) or CIFAR-100 in one of its two formats."""
    (images, labels), (test_images, test_labels) = sets.values()
    if classes == 10:
        batches = {
            "data_batch_1": (images[:10], labels[:10]),
            "data_batch_2": (images[10:], labels[10:]),
            "test_batch": (test_images, test_labels),
        }
    else:
        batches = {"train": (images, labels), "test": (test_images, test_labels)}
    names = [f"class_{i}" for i in range(classes)]
    if kind == "binary":
        files = {}
        for name, (images, labels) in batches.items():
            coarse = [labels // 5] if classes == 100 else []
            content = np.column_stack([*coarse, labels, rows(images)]).astype(np.uint8)
            files[f"{name}.bin"] = content.tobytes()
        return files | {"fine_label_names.txt": "\n".join(names).encode()}
    key = "labels" if classes == 10 else "fine_labels"
    files = {
        name: pickled({"data": rows(images), key: labels.tolist()})
        for name, (images, labels) in batches.items()
    }
    return files | {"meta": pickled({"fine_label_names": names})}


def store(folder, files, pack=False):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        name, content = (f"{name}.gz", gzip.compress(content)) if pack else (name, content)
        (folder / name).write_bytes(content)


def archive(files, folder):
    """The bytes of a .tar.gz with the files in a folder."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def check(name, root, cache, sets):
    """The prepared set holds the examples of `sets`, in TFDS's order."""
    prepared = PreparedSet.find(name, str(root))
    for split, (images, labels) in sets.items():
        actual = prepared.load(split, str(cache))
        order = [int((images == image).all((1, 2, 3)).argmax()) for image in actual.images]
        assert sorted(order) == list(range(len(labels)))
        np.testing.assert_array_equal(actual.images, images[order])
        np.testing.assert_array_equal(actual.labels, labels[order])
    return prepared.dataset_info()


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
@pytest.mark.parametrize("pack", [True, False])
def test_idx_files_are_read_packed_and_unpacked(name, pack, tmp_path, capsys):
    sets = examples(28, 1, 10)
    store(tmp_path / "files", idx_files(sets), pack)
    flags = (f"--from={tmp_path / 'files'}", f"--data_dir={tmp_path}")
    assert prepare.main([name, *flags]) == 0
    info = check(name, tmp_path, tmp_path / "cache", sets)
    assert info.image_shape == (28, 28, 1) and len(info.class_names) == 10
    message = capsys.readouterr().out
    assert "main.py --config=configs/lenet5.py:mnist" in message
    assert f"--config.dataset.data_dir={tmp_path}" in message
    assert prepare.main([name, *flags]) == 0
    assert "already prepared (--from was not used)" in capsys.readouterr().out


@pytest.mark.parametrize("classes", [10, 100])
@pytest.mark.parametrize("kind", ["binary", "python"])
@pytest.mark.parametrize("pack", [True, False])
def test_both_formats_of_cifar_are_read_packed_and_unpacked(classes, kind, pack, tmp_path):
    sets = examples(32, 3, classes)
    files = cifar_files(sets, kind, classes)
    folder = {10: {"binary": "cifar-10-batches-bin", "python": "cifar-10-batches-py"}}.get(classes)
    folder = folder[kind] if folder else f"cifar-100-{kind}"
    if pack:
        content = archive(files, folder)
        store(tmp_path / "files", {f"cifar-{classes}-{kind}.tar.gz": content})
    else:
        store(tmp_path / "files" / folder, files)
    originals.prepare(f"cifar{classes}", tmp_path, tmp_path / "files")
    info = check(f"cifar{classes}", tmp_path, tmp_path / "cache", sets)
    assert info.image_shape == (32, 32, 3)
    expected = "airplane" if classes == 10 else "class_0"
    assert info.class_names[0] == expected and len(info.class_names) == classes


class Attack:
    def __reduce__(self):
        return exec, ("raise SystemExit('code of the file was run')",)


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("mnist", lambda files: files.pop("t10k-labels-idx1-ubyte"), "t10k-labels-idx1-ubyte"),
        ("mnist", lambda files: files.pop("t10k-labels-idx1-ubyte"), "ubyte.gz: put it there"),
        ("mnist", lambda files: files.clear(), "has no train-images-idx3-ubyte.gz and"),
        ("cifar10", lambda files: files.clear(), "no cifar-10-binary.tar.gz: put it there"),
        (
            "mnist",
            lambda files: files.update({"train-images-idx3-ubyte": b"\0\0\x08\x03\0"}),
            "cannot read mnist",
        ),
        (
            "mnist",
            lambda files: files.update(
                {"train-labels-idx1-ubyte": files["t10k-labels-idx1-ubyte"]}
            ),
            r"train has 20 images and 10 labels, not 20",
        ),
        (
            "mnist",
            lambda files: files.update({"train-images-idx3-ubyte.gz": b"<html>"}),
            "<html>|gz",
        ),
        (
            "mnist",
            lambda files: files.update({"train-images-idx3-ubyte.gz": DAMAGED_GZIP}),
            "invalid block type",
        ),
        ("cifar10", lambda files: files.update(data_batch_2=b"\x80"), "cannot read cifar10"),
        ("cifar10", lambda files: files.update(test_batch=pickle.dumps(Attack())), "no array"),
        ("cifar10", lambda files: files.pop("data_batch_2"), "train has 10 images"),
        (
            "cifar10",
            lambda files: files.update(data_batch_2=files["data_batch_1"]),
            "data_batch_1 and data_batch_2 have the same content",
        ),
    ],
)
def test_files_that_are_missing_or_damaged_are_one_line(name, change, message, tmp_path, capsys):
    is_idx = name == "mnist"
    sets = examples(28, 1, 10) if is_idx else examples(32, 3, 10)
    files = idx_files(sets) if is_idx else cifar_files(sets, "python", 10)
    change(files)
    store(tmp_path / "files", files)
    assert prepare.main([name, f"--from={tmp_path / 'files'}", f"--data_dir={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("prepare: ")
    with pytest.raises(UserError, match=message):
        originals.prepare(name, tmp_path, tmp_path / "files")
    assert not (tmp_path / name).exists()


def md5(content):
    return hashlib.md5(content).hexdigest()


def replace_fields(monkeypatch, name, **fields):
    new = dataclasses.replace(originals.ORIGINALS[name], **fields)
    monkeypatch.setitem(originals.ORIGINALS, name, new)


@pytest.mark.parametrize("pack", [True, False])
def test_files_of_mnist_are_compared_with_their_checksums(pack, monkeypatch, tmp_path):
    """Files that were packed again have the published content. Names may have a point."""
    files = idx_files(examples(28, 1, 10))
    digests = {name: md5(content) for name, content in files.items()}
    replace_fields(
        monkeypatch, "mnist", md5=digests, files={f"{name}.gz": "0" * 64 for name in files}
    )
    other = dict.fromkeys(digests.values(), "mnist")
    replace_fields(monkeypatch, "fashion_mnist", other_md5=other)
    renamed = {name.replace("-idx", ".idx"): content for name, content in files.items()}
    store(tmp_path / "mnist files", files if pack else renamed, pack)
    originals.prepare("mnist", tmp_path, tmp_path / "mnist files")
    with pytest.raises(UserError, match=r"ubyte.* belongs to mnist"):
        originals.prepare("fashion_mnist", tmp_path, tmp_path / "mnist files")

    files["t10k-labels-idx1-ubyte"] = files["t10k-labels-idx1-ubyte"][:-1] + b"\x0a"
    store(tmp_path / "others", files, pack)
    with pytest.raises(UserError, match=r"t10k-labels.* is not the file that was published"):
        originals.prepare("mnist", tmp_path / "new", tmp_path / "others")


def test_packed_files_of_fashion_mnist_are_the_published_ones(monkeypatch, tmp_path):
    store(tmp_path / "files", idx_files(examples(28, 1, 10)), pack=True)
    packed = {path.name: path.read_bytes() for path in (tmp_path / "files").iterdir()}
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in packed.items()}
    replace_fields(monkeypatch, "fashion_mnist", files=digests)
    originals.prepare("fashion_mnist", tmp_path, tmp_path / "files")
    replace_fields(monkeypatch, "fashion_mnist", files=dict.fromkeys(digests, "0" * 64))
    with pytest.raises(UserError, match="is not the file that was published"):
        originals.prepare("fashion_mnist", tmp_path / "new", tmp_path / "files")


@pytest.mark.parametrize("pack", [True, False])
def test_files_of_cifar_are_compared_with_their_checksums(pack, monkeypatch, tmp_path):
    files = cifar_files(examples(32, 3, 10), "python", 10)
    if pack:
        files = {"cifar-10-python.tar.gz": archive(files, "cifar-10-batches-py")}
    store(tmp_path / "files", files)
    digests = {name: md5(content) for name, content in files.items()}
    replace_fields(monkeypatch, "cifar10", md5=digests)
    originals.prepare("cifar10", tmp_path, tmp_path / "files")
    name = "cifar-10-python.tar.gz" if pack else "data_batch_2"
    replace_fields(monkeypatch, "cifar10", md5=digests | {name: "0" * 32})
    with pytest.raises(UserError, match=f"{name} is not the file that was published"):
        originals.prepare("cifar10", tmp_path / "new", tmp_path / "files")


@pytest.fixture
def server(monkeypatch):
    """A server of the files in `server.files`, which sends at most `server.most` bytes of each."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            content = server.files.get(self.path[1:])
            if content is None:
                self.send_error(404)
                return
            start = int(self.headers.get("Range", "bytes=0-")[6:-1])
            server.starts.append(start)
            if start >= len(content):
                self.send_error(416)
                return
            self.send_response(206 if "Range" in self.headers else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            self.wfile.write(content[start : start + server.most])

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.files, server.most, server.starts = {}, 10**9, []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def serve(server, monkeypatch, files):
    """Serves the files as those of MNIST."""
    server.files = {f"{name}.gz": gzip.compress(content) for name, content in files.items()}
    digests = {n: hashlib.sha256(content).hexdigest() for n, content in server.files.items()}
    url = f"http://127.0.0.1:{server.server_port}/"
    replace_fields(monkeypatch, "mnist", url=url, files=digests)


def test_an_interrupted_download_continues(server, monkeypatch, tmp_path, capsys):
    sets = examples(28, 1, 10)
    serve(server, monkeypatch, idx_files(sets))
    server.most = 1000
    assert prepare.main(["mnist", f"--data_dir={tmp_path}"]) == 2
    assert "the connection ended after 1,000 of" in capsys.readouterr().err
    server.most = 10**9
    assert prepare.main(["mnist", f"--data_dir={tmp_path}"]) == 0
    assert server.starts == [0, 1000, 0, 0, 0]
    check("mnist", tmp_path, tmp_path / "cache", sets)


def test_a_download_that_was_complete_is_not_asked_for_again(server, monkeypatch, tmp_path):
    serve(server, monkeypatch, idx_files(examples(28, 1, 10)))
    folder = tmp_path / "downloads" / "mnist"
    folder.mkdir(parents=True)
    for name, content in server.files.items():
        (folder / f"{name}.part").write_bytes(content)
    originals.prepare("mnist", tmp_path)
    assert server.starts == []


def test_a_part_of_full_length_with_other_content_is_downloaded_anew(server, monkeypatch, tmp_path):
    """As after a power failure, with zeros at the end."""
    serve(server, monkeypatch, idx_files(examples(28, 1, 10)))
    folder = tmp_path / "downloads" / "mnist"
    folder.mkdir(parents=True)
    name, content = next(iter(server.files.items()))
    (folder / f"{name}.part").write_bytes(bytes(len(content)))
    with pytest.raises(UserError, match="run the same command again"):
        originals.prepare("mnist", tmp_path)
    originals.prepare("mnist", tmp_path)
    assert (folder / name).read_bytes() == content


def test_a_download_with_another_checksum_is_deleted(server, monkeypatch, tmp_path):
    serve(server, monkeypatch, idx_files(examples(28, 1, 10)))
    server.files["t10k-images-idx3-ubyte.gz"] = b"a page about the weather"
    with pytest.raises(UserError, match="is not the file that was published"):
        originals.prepare("mnist", tmp_path)
    assert not any((tmp_path / "downloads" / "mnist").glob("t10k-images*"))


@pytest.mark.parametrize("fault", ["404", "no server"])
def test_without_the_file_the_place_for_it_is_named(fault, server, monkeypatch, tmp_path):
    serve(server, monkeypatch, idx_files(examples(28, 1, 10)))
    if fault == "404":
        server.files = {}
    else:
        replace_fields(monkeypatch, "mnist", url="http://127.0.0.1:9/")
    place = str(tmp_path / "downloads" / "mnist")
    with pytest.raises(UserError, match=f"train-images-idx3-ubyte.gz into {place} by hand"):
        originals.prepare("mnist", tmp_path)


def test_from_is_only_for_these_sets(tmp_path, capsys):
    assert prepare.main(["imagenet2012", f"--from={tmp_path}"]) == 2
    assert "--from is for mnist, fashion_mnist, cifar10, cifar100" in capsys.readouterr().err
    assert prepare.main(["mnist", f"--from={tmp_path}", "--shorter_side=20"]) == 2
    assert "--from and --shorter_side do not go together" in capsys.readouterr().err
    for place in (tmp_path / "missing", __file__):
        assert prepare.main(["mnist", f"--from={place}", f"--data_dir={tmp_path}"]) == 2
        assert f"there is no folder {place}" in capsys.readouterr().err


def test_original_files_have_the_sizes_of_their_papers():
    sizes = {name: original.sizes for name, original in ORIGINALS.items()}
    mnist, cifar = (60_000, 10_000), (50_000, 10_000)
    expected = {"mnist": mnist, "fashion_mnist": mnist, "cifar10": cifar, "cifar100": cifar}
    assert sizes == expected
