"""Statistics against NumPy, and where they are stored."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from configs.schema import base
from errors import UserError
from input_pipeline import cache, sources, statistics
from input_pipeline.split import ArraySplit, Info
from input_pipeline.tfds_sets import PreparedSet


def photographs(count=40, height=6, width=5):
    """Images with correlated channels, as in photographs. Each channel has another mean."""
    rng = np.random.default_rng(1)
    common = rng.normal(0, 50, (count, height, width, 1))
    own = rng.normal(0, 12, (count, height, width, 3)) + np.array([125, 115, 100])
    return (common + own).clip(0, 255).astype(np.uint8)


def assert_same(actual, expected):
    for name, value in vars(expected).items():
        np.testing.assert_array_equal(getattr(actual, name), value, err_msg=name)


# ------------------------------------------------------------------------------------- computing


@pytest.mark.parametrize("chunk", [1, 100, 10**6])
def test_statistics_equal_those_of_numpy(monkeypatch, chunk):
    monkeypatch.setattr(statistics, "_CHUNK", chunk)
    images = photographs()
    actual = statistics.compute(iter(images), len(images), "made")
    pixels = images.reshape(-1, 3) / 255
    np.testing.assert_allclose(actual.image, images.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(actual.mean, 255 * pixels.mean(axis=0), rtol=1e-12)
    covariance = np.cov(pixels.T, bias=True)
    np.testing.assert_allclose(actual.eigenvalues, np.linalg.eigvalsh(covariance)[::-1], rtol=1e-9)
    assert (np.diff(actual.eigenvalues) < 0).all()
    v = actual.eigenvectors
    np.testing.assert_allclose(v @ np.diag(actual.eigenvalues) @ v.T, covariance, atol=1e-12)
    np.testing.assert_allclose(v.T @ v, np.eye(3), atol=1e-12)
    assert (np.take_along_axis(v, np.abs(v).argmax(axis=0)[None], axis=0) > 0).all()
    assert (actual.image.dtype, actual.mean.dtype) == (np.float32, np.float64)
    assert actual.examples == 40


def test_order_and_chunk_size_do_not_change_the_statistics(monkeypatch):
    images = photographs()
    expected = statistics.compute(images, len(images), "made")
    monkeypatch.setattr(statistics, "_CHUNK", 300)
    shuffled = images[np.random.default_rng(0).permutation(len(images))]
    assert_same(statistics.compute(shuffled, len(images), "made"), expected)


def test_eigenvalues_of_grey_images_and_of_colours_in_a_plane():
    grey = photographs()[..., :1]
    actual = statistics.compute(grey, len(grey), "made")
    assert actual.eigenvectors.tolist() == [[1.0]]
    assert actual.eigenvalues[0] == pytest.approx((grey / 255).var(), rel=1e-9)
    actual = statistics.compute(np.repeat(grey, 3, axis=-1), len(grey), "made")
    assert (actual.eigenvalues >= 0).all()
    np.testing.assert_allclose(actual.eigenvectors[:, 0], 3**-0.5)


def test_no_images_and_different_sizes_are_refused():
    with pytest.raises(UserError, match="made: there is no image"):
        statistics.compute(iter(()), 0, "made")
    two = [np.zeros((4, 5, 3), np.uint8), np.zeros((5, 4, 3), np.uint8)]
    with pytest.raises(UserError, match=r"4x5x3 and 5x4x3\): set config\.view\.size"):
        statistics.compute(two, 2, "made")


# --------------------------------------------------------------------------------------- files


def test_statistics_can_be_saved_and_loaded_and_damage_is_reported(tmp_path):
    actual = statistics.compute(photographs(), 40, "made")
    path = tmp_path / "new" / "some.npz"
    actual.save(path)
    assert_same(statistics.load(path), actual)
    assert [p.name for p in path.parent.iterdir()] == ["some.npz"]
    content = path.read_bytes()
    middle = len(content) // 2
    changed = content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]
    other = tmp_path / "other.npz"
    np.savez(other, image=np.zeros((4, 4, 3)), mean=np.zeros(2))
    for damaged in (content[:100], changed, b"", b"not a file of arrays", other.read_bytes()):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"cannot read the statistics .*some\.npz") as error:
            statistics.load(path)
        assert "\n" not in str(error.value)


def test_values_that_are_not_finite_are_refused():
    arrays = statistics.compute(photographs(), 40, "made").arrays()
    arrays["mean"][1] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        statistics.from_arrays(arrays)


# --------------------------------------------------------------------------------- with a data set


@pytest.fixture
def made_set(tmp_path, monkeypatch):
    """The dataset section of a set with empty files, whose images are `photographs`."""
    folder = tmp_path / "data" / "made" / "1.0.0"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text("{}")
    (folder / "records").write_text("as it was")
    info = Info("made", (6, 5, 3), ("a",))

    def load(dataset, split):
        load.calls += 1
        images = photographs()[: 10 if ":10" in split else None]
        return ArraySplit(info, images, np.zeros(len(images), np.int32))

    load.calls = 0
    monkeypatch.setattr(sources, "load", load)
    dataset = base().dataset
    dataset.update(
        {"name": "made", "data_dir": str(tmp_path / "data"), "cache_dir": str(tmp_path / "cache")}
    )
    return dataset, folder, load


def stored(folder):
    return sorted(path for path in folder.glob("**/statistics-*"))


def test_statistics_are_computed_once_per_split_and_view(made_set, monkeypatch):
    dataset, folder, load = made_set
    first = statistics.find_or_compute(dataset)
    assert_same(statistics.find_or_compute(dataset), first)
    assert load.calls == 1
    dataset.train_split = "train[:10]"
    assert statistics.find_or_compute(dataset).examples == 10
    assert len(stored(folder)) == 2
    dataset.train_split = "train"
    assert_same(statistics.find_or_compute(dataset), first)
    assert load.calls == 2
    held = sources.load(dataset, "train")
    dataset.train_split = "train[:30]"
    monkeypatch.setattr(sources, "load", None)  # a caller that holds the split hands it over
    assert_same(statistics.find_or_compute(dataset, load_split=lambda: held), first)


def test_statistics_of_a_changed_and_of_a_moved_set(made_set):
    dataset, folder, load = made_set
    statistics.find_or_compute(dataset)
    (folder / "records").write_text("as it is now")
    statistics.find_or_compute(dataset)
    assert load.calls == 2
    os.utime(folder / "records", ns=(0, 0))  # the same size at another time
    statistics.find_or_compute(dataset)
    assert load.calls == 3
    below = folder / "class" / "deeper"
    below.mkdir(parents=True)
    (below / "new").write_text("one more")
    (below / "circle").symlink_to(folder)
    (below / "nowhere").symlink_to(folder / "missing")
    statistics.find_or_compute(dataset)
    assert load.calls == 4
    moved = folder.parents[1].rename(folder.parents[2] / "elsewhere")
    dataset.data_dir = str(moved)
    statistics.find_or_compute(dataset)
    assert load.calls == 4  # they came along


def test_statistics_go_to_the_cache_if_the_folder_is_read_only(
    made_set, tmp_path, monkeypatch, capsys
):
    dataset, folder, load = made_set
    write = cache.write_npz

    def refused(path, **arrays):
        if folder in path.parents or refused.everywhere:
            raise PermissionError(13, "Permission denied")
        write(path, **arrays)

    refused.everywhere = False
    monkeypatch.setattr(cache, "write_npz", refused)
    first = statistics.find_or_compute(dataset)
    assert not stored(folder)
    assert len(stored(tmp_path / "cache" / "statistics")) == 1
    assert_same(statistics.find_or_compute(dataset), first)
    assert load.calls == 1
    assert capsys.readouterr().err == ""
    shutil.rmtree(tmp_path / "cache")
    refused.everywhere = True
    assert_same(statistics.find_or_compute(dataset), first)
    assert "Permission denied): continuing without" in capsys.readouterr().err


def test_damaged_statistics_are_computed_again(made_set, capsys):
    dataset, folder, load = made_set
    first = statistics.find_or_compute(dataset)
    (path,) = stored(folder)
    path.write_bytes(path.read_bytes()[:200])
    assert_same(statistics.find_or_compute(dataset), first)
    assert load.calls == 2
    assert f"{path} is damaged" in capsys.readouterr().err
    assert_same(statistics.load(path), first)


def test_storing_statistics_does_not_invalidate_the_cached_arrays(made_set):
    dataset, folder, _ = made_set
    before = PreparedSet("made", folder).cache_file("train", "")
    statistics.find_or_compute(dataset)
    assert stored(folder)
    assert PreparedSet("made", folder).cache_file("train", "") == before
    (folder / "records").write_text("something else")
    assert PreparedSet("made", folder).cache_file("train", "") != before


def test_statistics_of_the_embedded_set_are_not_stored(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    dataset = base().dataset
    dataset.name = "digits"
    actual = statistics.find_or_compute(dataset)
    images = sources.load(dataset, "train").images
    np.testing.assert_allclose(actual.image, images.mean(axis=0), rtol=1e-6)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("square", "side"), [(False, 3), (True, 4)])
def test_the_part_of_a_view_that_is_measured(made_set, square, side):
    dataset, folder, _ = made_set
    view = base().view
    view.update({"size": 3, "square": square, "train_scale": (4, 4), "test_scale": 4})
    view.interpolation = "random"
    actual = statistics.find_or_compute(dataset, view)
    assert actual.image.shape == (side, side, 3)
    # A 6x5 image with a shorter side of 4 has 4 columns and 4 rows: int(4 * 6 / 5).
    small = [Image.fromarray(p).resize((4, 4), Image.Resampling.BILINEAR) for p in photographs()]
    mean = np.mean([np.asarray(p, float) for p in small], axis=0)
    first = round((4 - side) / 2)
    part = slice(first, first + side)
    np.testing.assert_allclose(actual.image, mean[part, part], atol=1)
    view.size = 0  # as they come
    assert statistics.find_or_compute(dataset, view).image.shape == (6, 5, 3)
    assert len(stored(folder)) == 2


def test_the_command_prints_and_stores_statistics(made_set, capsys):
    dataset, folder, load = made_set
    arguments = ["made", f"--data_dir={dataset.data_dir}"]
    assert statistics.main(arguments) == 0
    printed = capsys.readouterr().out
    (path,) = stored(folder)
    actual = statistics.load(path)
    assert "made train: 40 images of 6x5x3" in printed
    assert f"stored in {path}" in printed
    for value in (*actual.mean, *actual.eigenvalues, *actual.eigenvectors.ravel()):
        assert f"{value:.4f}" in printed
    statistics.find_or_compute(dataset)  # as training does
    assert load.calls == 1
    assert statistics.main(["unheard-of", f"--data_dir={dataset.data_dir}"]) == 2
    assert "no data set 'unheard-of'" in capsys.readouterr().err
