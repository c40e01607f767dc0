"""SIGTERM and Ctrl-C during training: the handler only sets a flag, the loop looks at it."""

import signal
import threading


class StopRequest:
    """A context in which the first SIGTERM or SIGINT sets `name`; a second one acts as usual.

    peer: whether it was another process of this run that was asked.
    """

    name: str | None = None
    peer = False

    def __enter__(self) -> "StopRequest":
        self._previous = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def _handle(self, number, frame) -> None:
        self.name, self.peer = self.name or signal.Signals(number).name, self.peer
        self._restore()

    def of_peer(self, name: str) -> None:
        """Another process of this run was asked to stop."""
        if self.name is None:
            self.peer, self.name = True, name

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def __exit__(self, *_) -> None:
        self._restore()

    def __call__(self) -> bool:
        return self.name is not None
