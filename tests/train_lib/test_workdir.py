"""The files of a run's folder are there whole or not at all."""

import errno
import os

import pytest

from errors import UserError
from train_lib import workdir


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "config.json"
    workdir.write_text(path, "before")

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"cannot write .*config\.json .*No space left"):
        workdir.write_text(path, "after")
    assert path.read_text() == "before"
    assert [file.name for file in tmp_path.iterdir()] == ["config.json"]
    monkeypatch.undo()
    workdir.write_text(path, "after")
    assert path.read_text() == "after"
