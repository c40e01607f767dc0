"""The times of a run, the share of waiting for data, and where a bar is drawn."""

import contextlib
import io
import os
import sys
import threading
import types

import pytest

from train_lib import progress as progress_lib


class Steps:
    """Arrays that devices compute until `finished` is set."""

    def __init__(self):
        self.finished = threading.Event()

    def block_until_ready(self):
        assert self.finished.wait(30)
        return self


@pytest.fixture
def clock(monkeypatch):
    clock = types.SimpleNamespace(now=0.0)
    monkeypatch.setattr(progress_lib.time, "monotonic", lambda: clock.now)
    return clock


@pytest.fixture
def progress(clock):
    progress = progress_lib.Progress(100, 0, 8)
    progress.resume()
    yield progress
    progress.close()


def test_waiting_counts_from_the_end_of_the_running_steps(progress, clock):
    steps = Steps()
    with progress.waiting(steps):
        clock.now = 6.0
        steps.finished.set()
        progress._watch.submit(int).result()  # its end has been noticed
        clock.now = 8.0
    progress.advance(10)
    assert progress.speed() == {"train/images_per_second": 10.0, "train/data_wait": 0.25}


def test_waiting_that_ends_before_the_steps_does_not_count(progress, clock):
    steps = Steps()
    with progress.waiting(steps):
        clock.now = 6.0
    clock.now = 8.0
    steps.finished.set()
    progress.advance(10)
    assert progress.speed()["train/data_wait"] == 0.0


def test_waiting_without_running_steps_counts_completely(progress, clock):
    with progress.waiting():
        clock.now = 6.0
    clock.now = 8.0
    assert progress.speed()["train/data_wait"] == 0.75


class Terminal(io.StringIO):
    """A text buffer that says that it is a terminal."""

    def isatty(self):
        return True


# Like the streams of a Jupyter kernel: they say that they are no terminals.
Cell = type("OutStream", (io.StringIO,), {"__module__": "ipykernel.iostream"})


@pytest.mark.parametrize(("stream", "bar"), [(Terminal, True), (Cell, True), (io.StringIO, False)])
def test_a_bar_is_drawn_on_terminals_and_in_notebooks(monkeypatch, stream, bar):
    monkeypatch.setattr(sys, "stdout", stream())
    monkeypatch.setattr(sys, "stderr", stream())
    progress_lib.opening_block({"model": "mlp"})
    progress = progress_lib.Progress(100, 0, 8)
    progress.advance(50)
    progress.show({"step": 50, "epoch": 1.0, "test/top1_error": 0.25})
    progress.close()
    written, silent = sys.stderr.getvalue(), sys.stdout.getvalue()
    if stream is Cell:  # Jupyter shows standard error as an error
        written, silent = silent, written
    assert silent == ""
    assert written.startswith("model  mlp\n")
    assert ("50/100 [" in written) == bar
    assert ("step 50/100  epoch 1.00  test error 25.00%" in written) != bar
    assert "25.00%" in written
    assert "Warning" not in written  # tqdm.notebook warns if widgets are missing


def test_a_bar_is_drawn_on_a_terminal_of_unknown_width(monkeypatch):
    main, terminal = os.openpty()  # its width is 0
    with os.fdopen(main, "rb", 0) as output, os.fdopen(terminal, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        progress = progress_lib.Progress(100, 0, 8)
        progress.advance(50)
        progress.close()
        stream.close()
        drawn = b""
        with contextlib.suppress(OSError):  # EIO: the end
            while part := output.read(10_000):
                drawn += part
        assert b" 50/100 [" in drawn


@pytest.mark.parametrize("stream", [Terminal, Cell, io.StringIO])
def test_quiet_prints_nothing(monkeypatch, stream):
    monkeypatch.setattr(sys, "stdout", stream())
    monkeypatch.setattr(sys, "stderr", stream())
    progress = progress_lib.Progress(100, 0, 8, quiet=True)
    progress.advance(50)
    progress.show({"step": 50, "epoch": 1.0, "test/top1_error": 0.25})
    progress.close()
    assert sys.stdout.getvalue() == sys.stderr.getvalue() == ""


def test_a_console_that_nobody_reads_ends_no_run(monkeypatch):
    class Closed(io.StringIO):
        def write(self, _):
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Closed())
    progress_lib.opening_block({"model": "lenet5"})
    bar = progress_lib.Progress(2, 0, 8)
    bar.show({"step": 1, "epoch": 1.0, "test/top1_error": 0.5})
    bar.close()


def test_the_stream_of_a_jupyter_kernel_is_recognised():
    iostream = pytest.importorskip("ipykernel.iostream")
    assert iostream.OutStream.__module__.partition(".")[0] == Cell.__module__.partition(".")[0]


def test_the_summary_says_where_the_time_went(clock):
    progress = progress_lib.Progress(100, 0, 8)
    clock.now = 2.0  # the start of a run
    progress.resume()
    clock.now = 12.0
    progress.discard_compilation()  # the first call, which compiles
    with progress.waiting():
        clock.now = 22.0
    clock.now = 62.0
    progress.pause()
    with progress.timed("evaluation"):
        clock.now = 82.0
    with progress.timed("saving"):
        clock.now = 92.0
    clock.now = 100.0
    assert progress.summary() == (
        "time 1 min 40 s: steps 40%, data 10%, compilation 10%, evaluation 20%, saving 10%,"
        " rest 10%"
    )
    progress.close()


def test_several_passes_count_an_image_once(clock, monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    meter = progress_lib.Meter(10, "cifar10 test", num_passes=3)
    for _ in range(3):
        clock.now += 40.0
        meter.advance(10)
    lines = [f"cifar10 test: {count} of 10 images" for count in (3, 6, 10)]
    assert sys.stderr.getvalue().splitlines() == lines
    assert meter.rate() == pytest.approx(10 / 120)
    meter.close()


def test_the_log_of_a_long_run_is_readable(clock, monkeypatch):
    """In a file: a line at each evaluation, at most two a minute otherwise; no drawing."""
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    progress = progress_lib.Progress(5000, 0, 8)
    for step in range(1, 5001):  # a record each second, an evaluation every 500
        clock.now += 1.0
        progress.advance(1)
        test = {"test/top1_error": 0.5} if step % 500 == 0 else {}
        progress.show({"step": step, "epoch": step / 100, "train/top1_error": 0.25} | test)
    progress.close()
    lines = sys.stderr.getvalue().splitlines()
    assert 5000 / 31 - 10 < len(lines) < 5000 / 30 + 10
    assert sum("test error" in line for line in lines) == 10
    assert all(line.isprintable() and len(line) < 100 for line in lines)
    assert lines[-1] == "step 5000/5000  epoch 50.00  train error 25.00%  test error 50.00%"
