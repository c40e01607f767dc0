"""SIGTERM and Ctrl-C during training: the handler sets a flag that the training loop looks at."""

import contextlib
import ctypes
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from errors import TryAgain
from train_lib.distributed.shell import exit_now

# Signals within so many seconds are one request: a launcher may pass a signal on that the terminal
# or the launcher itself has already sent to all processes. A person takes longer to ask again.
_SECONDS_OF_ONE_REQUEST = 0.3


class StopRequest:
    """A context in which the first SIGTERM or SIGINT sets `signal_name`. The second acts as usual.

    `stop()` tells whether the run has to stop. is_from_peer: another process of this run received
    the signal. owns_process: a thread may end the process while the main thread is busy in C++
    code, as in a compilation: at the first signal while `nothing_to_save` (the training loop sets
    it to False when it has something to save), and at the second signal always.
    """

    signal_name: str | None = None
    is_from_peer = False

    def __init__(self, owns_process: bool = False):
        self._owns_process = self.nothing_to_save = owns_process
        self._previous_handlers: dict = {}
        self._wakeup = None

    def __call__(self) -> bool:
        return self.signal_name is not None

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous_handlers[number] = signal.signal(number, self._handle)
            if self._owns_process:
                read, write = os.pipe()
                os.set_blocking(write, False)
                self._wakeup = (write, signal.set_wakeup_fd(write, warn_on_full_buffer=False))
                threading.Thread(target=self._watch, args=(read,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._restore_handlers()
        if self._wakeup:
            write, before = self._wakeup
            signal.set_wakeup_fd(before)
            os.close(write)
            self._wakeup = None

    def _restore_handlers(self) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)

    def _handle(self, number, frame) -> None:
        self.signal_name = self.signal_name or signal.Signals(number).name
        if not self._owns_process:
            self._restore_handlers()

    def _watch(self, read: int) -> None:
        """Ends the process when the training loop cannot do it, or has nothing to save."""
        requests, first_time = 0, 0.0
        # All signals so far are read together, because this thread may have had to wait.
        while received := os.read(read, 64):
            numbers = [number for number in received if number in self._previous_handlers]
            is_repeated = requests and time.monotonic() - first_time < _SECONDS_OF_ONE_REQUEST
            if not numbers or is_repeated:
                continue
            requests, first_time = requests + 1, time.monotonic()
            name = signal.Signals(numbers[0]).name
            if requests > 1:
                exit_now(128 + numbers[0], f"stopped at once, by {name}")
            elif self.nothing_to_save:
                exit_now(TryAgain.exit_code, f"stopped before the first step, by {name}")
        os.close(read)

    def request_by_peer(self, signal_name: str) -> None:
        """Another process of this run has received a signal."""
        if self.signal_name is None:
            self.is_from_peer, self.signal_name = True, signal_name


@contextlib.contextmanager
def handled_by(handler: Callable[[int, Any], None]):
    """A context in which SIGTERM and SIGINT call a function, with their number and a frame."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    previous = [signal.signal(number, handler) for number in numbers]
    try:
        yield
    finally:
        for number, before in zip(numbers, previous, strict=True):
            signal.signal(number, before)


def delay_abort() -> None:
    """Lets an abort of this process wait 6 seconds, so that `Peers` can report the cause first.

    JAX's client aborts when its service is gone, as when process 0's container is killed, and no
    option prevents that. `Peers` exits with the status that asks for a new start.
    """
    if os.name == "posix":
        libc = ctypes.CDLL(None)
        # A handler is called with the number of its signal, which is 6 for SIGABRT.
        libc.signal(int(signal.SIGABRT), ctypes.cast(libc.sleep, ctypes.c_void_p))
