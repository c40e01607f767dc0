"""The embedded set, TFDS sets written here, the cache, and the user's own pictures."""

import io
import sys

import numpy as np
import pytest
from conftest import tiny_config
from PIL import Image

from errors import UserError
from input_pipeline import decode, digits, images, prepare, sources, views
from input_pipeline.split import Info
from input_pipeline.tfds_sets import PreparedSet


def test_digits_split_is_fixed_stratified_and_disjoint():
    from sklearn.datasets import load_digits

    train_images, train_labels = digits.load("train")
    test_images, test_labels = digits.load("test")
    assert train_images.shape == (1442, 28, 28, 1)
    assert test_images.shape == (355, 28, 28, 1)
    assert train_images.dtype == np.uint8
    everything = np.bincount(load_digits().target)
    assert np.bincount(test_labels).tolist() == (everything // 5).tolist()
    assert (np.bincount(train_labels) + np.bincount(test_labels)).tolist() == everything.tolist()
    assert train_images.max() == 255
    assert train_images.min() == 0
    with pytest.raises(UserError, match="choose train or test"):
        digits.load("validation")


def _png(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    buffer.seek(0)
    return buffer


@pytest.fixture(scope="module")
def small_set(tmp_path_factory):
    """A TFDS set of 6x5 grey images in array_record: (folder, images, labels)."""
    import tensorflow_datasets as tfds

    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (23, 6, 5)).astype(np.uint8)
    labels = rng.integers(0, 3, 23)

    with tfds.core.registered.skip_registration():

        class Small(tfds.core.GeneratorBasedBuilder):
            name = "small"
            VERSION = tfds.core.Version("1.0.0")

            def _info(self):
                features = tfds.features.FeaturesDict(
                    {
                        "image": tfds.features.Image(shape=(6, 5, 1)),
                        "label": tfds.features.ClassLabel(names=["a", "b", "c"]),
                    }
                )
                return tfds.core.DatasetInfo(builder=self, features=features)

            def _split_generators(self, dl_manager):
                return {"train": self._generate_examples()}

            def _generate_examples(self):
                for i, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
                    yield i, {"image": _png(picture), "label": int(label)}

    folder = tmp_path_factory.mktemp("tfds")
    Small(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder, pictures, labels


def section(folder, cache):
    return tiny_config(
        **{
            "dataset.name": "small",
            "dataset.data_dir": str(folder),
            "dataset.cache_dir": str(cache),
        }
    ).dataset


def by_content(pictures, labels):
    return sorted(
        (picture.tobytes(), int(label)) for picture, label in zip(pictures, labels, strict=True)
    )


def test_tfds_set_is_read_whole_and_then_from_the_cache(small_set, tmp_path, monkeypatch):
    folder, pictures, labels = small_set
    dataset = section(folder, tmp_path)
    first = sources.load(dataset, "train")
    assert first.info.class_names == ("a", "b", "c")
    assert by_content(first.images, first.labels) == by_content(pictures, labels)
    monkeypatch.setattr(PreparedSet, "_decode", None)  # the second time must not decode
    second = sources.load(dataset, "train")
    np.testing.assert_array_equal(first.images, second.images)
    np.testing.assert_array_equal(first.labels, second.labels)


def test_a_damaged_cache_is_made_again(small_set, tmp_path, capsys):
    folder, _, _ = small_set
    dataset = section(folder, tmp_path)
    first = sources.load(dataset, "train")
    (file,) = (tmp_path / "arrays").iterdir()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)
    again = sources.load(dataset, "train")
    np.testing.assert_array_equal(first.images, again.images)
    assert "is damaged" in capsys.readouterr().err
    sources.load(dataset, "train")
    assert capsys.readouterr().err == ""


def test_an_unwritable_cache_is_a_warning(small_set, tmp_path, capsys):
    folder, _, _ = small_set
    (tmp_path / "file").write_text("")
    loaded = sources.load(section(folder, tmp_path / "file"), "train")
    assert len(loaded) == 23
    assert "continuing without" in capsys.readouterr().err


def test_parts_of_splits_and_wrong_ones(small_set, tmp_path):
    folder, _, _ = small_set
    dataset = section(folder, tmp_path)
    assert len(sources.load(dataset, "train[:10]")) == 10
    with pytest.raises(UserError, match="it has train"):
        sources.load(dataset, "validation")
    with pytest.raises(UserError, match="is empty"):
        sources.load(dataset, "train[:0]")


def test_a_missing_set_says_what_to_run(tmp_path):
    dataset = tiny_config(**{"dataset.name": "mnist", "dataset.data_dir": str(tmp_path)}).dataset
    with pytest.raises(UserError, match=r"python -m input_pipeline\.prepare mnist"):
        sources.check(dataset)


def test_a_damaged_set_is_one_line(small_set, tmp_path):
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(small_set[0], folder)
    (record,) = (folder / "small" / "1.0.0").glob("*array_record*")
    record.write_bytes(record.read_bytes()[:100])
    with pytest.raises(UserError, match="prepare it again"):
        sources.load(section(folder, tmp_path / "cache"), "train")


# ------------------------------------------------------------------- pictures for --mode=predict

SHAPE = (28, 28, 1)


def seven(size=28):
    """A 7 of light ink on dark, as uint8 [size, size]."""
    picture = np.zeros((size, size), np.uint8)
    unit = size // 14
    picture[2 * unit : 4 * unit, 3 * unit : 11 * unit] = 250
    picture[2 * unit : 12 * unit, 9 * unit : 11 * unit] = 250
    return picture


def test_a_picture_of_the_right_shape_is_read_exactly(tmp_path):
    Image.fromarray(seven()).save(tmp_path / "a.png")
    found, inverted = images.read(str(tmp_path / "a.png"), SHAPE, "auto")
    np.testing.assert_array_equal(found[..., 0], seven())
    assert not inverted


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "I;16", "CMYK", "LA"])
def test_any_mode_and_polarity_become_light_ink_on_dark(tmp_path, mode):
    dark_on_light = 255 - seven(140)
    picture = Image.fromarray(dark_on_light)
    if mode == "I;16":
        picture = Image.fromarray(dark_on_light.astype(np.uint16) * 257)
    elif mode in ("RGBA", "LA"):  # black ink on a transparent ground
        alpha = Image.fromarray(seven(140))
        picture = Image.new(mode, alpha.size)
        picture.putalpha(alpha)
    else:
        picture = picture.convert(mode)
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    picture.save(path)
    found, inverted = images.read(str(path), SHAPE, "auto")
    assert inverted
    assert found.shape == SHAPE
    assert found.dtype == np.uint8
    np.testing.assert_allclose(found[..., 0].astype(float), seven(), atol=60)
    assert abs(found.astype(float)[..., 0] - seven()).mean() < 8


def test_wide_pictures_are_fitted_in_whole(tmp_path):
    wide = np.zeros((20, 60), np.uint8)
    wide[:, 28:32] = 255
    Image.fromarray(wide).save(tmp_path / "wide.jpg", quality=95)
    found, _ = images.read(str(tmp_path / "wide.jpg"), SHAPE, "no")
    rows = np.flatnonzero(found[:, 14, 0] > 100)
    assert 8 <= len(rows) <= 11  # 20 of 60 pixels of height, scaled by 28 / 60
    assert found[0].max() < 10


def test_files_that_are_no_pictures_are_refused(tmp_path):
    (tmp_path / "text.png").write_text("not a picture")
    Image.fromarray(seven()).save(tmp_path / "whole.png")
    content = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "half.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "empty.png").write_bytes(b"")
    for name in ("text.png", "half.png", "empty.png"):
        with pytest.raises(UserError, match=f"cannot read .*{name} as an image"):
            images.read(str(tmp_path / name), SHAPE, "auto")
    with pytest.raises(UserError, match="no image file"):
        images.read(str(tmp_path / "nothing.png"), SHAPE, "auto")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    Image.fromarray(seven()).save(tmp_path / "big.png")
    with pytest.raises(UserError, match="cannot read"):
        images.read(str(tmp_path / "big.png"), SHAPE, "auto")


@pytest.mark.parametrize("suffix", images.EXTENSIONS)
def test_every_kind_of_picture_is_found_in_folders_and_read(tmp_path, suffix):
    """By nets that take arrays, and by those that cut their own views."""
    picture = Image.fromarray(np.stack([seven(56)] * 3, -1))
    if suffix == ".pbm":
        picture = picture.convert("1")
    elif suffix == ".pgm":
        picture = picture.convert("L")
    path = tmp_path / "deep" / f"a{suffix.upper()}"
    path.parent.mkdir()
    picture.save(path)
    (tmp_path / "notes.txt").write_text("none")
    assert images.find([str(tmp_path)]) == [str(path)]
    small = views.View(28, "center", (28, 28), False, (0.08, 1.0), (0.75, 1.5), "bilinear", 28)
    info = Info("x", (0, 0, 3), ("a", "b"))
    cut = small.cut(images.PictureSplit(info, (str(path),)).read(0)[0])[0]
    assert cut.shape == (28, 28, 3)
    np.testing.assert_array_equal(small.cut(images.content(str(path)))[0], cut)
    for found in (cut, images.read(str(path), (28, 28, 3), "no")[0]):
        assert abs(found.astype(float) - seven()[..., None]).mean() < 6


def test_a_rare_picture_that_is_damaged_is_refused_by_who_cuts_it(tmp_path):
    Image.fromarray(seven()).save(tmp_path / "a.tif")
    (tmp_path / "a.tif").write_bytes((tmp_path / "a.tif").read_bytes()[:100])
    with pytest.raises(decode.BadImage):
        decode.opened(images.content(str(tmp_path / "a.tif")))


# ----------------------------------------------------------------------------- the preparation


def test_sets_that_are_placed_by_hand_name_their_files(tmp_path, capsys):
    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    flags = ["imagenet2012", f"--data_dir={tmp_path}"]
    assert prepare.main(flags) == 2
    said = capsys.readouterr().err
    assert f"ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar from there into {manual}" in said
    (manual / "ILSVRC2012_img_train.tar").touch()
    assert prepare.main(flags) == 2
    said = capsys.readouterr().err
    assert "put ILSVRC2012_img_val.tar from" in said


def test_a_failure_names_the_folder_of_files_placed_by_hand(tmp_path, capsys, monkeypatch):
    """Of any set that needs some; another failure is the connection's."""

    class Builder:
        name, data_dir = "some", str(tmp_path / "some" / "1.0.0")
        MANUAL_DOWNLOAD_INSTRUCTIONS = "Put faces.zip\n  there."

        def download_and_prepare(self):
            raise AssertionError("Manual directory does not exist")

    monkeypatch.setattr("tensorflow_datasets.builder", lambda *_, **__: Builder())
    monkeypatch.setitem(sys.modules, "tensorflow", object())
    flags = ["some", f"--data_dir={tmp_path}"]
    assert prepare.main(flags) == 2
    manual = tmp_path / "downloads" / "manual"
    assert f"put into {manual}, which is empty: Put faces.zip there." in capsys.readouterr().err
    monkeypatch.setattr(Builder, "MANUAL_DOWNLOAD_INSTRUCTIONS", None)
    assert prepare.main(flags) == 2
    assert "check the connection" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("mnist", "--raw"), "--raw applies to a copy: also give --shorter_side=PIXELS"),
        ((".",), ". is a folder, which training reads directly"),
    ],
)
def test_half_an_order_of_a_copy_is_refused(arguments, said, capsys):
    assert prepare.main(list(arguments)) == 2
    assert said in capsys.readouterr().err
