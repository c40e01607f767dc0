"""Signals at the start of a run, and while the main thread runs C++ code, as in a compilation."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from train_lib.distributed.signals import StopRequest

ROOT = pathlib.Path(__file__).parents[3]
# Minutes of C code that no signal interrupts.
BUSY = """
import hashlib, sys
from train_lib.distributed.signals import StopRequest
with StopRequest(owns_process=True) as stop:
    stop.nothing_to_save = sys.argv[1] == "start"
    print("busy", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
@pytest.mark.parametrize(("moment", "signals"), [("start", 1), ("step", 2)])
def test_signals_end_a_process_that_is_busy_in_c_code(name, moment, signals):
    number = getattr(signal, name)
    command = [sys.executable, "-c", BUSY, moment]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "busy\n"
        for i in range(signals):
            if i:
                time.sleep(0.9)  # more than the 0.3 s within which two signals are one request
                assert process.poll() is None  # the first one waits for the loop
            process.send_signal(number)
        _, message = process.communicate(timeout=30)
    if signals == 1:
        assert (process.returncode, message) == (
            75,
            f"-c: stopped before the first step, by {name}\n",
        )
    else:
        assert (process.returncode, message) == (128 + number, f"-c: stopped at once, by {name}\n")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_a_run_stopped_before_its_first_step_asks_to_be_started_again(tmp_path):
    """Also before JAX is imported. A stopped run does not prevent the next start."""
    arguments = ["--config=configs/mlp.py:10", "--config.dataset.name=digits"]
    arguments.append("--config.epochs=100000.0")
    command = [sys.executable, "main.py", *arguments, f"--workdir={tmp_path / 'run'}"]
    for seconds in (0, 2):
        with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
            while not _catches(process.pid, signal.SIGTERM):
                time.sleep(0.01)
            time.sleep(seconds)
            process.send_signal(signal.SIGTERM)
            _, message = process.communicate(timeout=60)
        assert process.returncode == 75, message
        assert "stopped" in message.splitlines()[-1]


def _catches(pid, number):
    """Whether a process has a handler for a signal."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    mask = int(status.split("SigCgt:")[1].split()[0], 16)
    return bool(mask >> (number - 1) & 1)


def test_two_signals_at_once_are_one_request():
    """`timeout` sends a signal to its child, then to the child's group. A later signal counts."""
    with subprocess.Popen(
        [sys.executable, "-c", BUSY, "step"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "busy\n"
        for name in ("SIGTERM", "SIGINT"):  # the system merges two of the same kind
            process.send_signal(getattr(signal, name))
        time.sleep(0.9)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGINT


def test_a_second_signal_interrupts_at_once():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # pytest-xdist ignores it
    try:
        with pytest.raises(KeyboardInterrupt), StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.signal_name == "SIGINT"
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_signal_handlers_are_restored():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with StopRequest(owns_process=True) as stop:
        assert not stop()
        assert signal.getsignal(signal.SIGTERM) not in before
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    assert signal.set_wakeup_fd(-1) == -1
