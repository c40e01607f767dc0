"""The clock of a run: what counts as waiting for data."""

import threading
import types

import pytest

from train_lib import console


class Steps:
    """What devices compute, until told that it is done."""

    def __init__(self):
        self.finished = threading.Event()

    def block_until_ready(self):
        assert self.finished.wait(30)
        return self


@pytest.fixture
def clock(monkeypatch):
    clock = types.SimpleNamespace(now=0.0)
    monkeypatch.setattr(console.time, "monotonic", lambda: clock.now)
    return clock


@pytest.fixture
def progress(clock):
    progress = console.Progress(100, 0, 8)
    progress.running()
    yield progress
    progress.close()


def test_waiting_beside_steps_counts_from_their_end(progress, clock):
    steps = Steps()
    with progress.waiting(steps):
        clock.now = 6.0
        steps.finished.set()
        progress._watch.submit(int).result()  # the watch has seen it
        clock.now = 8.0
    progress.done(10)
    assert progress.rate() == 10.0
    assert progress.waited == 0.25


def test_waiting_within_the_steps_is_none(progress, clock):
    steps = Steps()
    with progress.waiting(steps):
        clock.now = 6.0
    clock.now = 8.0
    steps.finished.set()
    progress.done(10)
    progress.rate()
    assert progress.waited == 0.0


def test_waiting_without_steps_counts_whole(progress, clock):
    with progress.waiting():
        clock.now = 6.0
    clock.now = 8.0
    progress.rate()
    assert progress.waited == 0.75
