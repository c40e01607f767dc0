"""Two runs in one workdir: the second refuses, and a crash does not block."""

import concurrent.futures
import errno
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from errors import UserError
from train_lib import lock

ROOT = pathlib.Path(__file__).parents[2]
HOLD = """
import pathlib, sys, time
from errors import UserError
from train_lib import lock
try:
    with lock.held(pathlib.Path(sys.argv[1]), patience=float(sys.argv[2])):
        print("held", flush=True)
        time.sleep(float(sys.argv[3]))
except UserError as error:
    print(error, flush=True)
    sys.exit(2)
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


def test_of_many_at_once_one_wins_each_time(tmp_path):
    for _ in range(5):
        ready, over = threading.Barrier(100), threading.Event()

        def compete(ready=ready, over=over):
            ready.wait()
            try:
                with lock.held(tmp_path, patience=0):
                    over.wait(10)
                    return 1
            except UserError:
                return 0

        with concurrent.futures.ThreadPoolExecutor(100) as pool:
            futures = [pool.submit(compete) for _ in range(100)]
            ended = [next(concurrent.futures.as_completed(futures, 20)).result()]
            while sum(future.done() for future in futures) < 99:
                time.sleep(0.01)
            over.set()
            assert ended == [0]
            assert sum(future.result() for future in futures) == 1


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
