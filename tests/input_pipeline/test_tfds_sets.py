"""TFDS sets that the tests write: reading, the cache, and errors of missing and damaged sets."""

import io
import pathlib
import types

import numpy as np
import pytest
from conftest import tiny_config
from PIL import Image

from errors import UserError
from input_pipeline import sources
from input_pipeline.tfds_sets import PreparedSet


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        (
            "/data/pets",
            r"is a folder, .*\.name=folder --config\.dataset\.data_dir=/data/pets$",
        ),
        ("a/pets", r"is a folder, .*\.name=folder --config\.dataset\.data_dir=a/pets$"),
        ("CIFAR-10", r"did you mean cifar10\?"),
        ("imagenet", r"did you mean imagenet2012\?"),
        ("mnist:3.0.1", r"contains a version: the newest is used, so leave :3\.0\.1 out"),
        ("imagenette/160px/1.0.0", r"so leave /1\.0\.0 out"),
        ("kmnist", r"run `python -m input_pipeline\.prepare kmnist"),
        ("imagenette/160px", r"run `python -m input_pipeline\.prepare imagenette/160px"),
    ],
)
def test_a_name_that_stands_for_something_else_gets_another_hint(tmp_path, monkeypatch, name, hint):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a" / "pets").mkdir(parents=True)
    with pytest.raises(UserError, match=hint):
        PreparedSet.find(name, str(tmp_path))


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


def test_a_set_is_decoded_once_and_then_read_from_the_cache(small_set, tmp_path, monkeypatch):
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


def test_valid_and_invalid_split_expressions(small_set, tmp_path):
    folder, _, _ = small_set
    dataset = section(folder, tmp_path)
    assert len(sources.load(dataset, "train[:10]")) == 10
    with pytest.raises(UserError, match="it has train"):
        sources.load(dataset, "validation")
    with pytest.raises(UserError, match="is empty"):
        sources.load(dataset, "train[:0]")


def test_a_missing_set_is_reported_with_the_command_that_prepares_it(tmp_path):
    dataset = tiny_config(**{"dataset.name": "mnist", "dataset.data_dir": str(tmp_path)}).dataset
    with pytest.raises(UserError, match=r"python -m input_pipeline\.prepare mnist"):
        sources.check(dataset)


def test_a_damaged_set_is_reported_in_one_line(small_set, tmp_path):
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(small_set[0], folder)
    (record,) = (folder / "small" / "1.0.0").glob("*array_record*")
    record.write_bytes(record.read_bytes()[:100])
    with pytest.raises(UserError, match="prepare it again"):
        sources.load(section(folder, tmp_path / "cache"), "train")


def _with_features(monkeypatch, name, **features):
    """A prepared set with such features, and 10 examples of each split."""
    import tensorflow_datasets as tfds

    splits = dict.fromkeys(("train", "test"), types.SimpleNamespace(num_examples=10))
    file_format = types.SimpleNamespace(value="array_record")
    features = tfds.features.FeaturesDict(features)
    info = types.SimpleNamespace(features=features, splits=splits, file_format=file_format)
    builder = types.SimpleNamespace(info=info)
    monkeypatch.setattr(tfds, "builder_from_directory", lambda _: builder)
    return PreparedSet(name, pathlib.Path("/nowhere"))


def test_features_that_would_be_misread_are_refused(monkeypatch):
    from tensorflow_datasets import features

    label = features.ClassLabel(names=["a", "b"])
    wrong = (
        (features.Image(shape=(4, 4, 1), dtype=np.uint16), label, "has uint16 images"),
        (features.Image(shape=(4, 4, 1), dtype=np.float32), label, "has float32 images"),
        (features.Image(shape=(4, 4, 4)), label, r"images \(4, 4, 4\)"),
        (features.Image(shape=(4, 4, 3)), features.Text(), "labels of type Text"),
    )
    for image, kind, message in wrong:
        with pytest.raises(UserError, match=message):
            _with_features(monkeypatch, "own", image=image, label=kind).dataset_info()
    # Images of different sizes are decoded to RGB.
    grey = _with_features(
        monkeypatch, "own", image=features.Image(shape=(None, None, 1)), label=label
    )
    assert grey.dataset_info().image_shape == (0, 0, 3)
    many = features.Image(shape=(30_000, 30_000, 1))
    with pytest.raises(UserError, match="10 grey images, which need more than 4 GB"):
        _with_features(monkeypatch, "own", image=many, label=label).load("train")
    with pytest.raises(UserError, match="test split of imagenet2012 has no labels"):
        photographs = features.Image(shape=(None, None, 3))
        _with_features(monkeypatch, "imagenet2012", image=photographs, label=label).load("test")
