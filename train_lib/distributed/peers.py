"""A process's connection to the coordinator: beats, news of the others, and an end with them."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time

from errors import TryAgain, UserError
from train_lib.distributed import coordinator
from train_lib.distributed.signals import STOPPED

# Seconds that a save in the background has before an end; and where the coordinator is gone, whose
# JAX service the save may need, and without which JAX aborts (see `processes`).
_FOR_A_SAVE, _WITHOUT_COORDINATOR = 20.0, 3.0


class Peers:
    """The other processes of this run, as news of them comes.

    index, count: this process's number, and how many there are. port: of JAX's service. stop: a
    `signals.StopRequest` to share with the others, once there is one. is_saving: whether an end
    should wait a moment.
    """

    def __init__(
        self, address: str, count: int, index: int, patience: float, silence: float, what: str
    ):
        """Waits until all are there. Raises TryAgain, naming them, if some are not, and UserError
        where they do not belong together.

        patience: seconds to wait. silence: seconds after which one that says nothing is lost.
        what: a word that must be the same for all.
        """
        self.index, self.count, self.stop = index, count, None
        self.is_saving = lambda: False
        self._meetings, self._met = 0, threading.Event()
        self._lock, self._ending = threading.Lock(), False
        self._lost = False  # one of them: this process is about to end
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal():
            raise UserError(f"--coordinator={address}: give HOST:PORT, of process 0")
        self._service = _start(host, port, count, patience, silence) if index == 0 else None
        self._socket = _connect(host, int(port), patience)
        self._lines = self._socket.makefile("rb")
        self.host = host
        self._send({"process": index, "of": count, "host": socket.gethostname(), "what": what})
        self._socket.settimeout(patience + 10)
        try:
            answer = json.loads(self._lines.readline(coordinator.LONGEST))
            if not isinstance(answer, dict):
                raise ValueError("no object")
        except (OSError, ValueError) as error:
            raise TryAgain(
                f"no answer from {address}: is another program listening there, or has process 0"
                " ended? Start all processes again"
            ) from error
        if "error" in answer:
            raise (TryAgain if answer.get("again") else UserError)(answer["error"])
        self.port = answer["jax"]
        self._silence = silence + 5
        self._socket.settimeout(self._silence)
        for run in (self._listen, self._beat):
            threading.Thread(target=run, daemon=True).start()

    def _send(self, what: dict) -> None:
        with self._lock:
            self._socket.sendall(json.dumps(what).encode() + b"\n")

    def _beat(self) -> None:
        told = False
        with contextlib.suppress(OSError):  # the listener says so
            while not self._ending:
                if self.stop and self.stop.signal_name and not self.stop.is_from_peer and not told:
                    self._send({"stop": self.stop.signal_name})
                    told = True
                self._send({"beat": 1})
                time.sleep(1)

    def _listen(self) -> None:
        while True:
            try:
                line = self._lines.readline(coordinator.LONGEST)
                said = json.loads(line) if line else {"gone": "has ended"}
            except TimeoutError:
                said = {"gone": f"has not answered for {self._silence:g} s"}
            except (OSError, ValueError):
                said = {"gone": "has ended"}
            if self._ending:
                return
            if "gone" in said:
                who = f"process 0's coordinator at {self.host}"
                self._end(f"{who} {said['gone']}", STOPPED, patience=_WITHOUT_COORDINATOR)
            elif "lost" in said:
                who = f"process {said['process']} of {self.count} (on {said['host']})"
                self._end(f"{who} {said['lost']}", STOPPED)
            elif "failed" in said:
                self._end(f"process {said['process']}: {said['failed']}", said["code"], "")
            elif "all" in said:
                self._met.set()
            elif "stop" in said and self.stop:
                self.stop.request_by_peer(f"{said['stop']} in process {said['process']}")

    def _end(
        self,
        why: str,
        code: int,
        then: str = ": this one ends too; the same commands go on from the last checkpoint",
        patience: float = _FOR_A_SAVE,
    ) -> None:
        """Ends this process: its main thread may wait for ever for one that is lost.

        At once, but for a save in the background, which has so many seconds of `patience`.
        """
        self._lost = True
        end = time.monotonic() + patience
        try:
            while self.is_saving() and time.monotonic() < end:
                time.sleep(0.1)
            print(f"{os.path.basename(sys.argv[0])}: {why}{then}", file=sys.stderr, flush=True)
        finally:  # whatever has become of standard error
            os._exit(code)

    def wait_for_peers(self) -> None:
        """Returns once all processes are here. For as long as it takes: the lost are seen."""
        self._meetings += 1
        self._met.clear()
        with contextlib.suppress(OSError):  # the listener says so, and ends this process
            self._send({"here": self._meetings})
        self._met.wait()

    def wait_for_report_of_loss(self) -> None:
        """Time for the coordinator to notice that one is lost; if so, this does not return."""
        time.sleep(3)

    def report_failure(self, message: str, code: int) -> None:
        """Tells the others that this process ends with an error; they end with it.

        Does not return where it is about to end because of another: the error comes of that.
        """
        while self._lost:
            time.sleep(1)
        self._ending = True
        with contextlib.suppress(OSError):
            self._send({"failed": message[:1000], "code": code})

    def leave(self) -> None:
        """At the good end, when nobody needs the others any more."""
        self._ending = True
        with contextlib.suppress(OSError):
            self._send({"bye": 1})
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        if self._service:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._service.wait(5)


def _start(host: str, port: str, count: int, patience: float, silence: float) -> subprocess.Popen:
    """The coordinator, once it listens. In a session of its own: Ctrl-C does not reach it."""
    process = subprocess.Popen(
        [
            sys.executable,
            coordinator.__file__,
            *map(str, (host, port, count, patience, silence)),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
    )
    said = process.stdout.readline().strip()
    process.stdout.close()
    if said != "ready":
        raise UserError(
            f"--coordinator: {said or 'it did not start'}: choose a free port of process 0's host"
        )
    return process


def _connect(host: str, port: int, patience: float) -> socket.socket:
    end = time.monotonic() + patience
    while True:
        try:
            return socket.create_connection((host, port), timeout=10)
        except OSError as error:
            if time.monotonic() > end:
                raise TryAgain(
                    f"process 0 is not to be reached at {host}:{port} ({error}) within"
                    f" {patience:g} s: start it, or correct --coordinator"
                ) from error
            time.sleep(0.2)
