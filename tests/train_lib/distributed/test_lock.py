"""The lock of a workdir: a second run is refused, and a crash leaves no lock."""

import errno
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from errors import UserError
from train_lib.distributed import lock

ROOT = pathlib.Path(__file__).parents[3]
HOLD = """
import pathlib, sys, time
from errors import UserError
from train_lib.distributed import lock
try:
    with lock.held(pathlib.Path(sys.argv[1]), patience=float(sys.argv[2])):
        print("held", flush=True)
        time.sleep(float(sys.argv[3]))
except UserError as error:
    print(error, flush=True)
    sys.exit(2)
"""
# Before HOLD.
WHEN_TOLD = """
import sys
from train_lib.distributed import lock
print("ready", flush=True)
sys.stdin.read()
"""


def start(folder, patience, seconds):
    command = [sys.executable, "-c", HOLD, str(folder), str(patience), str(seconds)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_a_second_process_is_refused_and_told_the_first(tmp_path):
    first = start(tmp_path, 0, 60)
    try:
        assert first.stdout.readline() == "held\n"
        message, _ = (second := start(tmp_path, 0, 0)).communicate()
        assert second.returncode == 2
        assert f"process {first.pid} on " in message
        assert "choose another --workdir" in message
        first.send_signal(signal.SIGKILL)
        first.wait()
        output, _ = (third := start(tmp_path, 0, 0)).communicate()  # the crash does not block
        assert (third.returncode, output) == (0, "held\n")
    finally:
        first.kill()
        first.communicate()


def test_one_of_100_simultaneous_processes_gets_the_lock(tmp_path):
    starting, go = os.pipe()  # they all wait for its end
    command = [sys.executable, "-c", WHEN_TOLD + HOLD, str(tmp_path), "0", "600"]
    pipes = {"stdin": starting, "stdout": subprocess.PIPE, "text": True, "pass_fds": ()}
    several = [subprocess.Popen(command, cwd=ROOT, **pipes) for _ in range(100)]
    try:
        for process in several:
            assert process.stdout.readline() == "ready\n"
        os.close(go)
        lines = [process.stdout.readline() for process in several]
        assert lines.count("held\n") == 1
        winner = several[lines.index("held\n")]
        assert winner.poll() is None
        for process, line in zip(several, lines, strict=True):
            if process is not winner:
                assert process.wait() == 2
                assert "is training in" in line
    finally:
        for process in several:
            process.kill()
            process.communicate()


def test_it_waits_briefly_for_the_workers_of_a_killed_run(tmp_path):
    first = start(tmp_path, 0, 0.5)
    assert first.stdout.readline() == "held\n"
    with lock.held(tmp_path, patience=20):
        pass
    first.communicate()


def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch, capsys):
    def none(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(lock.fcntl, "flock", none)
    with lock.held(tmp_path):
        pass
    assert "cannot be locked" in capsys.readouterr().err


def test_training_in_a_locked_workdir_is_refused(tmp_path, tiny):
    from train_lib.train import train_and_evaluate

    (tmp_path / "run").mkdir()
    with lock.held(tmp_path / "run"), pytest.raises(UserError, match="is training in"):
        train_and_evaluate(tiny(), tmp_path / "run")
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["lock"]
