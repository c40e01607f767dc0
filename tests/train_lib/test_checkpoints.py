"""Checkpoints: which are kept, and what happens to damaged ones."""

import errno
import logging as std_logging
import os
import resource
import shutil
import signal
import time

import numpy as np
import pytest
from absl import logging

from errors import TryAgain, UserError
from train_lib import checkpoints as checkpoints_lib
from train_lib.checkpoints import METRIC, Checkpoints
from train_lib.workdir import has_checkpoints


def state(value=0.0):
    return {"params": {"w": np.arange(5000, dtype=np.float32) + value}, "step": np.int32(value)}


def largest_file(folder):
    data = [p for p in folder.rglob("*") if p.is_file() and p.parent.name == "d"]
    return max(data, key=lambda path: path.stat().st_size)


def filled(tmp_path, count=4, **options):
    checkpoints = Checkpoints(tmp_path, **options)
    for step, error in zip(range(1, count + 1), [0.5, 0.1, 0.4, 0.3], strict=False):
        checkpoints.save(step, state(step), {METRIC: error})
    checkpoints.wait()
    return checkpoints


def test_keeps_the_newest_and_the_best(tmp_path):
    checkpoints = filled(tmp_path, keep=1)
    assert checkpoints.steps() == [2, 4]
    assert checkpoints.best_step() == 2
    again = Checkpoints(tmp_path, keep=1)
    step, restored = again.restore(state())
    assert step == 4
    np.testing.assert_array_equal(restored["params"]["w"], state(4)["params"]["w"])
    assert again.best_step() == 2


def test_a_step_saved_without_its_error_can_be_saved_again_with_it(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(3, state(3))
    checkpoints.save(3, state(3), {METRIC: 0.2})
    checkpoints.wait()
    assert checkpoints.best_step() == 3


def test_a_notebook_shows_no_warnings_of_orbax(tmp_path):
    before, records = logging.get_verbosity(), []
    watch = std_logging.Handler()
    watch.emit = records.append
    logging.set_verbosity(logging.WARNING)  # as without a command line
    logging.get_absl_logger().addHandler(watch)
    try:
        checkpoints = Checkpoints(tmp_path)
        checkpoints.save(3, state(3))
        checkpoints.wait()
        assert Checkpoints(tmp_path, read_only=True).steps() == [3]
        assert not [record.getMessage() for record in records]
        assert logging.get_verbosity() == logging.WARNING  # the caller's own stays
    finally:
        logging.get_absl_logger().removeHandler(watch)
        logging.set_verbosity(before)


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove file", "remove item", "empty"])
def test_a_damaged_checkpoint_is_reported_and_the_one_before_it_is_used(tmp_path, capsys, damage):
    filled(tmp_path).close()
    newest = tmp_path / "checkpoints" / "4"
    path = largest_file(newest)
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "truncate":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "remove file":
        path.unlink()
    elif damage == "remove item":
        shutil.rmtree(newest / "description")
    else:
        for file in newest.rglob("*"):
            if file.is_file():
                file.write_bytes(b"")
    checkpoints = Checkpoints(tmp_path)
    step, restored = checkpoints.restore(state())
    assert step == 3
    np.testing.assert_array_equal(restored["params"]["w"], state(3)["params"]["w"])
    assert "checkpoints/4 is damaged" in capsys.readouterr().err
    assert (tmp_path / "damaged" / "4").is_dir()
    checkpoints.save(4, state(4))  # its place is free again
    checkpoints.close()


def test_a_description_with_a_changed_error_is_damaged(tmp_path, capsys):
    """It is still JSON, and gives a step a lower error than it had."""
    filled(tmp_path).close()
    path = tmp_path / "checkpoints" / "4" / "description" / "metadata"
    text = path.read_text()
    assert text.count("0.3") == 1
    path.write_text(text.replace("0.3", "0.0"))
    assert Checkpoints(tmp_path, read_only=True).best_step() == 2
    assert "checkpoints/4 is damaged" in capsys.readouterr().err
    assert Checkpoints(tmp_path).restore(state())[0] == 3


def test_training_does_not_start_from_scratch_if_all_checkpoints_are_damaged(tmp_path):
    filled(tmp_path, count=2).close()
    for step in ("1", "2"):
        largest_file(tmp_path / "checkpoints" / step).write_bytes(b"no")
    for _ in range(2):  # nor if the same command is given again
        with pytest.raises(UserError, match=r"no checkpoint in .* can be read"):
            Checkpoints(tmp_path).restore(state())
        assert Checkpoints(tmp_path).steps() == [1, 2]  # nothing was moved


def test_a_single_checkpoint_that_orbax_cannot_open_is_an_error(tmp_path, capsys):
    filled(tmp_path, count=1).close()
    (tmp_path / "checkpoints" / "1" / "metrics" / "metrics").write_text("no")
    for _ in range(2):
        with pytest.raises(UserError, match=r"no checkpoint in .* can be read"):
            Checkpoints(tmp_path).restore(state())
    assert "checkpoints/1 is damaged" in capsys.readouterr().err
    assert (tmp_path / "damaged" / "1").is_dir()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EMFILE, "Too many open files"),
        MemoryError(),
        ValueError("Error reading local file: UNKNOWN [os_error_code='5']"),  # as TensorStore's
    ],
    ids=["system", "memory", "TensorStore"],
)
def test_an_error_of_the_machine_does_not_mark_a_checkpoint_as_damaged(
    tmp_path, monkeypatch, error
):
    filled(tmp_path).close()

    def read(*_, **__):
        raise error

    checkpoints = Checkpoints(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(checkpoints._manager, "restore", read)
        with pytest.raises(UserError, match=r"cannot read checkpoint .*checkpoints/4 \("):
            checkpoints.restore(state())
        with pytest.raises(UserError, match=r"cannot read checkpoint"):
            checkpoints.best_step()
    assert not (tmp_path / "damaged").exists()
    assert checkpoints.restore(state())[0] == 4
    with monkeypatch.context() as patched:
        patched.setattr("orbax.checkpoint.CheckpointManager", read)
        with pytest.raises(UserError, match=r"cannot open .*checkpoints \("):
            Checkpoints(tmp_path)
    assert Checkpoints(tmp_path).steps() == [2, 3, 4]


def test_a_reader_uses_newer_checkpoints_of_a_run_in_training(tmp_path, capsys):
    checkpoints = filled(tmp_path, count=1, keep=1)
    reader = Checkpoints(tmp_path, read_only=True)
    for step in (2, 3):
        checkpoints.save(step, state(step))
    checkpoints.wait()
    assert checkpoints.steps() == [1, 3]  # the best one and the newest
    shutil.rmtree(tmp_path / "checkpoints" / "1")  # as if it were not
    again = Checkpoints(tmp_path, read_only=True)
    step, restored = reader.restore(state())
    assert (step, restored["step"]) == (3, 3)
    for step, error in ((4, 0.3), (5, 0.2)):  # 3 goes
        checkpoints.save(step, state(step), {METRIC: error})
    checkpoints.close()
    assert again.best_step() == 5
    assert capsys.readouterr().err == ""


def test_a_replaced_checkpoint_does_not_come_back(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(1, state(1))
    checkpoints.save(1, state(1), {METRIC: 0.5})
    for step, error in ((2, 0.1), (3, 0.3), (4, 0.2)):
        checkpoints.save(step, state(step), {METRIC: error})
        assert not (tmp_path / checkpoints_lib.REPLACED).exists()
    checkpoints.close()
    assert Checkpoints(tmp_path).steps() == [2, 3, 4]  # the best one and two


def test_a_reader_uses_no_older_checkpoint_while_a_step_is_saved_again(tmp_path):
    filled(tmp_path, count=3).close()
    (tmp_path / checkpoints_lib.REPLACED).mkdir()
    (tmp_path / "checkpoints" / "3").rename(tmp_path / checkpoints_lib.REPLACED / "3")
    reader = Checkpoints(tmp_path, read_only=True)
    with pytest.raises(TryAgain, match="checkpoints/3 is being saved again"):
        reader.restore(state())
    assert reader.restore(state(), step=2)[0] == 2
    assert Checkpoints(tmp_path).restore(state())[0] == 3  # the run itself takes it back
    assert Checkpoints(tmp_path, read_only=True).restore(state())[0] == 3


def test_a_step_that_is_saved_again_always_has_a_checkpoint(tmp_path, monkeypatch):
    """The old checkpoint is kept until the new one is complete."""
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(3, state(3))
    checkpoints.wait()
    with monkeypatch.context() as patched:
        patched.setattr(checkpoints._manager, "save", lambda *_, **__: 1 / 0)
        with pytest.raises(UserError, match="could not save"):
            checkpoints.save(3, state(4), {METRIC: 0.5})  # fails after the old one was moved
    assert has_checkpoints(tmp_path)
    again = Checkpoints(tmp_path, keep=1)
    assert again.restore(state())[1]["step"] == 3
    assert not again.holds(3, scored=True)
    assert again.holds(3, scored=False)
    again.save(3, state(4), {METRIC: 0.5})
    again.wait()
    assert not (tmp_path / checkpoints_lib.REPLACED).exists()
    assert again.holds(3, scored=True)
    assert Checkpoints(tmp_path).restore(state())[1]["step"] == 4


def test_a_checkpoint_of_another_model_is_refused_and_not_moved(tmp_path):
    filled(tmp_path).close()
    other = {"params": {"w": np.zeros(3, np.float32)}, "step": np.int32(0)}
    with pytest.raises(UserError, match=r"is of another model: \['params'\]\['w'\]"):
        Checkpoints(tmp_path).restore(other)
    assert not (tmp_path / "damaged").exists()


@pytest.mark.parametrize(("value", "other"), [(0, "float64"), (1, "float32")])
def test_a_checkpoint_of_another_precision_names_the_variable(tmp_path, value, other):
    saved = {"trace": np.zeros(3, np.float64 if value else np.float32), "step": np.int32(1)}
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, saved)
    checkpoints.wait()
    with pytest.raises(UserError, match=rf"made with JAX_ENABLE_X64={value}: set .* to {value}"):
        checkpoints.restore(saved | {"trace": saved["trace"].astype(other)})


def test_the_newest_checkpoint_has_the_highest_step(tmp_path):
    """Neither the last one in time nor the last one in the alphabet is the newest."""
    checkpoints = Checkpoints(tmp_path)
    for step in (9, 10):
        checkpoints.save(step, state(step))
    checkpoints.close()
    for path in (tmp_path / "checkpoints" / "9").rglob("*"):
        os.utime(path, (2e9, 2e9))
    assert Checkpoints(tmp_path).restore(state())[0] == 10


def test_an_empty_folder_has_no_checkpoint(tmp_path):
    assert Checkpoints(tmp_path).restore(state()) is None


def test_a_failed_background_save_is_an_error(tmp_path, monkeypatch):
    # Orbax's threads of a failed save wait so many seconds for what will not come, and Python, at
    # its exit, for them. (`shell.exit_now` does not.)
    monkeypatch.setattr("orbax.checkpoint._src.multihost.multihost._DEFAULT_BARRIER_TIMEOUT", 2)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state(1))
    checkpoints.wait()
    shutil.rmtree(tmp_path / "checkpoints")
    (tmp_path / "checkpoints").write_text("a file where the folder was")
    with pytest.raises(UserError, match="could not save a checkpoint"):
        checkpoints.save(2, state(2))
        checkpoints.wait()


def test_a_failed_background_save_is_noticed_before_the_next_save(tmp_path):
    """`check` does not wait; training calls it after each call of the device."""
    checkpoints = filled(tmp_path, count=1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        with pytest.raises(UserError, match=r"could not save a checkpoint .*File too large"):
            checkpoints.save(2, state(2))
            for _ in range(3000):
                checkpoints.check()
                time.sleep(0.01)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert Checkpoints(tmp_path).restore(state())[0] == 1


def test_a_checkpoint_whose_weights_are_not_finite_is_not_used(tmp_path, capsys):
    """Older versions of Canon saved such statistics."""
    filled(tmp_path).close()
    checkpoints = Checkpoints(tmp_path)
    bad = state(5) | {"model_state": {"bn1": {"var": np.array([1.0, -1.0], np.float32)}}}
    checkpoints.save(5, bad)
    checkpoints.wait()
    assert Checkpoints(tmp_path, read_only=True).restore_variables()[0] == 4
    assert "damaged (model_state/bn1/var is not finite or has a neg" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"checkpoint 5 .* cannot be read"):
        Checkpoints(tmp_path, read_only=True).restore(bad, step=5)
