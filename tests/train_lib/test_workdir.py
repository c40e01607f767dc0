"""Files of a run's folder: written completely or not at all, also read from older versions."""

import errno
import json
import os

import pytest

from configs import compare, maxout, resnet
from errors import UserError
from train_lib import workdir


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
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


def test_an_option_split_in_two_keeps_its_old_value(tmp_path):
    """In older versions, Maxout's dropout_scaling also applied to the input."""
    now = maxout.get_config()
    stored = json.loads(compare.to_json(now))
    del stored["model"]["input_dropout_scaling"]
    for scaling in ("train", "test"):
        stored["model"]["dropout_scaling"] = scaling
        config = workdir.config_from_json(json.dumps(stored))
        assert config.model.input_dropout_scaling == scaling
    now.model.dropout_scaling = "test"
    (tmp_path / workdir.CONFIG).write_text(json.dumps(stored))
    differences = workdir.different_fields(tmp_path, now)
    assert differences == ["model.input_dropout_scaling: test -> none"]
    mlp = workdir.config_from_json('{"model": {"name": "mlp"}}')
    assert "input_dropout_scaling" not in mlp.model


def test_an_option_of_a_newer_version_gets_its_default(tmp_path):
    now = resnet.get_config()
    stored = json.loads(compare.to_json(now))
    del stored["model"]["pool1_padding"]
    (tmp_path / workdir.CONFIG).write_text(json.dumps(stored))
    assert workdir.different_fields(tmp_path, now) == []
    now.model.pool1_padding = 0
    assert workdir.different_fields(tmp_path, now) == ["model.pool1_padding: 1 -> 0"]


def test_a_description_of_the_data_that_is_a_list_is_one_line(tmp_path):
    (tmp_path / workdir.DATASET).write_text("[]")
    with pytest.raises(UserError, match=r"dataset\.json \(it has no fields\): check that"):
        workdir.read_info(tmp_path)
