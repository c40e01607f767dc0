"""A process's connection to the coordinator, which reports what happens to the other processes."""

import contextlib
import dataclasses
import json
import os
import socket
import subprocess
import sys
import threading
import time

from errors import TryAgain, UserError
from train_lib.distributed import coordinator
from train_lib.distributed.shell import exit_now

# Seconds that an exit waits for a save in the background. Without the coordinator the time is
# shorter: the save may need JAX's service, which the coordinator runs, and JAX aborts without it.
_SAVE_TIMEOUT, _SAVE_TIMEOUT_WITHOUT_COORDINATOR = 20.0, 3.0


@dataclasses.dataclass(frozen=True)
class Group:
    """The processes that train one network together.

    coordinator: HOST:PORT at which process 0 starts the coordinator.
    count: number of processes. index: number of this process, 0 ... count - 1.
    local_devices: numbers of the devices that this process may use on its machine; None: all.
    start_timeout: seconds to wait until all processes have started.
    peer_timeout: all processes end if one of them does not answer for this many seconds.
    """

    coordinator: str
    count: int
    index: int
    local_devices: tuple[int, ...] | None = None
    start_timeout: float = 50.0
    peer_timeout: float = 30.0


class Peers:
    """The other processes of this run. If one is lost or fails, this process exits.

    host, jax_port: address of JAX's service. stop: the `signals.StopRequest` that all processes
    share, or None at first. is_saving: () -> True while an exit must wait for a save.
    """

    def __init__(self, group: Group, task: str):
        """Waits until all processes are connected. task: must be the same in all processes.

        Raises TryAgain if some processes are missing, and UserError if they do not fit together.
        """
        self.index, self.count = group.index, group.count
        self.stop, self.is_saving = None, lambda: False
        self._barrier, self._barrier_passed = 0, threading.Event()
        self._send_lock = threading.Lock()
        self._is_leaving = self._is_exiting = False
        self.host, _, port = group.coordinator.rpartition(":")
        if not self.host or not port.isdecimal() or not 0 < int(port) < 2**16:
            raise UserError(f"--coordinator={group.coordinator}: give process 0's HOST:PORT")
        self._process = _start_coordinator(self.host, port, group) if group.index == 0 else None
        self._socket = _connect(self.host, int(port), group.start_timeout)
        self._lines = self._socket.makefile("rb")
        greeting = {"process": group.index, "count": group.count, "task": task}
        self._send(greeting | {"host": socket.gethostname()})
        self._socket.settimeout(group.start_timeout + 10)
        try:
            answer = json.loads(self._lines.readline(coordinator.MAX_LINE))
            if not isinstance(answer, dict):
                raise ValueError("not a JSON object")
        except (OSError, ValueError) as error:
            raise TryAgain(
                f"no answer from {group.coordinator}: perhaps another program listens there, or"
                " process 0 has ended; start all processes again"
            ) from error
        if "error" in answer:
            raise (TryAgain if answer.get("retry") else UserError)(answer["error"])
        self.jax_port = answer["jax_port"]
        self._timeout = group.peer_timeout + 5
        self._socket.settimeout(self._timeout)
        for run in (self._receive_messages, self._send_heartbeats):
            threading.Thread(target=run, daemon=True).start()

    def _send(self, message: dict) -> None:
        with self._send_lock:
            self._socket.sendall(json.dumps(message).encode() + b"\n")

    def _send_heartbeats(self) -> None:
        is_stop_sent = False
        with contextlib.suppress(OSError):  # `_receive_messages` notices it too
            while not self._is_leaving:
                stop = self.stop
                if stop and stop.signal_name and not stop.is_from_peer and not is_stop_sent:
                    self._send({"stop": stop.signal_name})
                    is_stop_sent = True
                self._send({"heartbeat": 1})
                time.sleep(1)

    def _receive_messages(self) -> None:
        while True:
            try:
                message = json.loads(self._lines.readline(coordinator.MAX_LINE))
            except TimeoutError:
                message = {"no coordinator": f"has not answered for {self._timeout:g} s"}
            except (OSError, ValueError):  # the latter at the end of the connection
                message = {"no coordinator": "has ended"}
            if self._is_leaving:
                return
            if "no coordinator" in message:
                who, why = f"process 0's coordinator at {self.host}", message["no coordinator"]
                self._exit(f"{who} {why}", save_timeout=_SAVE_TIMEOUT_WITHOUT_COORDINATOR)
            elif "lost" in message:
                who = f"process {message['process']} of {self.count} (on {message['host']})"
                self._exit(f"{who} {message['lost']}")
            elif "failed" in message:
                self._exit(f"process {message['process']}: {message['failed']}", message["code"])
            elif "barrier" in message:
                self._barrier_passed.set()
            elif "stop" in message and self.stop:
                self.stop.request_by_peer(f"{message['stop']} in process {message['process']}")

    def _exit(
        self, reason: str, status: int | None = None, save_timeout: float = _SAVE_TIMEOUT
    ) -> None:
        """Exits once no save is under way: the main thread may wait forever for a lost process.

        status: None if a new start may succeed.
        """
        self._is_exiting = True
        if status is None:
            status = TryAgain.exit_code
            reason += ": this process ends too; the same commands resume from the last checkpoint"
        deadline = time.monotonic() + save_timeout
        with contextlib.suppress(Exception):
            while self.is_saving() and time.monotonic() < deadline:
                time.sleep(0.1)
        exit_now(status, reason)

    def wait_for_peers(self) -> None:
        """Returns when all processes have called this. It has no time limit."""
        self._barrier += 1
        self._barrier_passed.clear()
        with contextlib.suppress(OSError):  # `_receive_messages` notices it and exits
            self._send({"barrier": self._barrier})
        self._barrier_passed.wait()

    def wait_for_report_of_loss(self) -> None:
        """Does not return if a process was lost: allows the coordinator time to report it."""
        time.sleep(3)

    def report_failure(self, message: str, status: int) -> None:
        """Tells the others that this process ends with an error, so that they end too.

        Does not return if this process already exits because of another process.
        """
        while self._is_exiting:
            time.sleep(1)
        self._is_leaving = True
        with contextlib.suppress(OSError):
            self._send({"failed": message[:1000], "code": status})

    def leave(self) -> None:
        """Ends the connection. From now on this process does not notice the end of another."""
        self._is_leaving = True
        with contextlib.suppress(OSError):
            self._send({"leaving": 1})
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        if self._process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)


def _start_coordinator(host: str, port: str, group: Group) -> subprocess.Popen:
    """Returns when the coordinator listens. Its session is new: Ctrl-C does not reach it."""
    arguments = (host, port, group.count, group.start_timeout, group.peer_timeout)
    process = subprocess.Popen(
        [sys.executable, coordinator.__file__, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
    )
    answer = process.stdout.readline().strip()
    process.stdout.close()
    if answer != "ready":
        answer = answer or "the coordinator did not start"
        raise UserError(f"--coordinator: {answer}: choose a free port of process 0's host")
    return process


def _connect(host: str, port: int, timeout: float) -> socket.socket:
    deadline = time.monotonic() + timeout
    while True:
        try:
            return socket.create_connection((host, port), timeout=10)
        except OSError as error:
            if time.monotonic() > deadline:
                raise TryAgain(
                    f"process 0 cannot be reached at {host}:{port} ({error}) within {timeout:g} s:"
                    " start it, or correct --coordinator"
                ) from error
            time.sleep(0.2)
