"""Copies with smaller images: the command that makes them, reading, resuming, and refusals."""

import io
import json
import os

import numpy as np
import pytest
import tensorflow_datasets as tfds
from conftest import tiny_config
from PIL import Image

from errors import UserError
from input_pipeline import copies, copy_info, prepare, sources
from input_pipeline.tfds_sets import PreparedSet
from input_pipeline.views import View

SIZES = [(80, 60), (60, 90), (50, 40), (30, 20), (64, 64), (41, 120), (200, 100)]  # width, height


def photograph(width, height, seed):
    """An image of smooth colours, which JPEG changes little."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (4, 4, 3)).astype(np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def photographs(tmp_path):
    root = tmp_path / "My Photos"
    for part in ("train", "val"):
        for i, size in enumerate(SIZES):
            folder = root / part / ("cat", "dog")[i % 2]
            folder.mkdir(parents=True, exist_ok=True)
            photograph(*size, seed=i).save(folder / f"{i}.jpg", quality=95)
    Image.new("L", (70, 50), 99).save(root / "train" / "dog" / "grey.png")
    return root


def run(folder, out, *flags):
    return prepare.main([str(folder), "--shorter_side=40", f"--out={out}", "--processes=2", *flags])


def opened(out, name, split):
    overrides = {"dataset.name": name, "dataset.data_dir": str(out)}
    return sources.load(tiny_config(**overrides).dataset, split)


def pictures(split):
    actual = [split.read(i) for i in range(len(split))]
    return [Image.open(io.BytesIO(data)) for data, _, _ in actual], [
        label for _, label, _ in actual
    ]


def test_a_copy_is_a_set_with_smaller_images(photographs, tmp_path, capsys):
    assert run(photographs, tmp_path / "out") == 0
    assert "--config.dataset.name=my_photos_40" in capsys.readouterr().out
    original = sources.load(
        tiny_config(**{"dataset.name": "folder", "dataset.data_dir": str(photographs)}).dataset,
        "train",
    )
    copied = opened(tmp_path / "out", "my_photos_40", "train")
    assert copied.info.class_names == ("cat", "dog")
    assert "a shorter side of 40 pixels" in copied.info.copy.description
    assert len(opened(tmp_path / "out", "my_photos_40", "test")) == len(SIZES)
    assert len(opened(tmp_path / "out", "my_photos_40", "train[:3]")) == 3

    actual, labels = pictures(copied)
    expected, expected_labels = pictures(original)
    assert labels == expected_labels
    for small, large in zip(actual, expected, strict=True):
        assert small.format == "JPEG"
        assert small.mode == "RGB"
        width, height = large.size
        shorter = min(40, width, height)  # nothing is enlarged
        factor = shorter / min(width, height)
        assert small.size == (int(width * factor), int(height * factor))
        reference = large.convert("RGB").resize(small.size, Image.Resampling.BICUBIC)
        difference = np.abs(np.asarray(small, int) - np.asarray(reference, int))
        assert difference.mean() < 3


def test_a_copy_of_central_squares(photographs, tmp_path):
    assert run(photographs, tmp_path, "--square") == 0
    actual, _ = pictures(opened(tmp_path, "my_photos_40sq", "test"))
    assert {picture.size for picture in actual} == {(40, 40)}  # the smallest was enlarged
    wide = photograph(*SIZES[6], seed=6).resize((80, 40)).crop((20, 0, 60, 40))
    index = [0, 2, 4, 6, 1, 3, 5].index(6)  # by class, then by name
    difference = np.abs(np.asarray(actual[index], int) - np.asarray(wide, int))
    assert difference.mean() < 3


@pytest.mark.slow
def test_a_raw_copy_holds_decoded_pixels(photographs, tmp_path, capsys):
    assert run(photographs, tmp_path, "--raw") == 0
    assert "--config.dataset.name=my_photos_40_raw" in capsys.readouterr().out
    overrides = {"dataset.name": "folder", "dataset.data_dir": str(photographs)}
    original = sources.load(tiny_config(**overrides).dataset, "train")
    copied = opened(tmp_path, "my_photos_40_raw", "train")
    assert "40 pixels, not encoded" in copied.info.copy.description
    assert len(copied) == len(original)
    view = View.from_section(tiny_config(**{"view.size": 20, "view.train_scale": (30, 30)}).view)
    for i in range(len(original)):
        pixels, label, name = copied.read(i)
        data, expected_label, _ = original.read(i)
        expected = copies.shrink(data, 40, square=False).convert("RGB")
        np.testing.assert_array_equal(pixels, expected)
        assert label == expected_label
        assert "my_photos_40_raw train (class " in name
        part, _ = view.cut(pixels, np.random.default_rng(i))
        file = io.BytesIO()
        expected.save(file, "PNG")
        again, _ = view.cut(file.getvalue(), np.random.default_rng(i))
        np.testing.assert_array_equal(part, again)
    # TFDS itself reads it, too.
    source = tfds.builder_from_directory(tmp_path / "my_photos_40_raw" / "1.0.0").as_data_source()
    np.testing.assert_array_equal(source["train"][0]["image"], copied.read(0)[0])
    assert run(photographs, tmp_path) == 0  # a set of its own
    assert len(opened(tmp_path, "my_photos_40", "train")) == len(original)


def test_a_copy_can_be_copied_and_made_again(photographs, tmp_path):
    assert run(photographs, tmp_path) == 0
    again = ["my_photos_40", "--shorter_side=20", f"--data_dir={tmp_path}", "--processes=1"]
    assert prepare.main(again) == 0
    actual, _ = pictures(opened(tmp_path, "my_photos_40_20", "train"))
    assert {min(picture.size) for picture in actual} == {20}
    assert prepare.main(again) == 0


def test_a_set_with_more_shards_than_the_limit_of_open_files(photographs, tmp_path, monkeypatch):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(copies, "SHARD", 1)
    assert run(photographs, tmp_path) == 0
    split, again = (opened(tmp_path, "my_photos_40", "train") for _ in range(2))
    count = len(split)
    again.read(0)  # imports modules, and opens files that are not shards
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        few = len(os.listdir("/dev/fd")) + count // 2
        resource.setrlimit(resource.RLIMIT_NOFILE, (few, limits[1]))
        with pytest.raises(UserError, match=r"Too many open files.*ulimit -n"):
            pictures(again)
        assert len(pictures(split)[0]) == count
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def contents(out):
    splits = [opened(out, "my_photos_40", part) for part in ("train", "test")]
    return [split.read(i)[:2] for split in splits for i in range(len(split))]


def test_an_interrupted_copy_is_resumed(photographs, tmp_path, monkeypatch):
    monkeypatch.setattr(copies, "SHARD", 3)
    assert run(photographs, tmp_path) == 0
    folder = tmp_path / "my_photos_40" / "1.0.0"
    whole = contents(tmp_path)
    shards = sorted(folder.glob("*array_record*"))
    assert len(shards) == 6
    times = {path: path.stat().st_mtime_ns for path in shards[1:]}
    shards[0].unlink()
    (folder / "dataset_info.json").unlink()
    with pytest.raises(UserError, match="no data set"):  # half a copy is none
        opened(tmp_path, "my_photos_40", "train")
    assert run(photographs, tmp_path) == 0
    assert {path: path.stat().st_mtime_ns for path in shards[1:]} == times
    assert contents(tmp_path) == whole


def test_a_copy_with_other_settings_is_refused(photographs, tmp_path, capsys):
    assert run(photographs, tmp_path) == 0
    assert run(photographs, tmp_path, "--quality=50") == 2
    assert "already holds another copy" in capsys.readouterr().err
    for flags, message in (
        (["--quality=0"], "must be from 1 to 100"),
        (["--shorter_side=-3"], "must be 1 or more"),
    ):
        assert run(photographs, tmp_path, *flags) == 2
        assert message in capsys.readouterr().err


def test_a_copy_of_other_images_is_refused(photographs, tmp_path, capsys):
    folder = tmp_path / "my_photos_40" / "1.0.0"
    assert run(photographs, tmp_path) == 0
    facts = (folder / copy_info.FILE).read_text()
    (folder / "dataset_info.json").rename(tmp_path / "kept")  # interrupted
    picture = photographs / "train" / "cat" / "0.jpg"
    status = picture.stat()
    os.utime(picture, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert run(photographs, tmp_path) == 2
    error = capsys.readouterr().err
    assert "a copy of other images" in error and "delete it, or choose another --out" in error
    assert (folder / copy_info.FILE).read_text() == facts
    (tmp_path / "kept").rename(folder / "dataset_info.json")

    # An earlier version stored no digest: its copy can be read, and has the same class names.
    old = json.loads(facts)
    assert len(old.pop("digest")) == 16
    (folder / copy_info.FILE).write_text(json.dumps(old))
    assert opened(tmp_path, "my_photos_40", "train").info.copy.digest == ""
    assert run(photographs, tmp_path) == 0
    assert json.loads((folder / copy_info.FILE).read_text())["digest"] == ""
    for part in ("train", "val"):
        (photographs / part / "cat").rename(photographs / part / "bird")
    assert run(photographs, tmp_path) == 2
    assert "a copy of other images" in capsys.readouterr().err
    assert opened(tmp_path, "my_photos_40", "train").info.class_names == ("cat", "dog")


def test_a_copy_inside_its_source_is_refused(photographs, capsys):
    assert run(photographs, photographs / "train") == 2
    assert "is inside the folder that is copied" in capsys.readouterr().err


def test_unreadable_images(photographs, tmp_path, capsys):
    bad = photographs / "train" / "cat" / "2.jpg"
    bad.write_bytes(bad.read_bytes()[:300])
    assert run(photographs, tmp_path) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "cat/2.jpg" in message
    assert run(photographs, tmp_path, "--on_bad_image=skip") == 0  # resumes the copy
    assert "skipped" in capsys.readouterr().err
    assert len(opened(tmp_path, "my_photos_40", "train")) == len(SIZES)


def test_a_copy_of_another_version_is_refused(photographs, tmp_path):
    assert run(photographs, tmp_path) == 0
    path = tmp_path / "my_photos_40" / "1.0.0" / copy_info.FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 99}))
    with pytest.raises(UserError, match="prepared by another version"):
        opened(tmp_path, "my_photos_40", "train")


def test_an_unwritable_folder_is_reported(photographs, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run(photographs, tmp_path / "file") == 2
    assert "choose another --out" in capsys.readouterr().err


def test_validation_split_and_tfds_config_are_detected(photographs, tmp_path):
    """Sets without a test split, such as copies of ImageNet, and sets with TFDS configs."""
    assert run(photographs, tmp_path) == 0
    root = tmp_path / "my_photos_40"
    version = root / "1.0.0"
    text = (version / "dataset_info.json").read_text()
    (version / "dataset_info.json").write_text(text.replace('"test"', '"validation"'))
    for shard in version.glob("*-test.array_record*"):
        shard.rename(version / shard.name.replace("-test.", "-validation."))
    section = tiny_config(
        **{"dataset.name": "my_photos_40", "dataset.data_dir": str(tmp_path)}
    ).dataset
    assert sources.split_name(section, "test") == "validation"
    assert sources.split_name(section, "train") == "train"
    assert len(sources.load(section, "test")) == len(SIZES)

    version.rename(tmp_path / "moved")
    (root / "full").mkdir()
    (tmp_path / "moved").rename(root / "full" / "1.0.0")
    assert PreparedSet.find(section.name, section.data_dir).directory == root / "full" / "1.0.0"
    (root / "half" / "1.0.0").mkdir(parents=True)
    (root / "half" / "1.0.0" / "dataset_info.json").write_text("{}")
    with pytest.raises(UserError, match="my_photos_40/full or my_photos_40/half"):
        PreparedSet.find(section.name, section.data_dir)
    section.name = "my_photos_40/full"
    assert PreparedSet.find(section.name, section.data_dir).directory == root / "full" / "1.0.0"


def test_patches_of_the_whole_image_are_not_cut_from_squares():
    copy = copy_info.CopyInfo("photos", 256, True, 95, "error", {})
    config = tiny_config(**{"view.size": 224, "view.test_scale": 256, "view.train": "area"})
    view = View.from_section(config.view)
    with pytest.raises(UserError, match="area needs whole images"):
        copy.check_view(view)
    copy.check_view(view, is_training=False)
