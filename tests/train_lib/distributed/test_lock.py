"""Two runs in one workdir: the second refuses, and a crash does not block."""

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


def test_the_second_process_refuses_and_names_the_first(tmp_path):
    first = start(tmp_path, 0, 60)
    try:
        assert first.stdout.readline() == "held\n"
        said, _ = (second := start(tmp_path, 0, 0)).communicate()
        assert second.returncode == 2
        assert f"process {first.pid} on " in said
        assert "choose another --workdir" in said
        first.send_signal(signal.SIGKILL)
        first.wait()
        said, _ = (third := start(tmp_path, 0, 0)).communicate()  # the crash does not block
        assert (third.returncode, said) == (0, "held\n")
    finally:
        first.kill()
        first.communicate()


def test_of_100_processes_at_once_one_wins(tmp_path):
    starting, go = os.pipe()  # they all wait for its end
    command = [sys.executable, "-c", WHEN_TOLD + HOLD, str(tmp_path), "0", "600"]
    pipes = {"stdin": starting, "stdout": subprocess.PIPE, "text": True, "pass_fds": ()}
    several = [subprocess.Popen(command, cwd=ROOT, **pipes) for _ in range(100)]
    try:
        for process in several:
            assert process.stdout.readline() == "ready\n"
        os.close(go)
        said = [process.stdout.readline() for process in several]
        assert said.count("held\n") == 1
        winner = several[said.index("held\n")]
        assert winner.poll() is None
        for process, line in zip(several, said, strict=True):
            if process is not winner:
                assert process.wait() == 2
                assert "is training in" in line
    finally:
        for process in several:
            process.kill()
            process.communicate()


def test_it_waits_a_moment_for_what_a_killed_run_left(tmp_path):
    first = start(tmp_path, 0, 0.5)
    assert first.stdout.readline() == "held\n"
    with lock.held(tmp_path, patience=20):
        pass
    first.communicate()


def test_without_locks_it_says_so(tmp_path, monkeypatch, capsys):
    def none(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(lock.fcntl, "flock", none)
    with lock.held(tmp_path):
        pass
    assert "cannot be locked" in capsys.readouterr().err


def test_a_run_refuses_a_folder_in_use(tmp_path, tiny):
    from train_lib.train import train_and_evaluate

    (tmp_path / "run").mkdir()
    with lock.held(tmp_path / "run"), pytest.raises(UserError, match="is training in"):
        train_and_evaluate(tiny(), tmp_path / "run")
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["lock"]
