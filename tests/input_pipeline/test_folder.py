"""Folders of images as splits: files, order, splits, and refusals."""

import math
import os
import pickle
import threading

import numpy as np
import pytest
from PIL import Image

from errors import UserError
from input_pipeline import decode, sources
from input_pipeline.folder import ImageFolder
from input_pipeline.split import Info, random_examples


def fill(root, tree):
    """Empty files: {"train/cat": ["1.jpg", ...], ...}."""
    for where, names in tree.items():
        (root / where).mkdir(parents=True, exist_ok=True)
        for name in names:
            (root / where / name).parent.mkdir(parents=True, exist_ok=True)
            (root / where / name).write_bytes(name.encode())
    return root


def dataset(root, fraction=0.0, train="train"):
    return ImageFolder(str(root), train, fraction)


TREE = {
    "train/dog": ["b.jpg", "a.PNG", "more/c.WebP", "more/deeper/d.gif"],
    "train/cat": ["10.jpeg", "2.BMP"],
    "val/cat": ["v.jpg"],
    "val/dog": ["w.jpg", "x.jpg"],
}


def names(files):
    return [os.path.relpath(files.path(i), files.root) for i in range(len(files))]


def test_classes_labels_and_order(tmp_path):
    files = dataset(fill(tmp_path, TREE)).load("train")
    assert files.info == Info("folder", (0, 0, 3), ("cat", "dog"))
    assert dataset(tmp_path).dataset_info() == files.info
    assert names(files) == [
        "cat/10.jpeg",
        "cat/2.BMP",
        "dog/a.PNG",
        "dog/b.jpg",
        "dog/more/c.WebP",
        "dog/more/deeper/d.gif",
    ]
    assert files.labels.tolist() == [0, 0, 1, 1, 1, 1]
    assert files.labels.dtype == np.int32
    content, label, name = files.read(4)
    assert (content, label) == (b"more/c.WebP", 1)
    assert name == f"{tmp_path}/train/dog/more/c.WebP (class dog)"
    assert files.read(np.int64(0))[0] == b"10.jpeg"
    for i in (-1, 6):
        with pytest.raises(IndexError):
            files.read(i)


def test_labels_follow_the_order_of_a_network(tmp_path):
    files = dataset(fill(tmp_path, TREE)).load("train")
    turned = sources.with_classes(files, "net.pth", ["dog", "cat"])
    assert turned.info.class_names == ("dog", "cat")
    assert turned.labels.tolist() == [1, 1, 0, 0, 0, 0]
    assert turned.labels.dtype == np.int32
    assert turned.read(0) == (b"10.jpeg", 1, f"{tmp_path}/train/cat/10.jpeg (class cat)")
    with pytest.raises(UserError, match=r"^net\.pth was trained on other classes \(2: dog, fox\)"):
        sources.with_classes(files, "net.pth", ["dog", "fox"])


def test_a_file_is_read_unchanged(tmp_path):
    fill(tmp_path, {"train/a": [], "train/b": ["x.png"]})
    picture = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    Image.fromarray(picture).save(tmp_path / "train/a/1.png")
    content, label, _ = dataset(tmp_path).load("train").read(0)
    np.testing.assert_array_equal(decode.decode(content), picture)
    assert label == 0


def test_hidden_and_other_files_are_ignored(tmp_path):
    fill(tmp_path, TREE)
    expected = names(dataset(tmp_path).load("train"))
    more = {
        "train/cat": [".hidden.jpg", "notes.txt", "jpg", ".git/x.jpg", "a.jpg.part"],
        "train": ["readme.md", "stray.jpg"],
        "train/.cache": ["y.jpg"],
    }
    assert names(dataset(fill(tmp_path, more)).load("train")) == expected


@pytest.mark.parametrize("where", ["test", "val", "validation"])
def test_the_test_split_may_have_three_names(where, tmp_path):
    fill(tmp_path, {"train/a": ["1.jpg"], "train/b": ["2.jpg"], f"{where}/b": ["3.jpg"]})
    files = dataset(tmp_path).load("test")
    assert names(files) == ["b/3.jpg"]
    assert files.labels.tolist() == [1]  # the training part numbers the classes


def test_a_test_folder_without_classes_does_not_hide_the_validation_folder(tmp_path):
    fill(tmp_path, {**TREE, "test": ["unlabelled.jpg"]})
    assert dataset(tmp_path).load("test").root.endswith("val")
    fill(tmp_path, {"test/cat": ["t.jpg"]})
    assert dataset(tmp_path).load("test").root.endswith("test")


def test_other_split_names_are_folders(tmp_path):
    fill(tmp_path, {"fit/a": ["1.jpg"], "fit/b": ["2.jpg"], "odd/a": ["3.jpg"]})
    where = dataset(tmp_path, train="fit")
    assert names(where.load("fit")) == ["a/1.jpg", "b/2.jpg"]
    assert names(where.load("odd")) == ["a/3.jpg"]


# ------------------------------------------------------------------------------ one folder


def one_folder(root, sizes):
    return fill(root, {c: [f"{i}.jpg" for i in range(n)] for c, n in sizes.items()})


def test_a_fraction_splits_each_class(tmp_path):
    sizes = {"a": 1000, "b": 59, "c": 12, "d": 13}
    where = dataset(one_folder(tmp_path, sizes), 0.2)
    train, test = (where.load(split) for split in ("train", "test"))
    assert not set(names(train)) & set(names(test))
    assert len(train) + len(test) == sum(sizes.values())
    assert np.bincount(test.labels).tolist() == [200, 12, 2, 3]  # 11.8, 2.4, 2.6 rounded
    assert train.info == test.info
    assert train.labels.tolist() == sorted(train.labels)


def test_one_more_file_moves_at_most_one_other(tmp_path):
    where = dataset(one_folder(tmp_path, {"a": 60, "b": 60}), 0.3)
    before = first = set(names(where.load("test")))
    for count in range(61, 80):
        old = {f"{c}/{i}.jpg" for c, n in (("a", count - 1), ("b", 60)) for i in range(n)}
        one_folder(tmp_path, {"a": count, "b": 60})
        after = set(names(where.load("test")))
        assert len(after & old ^ before) <= 1
        before = after
    assert {name for name in before if name.startswith("b")} == {n for n in first if n[0] == "b"}
    copy = one_folder(tmp_path / "elsewhere", {"a": 60, "b": 60})
    assert set(names(dataset(copy, 0.3).load("test"))) == first


def per_class(root, **counts):
    where = ImageFolder(str(root), **counts)
    return [set(names(where.load(split))) for split in ("train", "test")]


def test_a_number_of_each_class_is_for_training_and_a_part_of_the_others_for_the_test(tmp_path):
    one_folder(tmp_path, {"a": 100, "b": 6})
    train, test = per_class(tmp_path, train_per_class=5)
    assert sorted(name[0] for name in train) == ["a"] * 5 + ["b"] * 5
    assert len(test) == 96 and not train & test
    same, fewer = per_class(tmp_path, train_per_class=5, test_per_class=30)
    assert same == train and fewer < test and len(fewer) == 31
    with pytest.raises(UserError, match=r"class b has 6 images.* lower .*train_per_class \(now 6"):
        per_class(tmp_path, train_per_class=6)
    one_folder(tmp_path, {"c": 1})
    with pytest.raises(UserError, match=r"class c has only one image.* add images, or remove"):
        per_class(tmp_path, train_per_class=1)


def test_random_examples_of_a_folder_are_of_all_classes(tmp_path):
    train = ImageFolder(str(one_folder(tmp_path, {"a": 20, "b": 20})), train_per_class=5).load(
        "train"
    )
    part = random_examples(train, 5, seed=0)
    assert len(part) == 5 and {part.read(i)[1] for i in range(5)} == {0, 1}
    assert [part.id(i) for i in range(5)] != [train.id(i) for i in range(5)]
    assert {part.id(i) for i in range(5)} < {train.id(i) for i in range(len(train))}
    assert len(random_examples(train, 1000, seed=0)) == len(train)


@pytest.mark.parametrize("kind", [{"train_per_class": 50}, {"test_fraction": 0.5}])
def test_divisions_are_independent(kind, tmp_path):
    one_folder(tmp_path, {"a": 100, "b": 100})
    parts = [per_class(tmp_path, division=number, **kind)[0] for number in range(3)]
    assert per_class(tmp_path, **kind)[0] == parts[0]
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert 30 < len(parts[first] & parts[second]) < 70  # half of 100, deviation 5


@pytest.mark.parametrize("fraction", [1e-9, 0.5, 1 - 1e-9])
def test_both_splits_contain_every_class_with_two_files(fraction, tmp_path):
    where = dataset(one_folder(tmp_path, {"a": 2, "b": 9, "single": 1}), fraction)
    train, test = (where.load(split) for split in ("train", "test"))
    assert set(train.labels) == {0, 1, 2}
    assert set(test.labels) == {0, 1}
    assert len(train) + len(test) == 12


def test_a_class_may_be_called_train(tmp_path):
    where = dataset(one_folder(tmp_path, {"train": 20, "plane": 20}), 0.5)
    assert where.load("train").info.class_names == ("plane", "train")


# ------------------------------------------------------------------------------ links, workers


def test_links_are_followed_and_cycles_end(tmp_path):
    fill(tmp_path, {**TREE, "store": ["s.jpg"]})
    cat = tmp_path / "train" / "cat"
    os.symlink(tmp_path / "store" / "s.jpg", cat / "link.jpg")
    os.symlink(tmp_path / "store", cat / "linked")
    os.symlink(cat, cat / "again")
    os.symlink(tmp_path, cat / "all")
    os.symlink("itself", cat / "itself")
    os.symlink(tmp_path / "train" / "dog", tmp_path / "train" / "hound")
    files = dataset(tmp_path).load("train")
    actual = names(files)
    assert files.info.class_names == ("cat", "dog", "hound")
    assert {"cat/link.jpg", "cat/10.jpeg", "hound/b.jpg"} <= set(actual)
    real = [os.path.realpath(files.path(i)) for i in np.flatnonzero(files.labels == 0)]
    assert real.count(str(tmp_path / "store" / "s.jpg")) == 2  # the link and the linked folder
    assert real.count(str(cat / "2.BMP")) == 1


def test_a_broken_link_is_reported_by_name(tmp_path):
    fill(tmp_path, TREE)
    os.symlink(tmp_path / "gone.jpg", tmp_path / "train" / "cat" / "1.jpg")
    files = dataset(tmp_path).load("train")
    with pytest.raises(FileNotFoundError, match=r"cat/1\.jpg"):
        files.read(0)


def test_unusual_file_names(tmp_path):
    fill(tmp_path, {"train/ä ö": ["ü\n.jpg", "日本.jpg"], "train/b": ["x.jpg"]})
    with open(os.fsencode(tmp_path / "train" / "b") + b"/\xff.jpg", "wb") as file:
        file.write(b"not UTF-8")
    files = dataset(tmp_path).load("train")
    assert sorted(files.read(i)[0] for i in range(4)) == sorted(
        [b"not UTF-8", b"x.jpg", "ü\n.jpg".encode(), "日本.jpg".encode()]
    )


def test_a_split_can_be_pickled_and_read_by_several_threads(tmp_path):
    fill(tmp_path, {f"train/{c}": [f"{i}.jpg" for i in range(50)] for c in "abc"})
    files = dataset(tmp_path).load("train")
    copy = pickle.loads(pickle.dumps(files))
    expected = [files.read(i) for i in range(150)]
    assert [copy.read(i) for i in range(150)] == expected
    actual = {}

    def work(start):
        for i in range(start, 150, 4):
            actual[i] = files.read(i)

    threads = [threading.Thread(target=work, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [actual[i] for i in range(150)] == expected


# ------------------------------------------------------------------------------ refusals


def refused(where, split, match):
    with pytest.raises(UserError, match=match) as caught:
        where.load(split)
    assert "\n" not in str(caught.value)


def test_missing_folders_are_reported(tmp_path):
    refused(dataset(""), "train", "no folder of images is given")
    refused(dataset(tmp_path / "no"), "train", "no folder .*no: ")
    (tmp_path / "file").write_text("")
    refused(dataset(tmp_path / "file"), "train", "no folder")
    refused(dataset(tmp_path), "train", "has no folder train: .*DIR/train/CLASS")
    refused(dataset(tmp_path, 0.1), "train", "no class folders")
    (tmp_path / "train").mkdir()
    refused(dataset(tmp_path), "train", "no class folders")
    fill(tmp_path, {"train": ["1.jpg"]})
    refused(dataset(tmp_path), "train", "no class folders")
    fill(tmp_path, {"train/a": ["1.jpg"]})
    refused(dataset(tmp_path), "train", "only one class folder, 'a'")
    fill(tmp_path, {"train/b": ["1.jpg"]})
    refused(dataset(tmp_path), "test", "no folder test or val or validation")
    refused(dataset(tmp_path), "train[:10]", r"no folder train\[:10\]")
    (tmp_path / "val").mkdir()
    refused(dataset(tmp_path), "test", "'test' .*val is empty")


def test_a_class_folder_without_images_is_refused(tmp_path):
    fill(tmp_path, {**TREE, "train/cow": ["notes.txt"]})
    refused(dataset(tmp_path), "train", "no images in .*cow: remove the folder or add images")


def test_classes_missing_from_the_training_split_are_refused(tmp_path):
    fill(tmp_path, {**TREE, **{f"val/{c}": ["1.jpg"] for c in "uvwxy"}})
    match = r"val has classes that .*train does not have \(u, v, w and 2 more\)"
    refused(dataset(tmp_path), "test", match)


@pytest.mark.parametrize(
    "fraction, place, is_inside",
    [
        (0.0, "train/cat/run", True),
        (0.0, "train", True),
        (0.0, "val/run", True),
        (0.0, "runs/a", False),
        (0.0, "", False),
        (0.5, "runs/a", True),
        (0.5, "", True),
        (0.5, "../elsewhere", False),
    ],
)
def test_a_run_among_the_images_is_refused(fraction, place, is_inside, tmp_path):
    data = tmp_path / "data"
    where = dataset(fill(data, {"a": ["1.jpg"], "b": ["1.jpg"]} if fraction else TREE), fraction)
    if is_inside:
        with pytest.raises(UserError, match=r"among the images of .*: choose another --workdir"):
            where.check_outside(data / place)
    else:
        where.check_outside(data / place)


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 2.0, math.nan])
def test_fractions_outside_0_to_1_are_refused(fraction, tmp_path):
    one_folder(tmp_path, {"a": 3, "b": 3})
    refused(dataset(tmp_path, fraction), "train", r"config\.dataset\.test_fraction=.*: must be")


def test_fractions_and_splits_that_contradict_the_folders_are_refused(tmp_path):
    fill(tmp_path, TREE)
    refused(dataset(tmp_path, 0.1), "train", r"set config\.dataset\.test_fraction=0")
    one_folder(tmp_path / "one", {"a": 3, "b": 3})
    refused(dataset(tmp_path / "one", 0.1), "val", "has no split 'val'")
    one_folder(tmp_path / "singles", {"a": 1, "b": 1})
    refused(dataset(tmp_path / "singles", 0.1), "test", "'test' .* is empty")


def test_an_unreadable_folder_is_reported(tmp_path, monkeypatch):
    fill(tmp_path, TREE)
    scandir = os.scandir

    def guarded(path):
        if str(path).endswith("more"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    refused(dataset(tmp_path), "train", r"cannot read the folder .*more \(Permission denied\)")
