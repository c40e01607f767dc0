"""SIGTERM and Ctrl-C during training: the handler only sets a flag, the loop looks at it."""

import os
import signal
import sys
import threading
import time

from errors import TryAgain

# Seconds within which signals count as one. Launchers may pass on at once what the terminal or
# they themselves sent to the whole group already; who asks a second time takes longer.
_ONE_REQUEST = 0.3
STOPPED = TryAgain.exit_code


class StopRequest:
    """A context: the first SIGTERM or SIGINT sets `signal_name`, a second one acts as usual.

    owns_process: it may end the process itself, by a thread that sees signals while the main
    thread is busy in a compilation: at the first signal while `nothing_to_save` (whoever trains
    sets it to False, once there is something), at a second one in any case.

    is_from_peer: whether it was another process of this run that was asked.
    """

    signal_name: str | None = None
    is_from_peer = False

    def __init__(self, owns_process: bool = False):
        self._owns_process = self.nothing_to_save = owns_process
        self._previous: dict = {}
        self._wakeup = None

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._handle)
            if self._owns_process:
                read, write = os.pipe()
                os.set_blocking(write, False)
                self._wakeup = (write, signal.set_wakeup_fd(write, warn_on_full_buffer=False))
                threading.Thread(target=self._watch, args=(read,), daemon=True).start()
        return self

    def _watch(self, read: int) -> None:
        """Ends the process where the loop could not, or need not."""
        seen, first = 0, 0.0
        while numbers := os.read(read, 64):  # at once: this thread may have had to wait for them
            ours = [number for number in numbers if number in self._previous]
            if not ours:
                continue
            if seen and time.monotonic() - first < _ONE_REQUEST:
                continue
            seen, first = seen + 1, time.monotonic()
            name = signal.Signals(ours[0]).name
            if seen > 1 or self.nothing_to_save:
                program = os.path.basename(sys.argv[0])
                said = "stopped at once" if seen > 1 else "stopped before the first step"
                status = 128 + ours[0] if seen > 1 else STOPPED
                try:
                    print(f"{program}: {said}, by {name}", file=sys.stderr, flush=True)
                finally:  # a terminal that is gone, too
                    os._exit(status)
        os.close(read)

    def _handle(self, number, frame) -> None:
        self.signal_name = self.signal_name or signal.Signals(number).name
        if not self._owns_process:
            self._restore()

    def request_by_peer(self, name: str) -> None:
        """Another process of this run was asked to stop."""
        if self.signal_name is None:
            self.is_from_peer, self.signal_name = True, name

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def __exit__(self, *_) -> None:
        self._restore()
        if self._wakeup:
            write, before = self._wakeup
            signal.set_wakeup_fd(before)
            os.close(write)
            self._wakeup = None

    def __call__(self) -> bool:
        return self.signal_name is not None
