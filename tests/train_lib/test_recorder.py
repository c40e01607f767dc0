"""metrics.jsonl after interruptions."""

import errno
import json
import types

import pytest

from errors import UserError
from train_lib import recorder
from train_lib.metric_writers import jsonl
from train_lib.metric_writers.interface import RunStart


def test_reopening_deletes_later_records_and_half_lines(tmp_path):
    writer = recorder.Writer(tmp_path, 0)
    for step in (2, 4, 6):
        writer.write({"step": step, "epoch": step / 10, "train/loss": 1.0 / step})
    writer.close()
    path = tmp_path / jsonl.FILE
    path.write_bytes(path.read_bytes() + b'{"step": 8, "ep\xff')
    assert [r["step"] for r in recorder.read(tmp_path)] == [2, 4, 6]
    writer = recorder.Writer(tmp_path, 5)
    assert writer.last["step"] == 4
    writer.write({"step": 6, "epoch": 0.6})
    writer.close()
    lines = path.read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4, 6]
    assert json.loads(lines[1])["train/loss"] == 0.25


def test_damaged_lines_are_reported(tmp_path, capsys):
    lines = ['{"step": 1, "epoch": 0.1}', '{"step": 2, "ep\0', '{"step": 3, "epoch": 0.3}']
    path = tmp_path / jsonl.FILE
    path.write_text("\n".join([*lines, '{"st']))
    assert [r["step"] for r in recorder.read(tmp_path)] == [1, 3]
    assert capsys.readouterr().err == f"{path}: damaged lines are left out: 1\n"
    recorder.Writer(tmp_path, 3).close()
    capsys.readouterr()
    recorder.read(tmp_path)
    assert capsys.readouterr().err == ""


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    writer = jsonl.JsonlWriter(RunStart(tmp_path))

    def write(text):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writer, "_file", types.SimpleNamespace(write=write))
    with pytest.raises(UserError, match=r"metrics\.jsonl .*No space left.*free some space"):
        writer.write({"step": 1, "epoch": 0.1})


def test_every_evaluation_has_the_training_loss(finished_run):
    """Also between two multiples of log_every_steps, as after a short epoch."""
    evaluations = [r for r in recorder.read(finished_run[0]) if "test/loss" in r]
    assert [record["step"] for record in evaluations] == [15, 29]  # 4 steps between other lines
    for record in evaluations:
        assert record["train/loss"] > 0
        assert 0 <= record["train/top1_error"] <= 1
        assert record["train/examples"] == (record["step"] % 4) * 100
