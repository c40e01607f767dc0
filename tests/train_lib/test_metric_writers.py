"""Loggers beside metrics.jsonl: those that a caller gives, and Trackio."""

import json
import os
import shutil
import socket

import jax
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from errors import UserError
from train_lib import recorder, train
from train_lib.metric_writers import jsonl, trackio_writer
from train_lib.metric_writers.interface import MetricWriter, RunStart
from train_lib.metric_writers.jsonl import read

CLOCKED = ("train/images_per_second", "train/data_wait")


def records_of(steps):
    return [{"step": step, "epoch": step / 10, "train/loss": 1.0 / step} for step in steps]


class Listener(MetricWriter):
    """A writer that keeps its records in a list."""

    def __init__(self, start):
        self.start, self.calls = start, []

    def write(self, record):
        self.calls.append(dict(record))
        record.clear()

    def sync(self):
        self.calls.append("sync")

    def close(self):
        self.calls.append("close")


class WriteOnly(MetricWriter):
    """The shortest logger. It fails at a step."""

    def __init__(self, start):
        self.steps = []

    def write(self, record):
        self.steps.append(record["step"])
        if record["step"] >= 6:
            raise RuntimeError("no more room\nat all")


def test_a_run_tells_its_writers_everything_and_does_not_depend_on_them(
    tiny, finished_run, tmp_path, capsys
):
    opened = []

    def opener(kind):
        def opening(start):
            opened.append(kind(start))
            return opened[-1]

        return opening

    writers = [opener(WriteOnly), opener(Listener)]
    state = train.train_and_evaluate(tiny(), tmp_path / "run", writers=writers)
    failed, listener = opened
    stored = read(tmp_path / "run")
    assert [call for call in listener.calls if isinstance(call, dict)] == stored
    assert listener.calls[-1] == "close"
    steps = [call if call == "sync" else call["step"] for call in listener.calls[:-1]]
    assert steps[:4] == [4, "sync", 8, "sync"]  # before the checkpoints of steps 5 and 10
    assert (listener.start.name, listener.start.step) == ("run", 0)
    assert listener.start.config["model"]["name"] == "lenet5"
    # The one that failed is named once, and changed nothing.
    assert failed.steps == [4, 8]
    lines = [line for line in capsys.readouterr().err.splitlines() if "WriteOnly" in line]
    (line,) = lines
    assert line.startswith("WriteOnly failed at step 8 (no more room) and gets no further records")
    workdir, expected = finished_run
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state.params), expected.params)
    for record, other in zip(stored, read(workdir), strict=True):
        assert {k: v for k, v in record.items() if k not in CLOCKED} == {
            k: v for k, v in other.items() if k not in CLOCKED
        }


def test_a_resumed_writer_gets_the_records_up_to_the_step(tmp_path):
    writer = recorder.Writer(tmp_path, 0)
    for record in records_of((2, 4, 6)):
        writer.write(record)
    writer.close()
    starts = []
    writer = recorder.Writer(tmp_path, 5, {"seed": 1}, [lambda s: starts.append(s) or Listener(s)])
    writer.close()
    (start,) = starts
    assert (start.step, list(start.records)) == (5, records_of((2, 4)))
    assert start.config == {"seed": 1}
    start.records[-1].clear()
    assert writer.last == records_of([4])[0]


def test_a_writer_that_cannot_be_opened_is_one_line(tmp_path):
    def broken_logger(start):
        raise ConnectionError("nobody answers")

    message = r"^cannot open the writer broken_logger \(nobody answers\): correct it, or train"
    with pytest.raises(UserError, match=message):
        recorder.Writer(tmp_path, 0, {}, [broken_logger])


def test_a_writer_that_fails_at_its_end_is_reported(tmp_path, capsys):
    class Rude(Listener):
        def close(self):
            raise RuntimeError("not now")

    writer = recorder.Writer(tmp_path, 0, {}, [Rude])
    writer.write(records_of([1])[0])
    writer.close()
    assert capsys.readouterr().err.startswith("Rude failed at the end (not now)")
    assert read(tmp_path) == records_of([1])


# ------------------------------------------------------------------------------------- Trackio


def test_training_without_trackio_says_what_to_install(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(trackio_writer.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs Trackio: python -m pip install trackio"):
        train.train_and_evaluate(tiny(tracker="trackio"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_trackio_may_not_write_to_another_machine(monkeypatch):
    monkeypatch.setattr(trackio_writer.importlib.util, "find_spec", lambda name: "installed")
    trackio_writer.check()
    monkeypatch.setenv("TRACKIO_SPACE_ID", "someone/board")
    with pytest.raises(UserError, match=r"TRACKIO_SPACE_ID .*: unset it"):
        trackio_writer.check()


@pytest.fixture(scope="module")
def trackio(tmp_path_factory):
    """The package, with a database of its own and the token of a user who is logged in."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        # Trackio and the hub's client read them when they are imported.
        monkeypatch.setenv("TRACKIO_DIR", str(tmp_path_factory.mktemp("trackio")))
        monkeypatch.setenv("HF_TOKEN", "hf_none")
        yield pytest.importorskip("trackio", reason="Trackio is not installed")


def tracked(trackio, name):
    """[(id, records)] of the runs of this name."""
    from trackio.sqlite_storage import SQLiteStorage

    return [
        (run.id, SQLiteStorage.get_logs("canon", name, run_id=run.id))
        for run in trackio.Api().runs("canon")
        if run.name == name
    ]


def without_time(logs):
    return [{name: v for name, v in log.items() if name != "timestamp"} for log in logs]


def test_trackio_holds_the_records_of_a_training(trackio, tiny, tmp_path, monkeypatch, capfd):
    attempts = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *host, **_: attempts.append(host) or 1 / 0)
    workdir = tmp_path / "tracked"
    train.train_and_evaluate(tiny(tracker="trackio"), workdir)
    ((_, logs),) = tracked(trackio, "tracked")
    assert without_time(logs) == read(workdir)
    (run,) = [run for run in trackio.Api().runs("canon") if run.name == "tracked"]
    assert run.config["model.name"] == "lenet5" and run.config["workdir"] == str(workdir)
    assert not attempts  # no network
    out, err = capfd.readouterr()
    assert out.startswith("test error ")  # Trackio's own messages are not printed
    assert "tracked by Trackio as tracked: trackio show --project canon" in err


def test_trackio_neither_repeats_nor_misses_a_record_of_a_resumed_run(trackio, tmp_path):
    workdir = tmp_path / "resumed"
    workdir.mkdir()
    writer = recorder.Writer(workdir, 0, {}, [trackio_writer.TrackioWriter])
    for record in records_of((2, 4, 6)):
        writer.write(record)
    writer.close()
    # The process was killed before Trackio stored this record, and after metrics.jsonl did.
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(records_of([7])[0]) + "\n")
    writer = recorder.Writer(workdir, 7, {}, [trackio_writer.TrackioWriter])
    writer.close()
    ((_, logs),) = tracked(trackio, "resumed")
    assert without_time(logs) == records_of((2, 4, 6, 7))
    writer = recorder.Writer(workdir, 5, {}, [trackio_writer.TrackioWriter])
    writer.write({"step": 6, "epoch": 0.6, "train/loss": 9.0})
    writer.close()
    ((_, logs),) = tracked(trackio, "resumed")
    assert without_time(logs) == [*records_of((2, 4)), {"step": 6, "epoch": 0.6, "train/loss": 9.0}]


def test_trackio_keeps_the_runs_of_other_folders(trackio, tmp_path):
    """Also those of the same name: a copy of a run's folder, and a new run in a folder's place."""
    first = tmp_path / "a" / "same"
    start = RunStart(first, 2, {}, records_of((1, 2)))
    first.mkdir(parents=True)
    trackio_writer.TrackioWriter(start).close()
    shutil.copytree(first, tmp_path / "b" / "same")
    copy = RunStart(tmp_path / "b" / "same", 1, {}, records_of([1]))
    trackio_writer.TrackioWriter(copy).close()
    shutil.rmtree(first)
    first.mkdir()
    trackio_writer.TrackioWriter(RunStart(first, 3, {}, records_of((1, 2, 3)))).close()
    assert sorted(len(logs) for _, logs in tracked(trackio, "same")) == [1, 2, 3]


def test_records_are_on_the_disk_before_a_checkpoint(tmp_path, monkeypatch):
    writer, synced = recorder.Writer(tmp_path, 0), []
    writer.write({"step": 1, "epoch": 0.1})
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.fstat(file).st_ino))
    writer.sync()
    assert (tmp_path / jsonl.FILE).stat().st_ino in synced


def test_tensorboard_ignores_the_values_behind_the_step_of_a_resumed_run(tmp_path):
    """A START at step s voids the values of earlier files from s on."""
    for step, values in ((0, {2: 0.5, 4: 0.25}), (2, {4: 0.125})):
        writer = recorder.Writer(tmp_path, step)
        for at, value in values.items():
            writer.write({"step": at, "epoch": 0.1, "train/loss": value})
        writer.close()
    found = []
    for path in sorted((tmp_path / "events").iterdir()):
        data = path.read_bytes()
        while data:  # length (8 bytes), its checksum (4), the event, its checksum (4)
            length = int.from_bytes(data[:8], "little")
            event = Event.FromString(data[12 : 12 + length])
            values = {value.tag: value.simple_value for value in event.summary.value}
            found += [(event.step, values["train/loss"])] if "train/loss" in values else []
            if event.session_log.status == SessionLog.START:
                found.append((event.step, "start"))
            data = data[16 + length :]
    assert found == [(1, "start"), (2, 0.5), (4, 0.25), (3, "start"), (4, 0.125)]
