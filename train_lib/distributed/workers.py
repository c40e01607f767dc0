"""Worker processes that decode images: they end with their run and leave nothing behind."""

import functools
import os
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing import resource_tracker, shared_memory

from absl import flags


def prefetch_in_processes(count: int) -> Callable | None:
    """A function that lets `count` worker processes make the elements of a Grain `IterDataset`.

    Each process makes one element ahead. None for no processes.
    """
    return functools.partial(_prefetch, count) if count else None


def _prefetch(count: int, dataset):
    import grain

    if not flags.FLAGS.is_parsed():  # in a notebook or test; Grain reads flags of its own
        flags.FLAGS.mark_as_parsed()
    _start_resource_tracker()
    parent = os.getpid()
    options = grain.MultiprocessingOptions(count, per_worker_buffer_size=1)
    return dataset.mp_prefetch(options, lambda *_: begin_worker(parent))


def begin_worker(parent: int) -> None:
    """Prepares a worker process. parent: the process ID of the training process.

    The worker ends after its parent, even a killed one; Grain's workers would stay. SIGTERM and
    SIGINT, which may be sent to all processes of a command, do not end it: the parent needs its
    workers until it has saved. And no shared memory of a killed worker stays: Python announces a
    block to the resource tracker, which frees it, only after making it. Here that comes first.
    """
    make_filename = shared_memory._make_filename

    def announced_filename() -> str:
        name = make_filename()
        resource_tracker.register(name, "shared_memory")
        return name

    def end_with_parent():
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    shared_memory._make_filename = announced_filename
    threading.Thread(target=end_with_parent, daemon=True).start()


def _start_resource_tracker() -> None:
    """Starts Python's process that frees the shared memory of killed workers, without warnings."""
    variable, hidden = "PYTHONWARNINGS", "ignore:resource_tracker:UserWarning"
    before = os.environ.get(variable)
    os.environ[variable] = f"{before},{hidden}" if before else hidden
    try:
        resource_tracker.ensure_running()
    finally:
        del os.environ[variable]
        if before is not None:
            os.environ[variable] = before
