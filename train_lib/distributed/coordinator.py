"""The coordinator: a process that tells the processes of a run what happens to the others.

    python coordinator.py HOST PORT COUNT START_TIMEOUT PEER_TIMEOUT

Process 0 starts it as a separate process, which lives long enough to report the loss of process 0.
It uses the standard library and runs JAX's coordination service. JAX would run that service inside
process 0, whose end would then abort all others.

Messages are lines of JSON over TCP. A process first sends `process`, `count`, `host` and `task` (a
digest of what the run is about). When all COUNT processes are connected, or after START_TIMEOUT
seconds, each process receives `jax_port` (of JAX's service), or `error` and `retry` (whether a new
start may succeed). From then on both sides send a `heartbeat` each second. The coordinator passes
`stop` and `failed` on to the other processes, and sends `lost` for a process that closed its
connection without `leaving` or sent nothing for PEER_TIMEOUT seconds. When all processes have sent
`barrier` with the same number, it sends that to all.
"""

import asyncio
import contextlib
import json
import signal
import socket
import sys
import time

MAX_LINE = 2**16  # bytes; a longer line comes from another program


class Coordinator:
    """See above. `serve` returns when every process has left or is lost."""

    def __init__(self, host: str, count: int, start_timeout: float, peer_timeout: float):
        # A machine's own name may resolve to loopback too, but is meant for the other machines.
        is_loopback = host in ("localhost", "::1") or host.startswith("127.")
        self._host = host if is_loopback else None  # None: all interfaces
        self._count = count
        self._start_timeout, self._peer_timeout = start_timeout, peer_timeout
        self._connections: dict[asyncio.StreamWriter, int] = {}  # and the index of the process
        self._greetings: dict[int, dict] = {}  # the first message of each process
        self._last_heard: dict[int, float] = {}  # of the processes that must send heartbeats
        self._barriers: dict[int, int] = {}  # the newest barrier that each process has reached
        self._lost: set[int] = set()
        self._answer: dict | None = None  # to the greetings
        self._is_answered, self._is_over = asyncio.Event(), asyncio.Event()
        self._jax_service = None

    async def serve(self, port: int) -> None:
        """Prints "ready" once it listens. Raises OSError if it cannot listen."""
        server = await asyncio.start_server(self._on_connection, self._host, port, limit=MAX_LINE)
        print("ready", flush=True)
        try:
            await asyncio.wait_for(self._is_answered.wait(), self._start_timeout)
        except TimeoutError:
            missing = [str(i) for i in range(self._count) if i not in self._greetings]
            self._refuse(
                f"processes {', '.join(missing)} of {self._count} did not start within"
                f" {self._start_timeout:g} s: start all of them, or raise --start_timeout",
                retry=True,
            )
        server.close()  # the port is free for the next run
        self._check_over()  # perhaps no process ever connected
        while not self._is_over.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._is_over.wait(), 1)
            self._exchange_heartbeats()

    async def _on_connection(self, reader, writer) -> None:
        try:
            self._admit(await _read(reader), writer)
            index = self._connections[writer]
            while "leaving" not in (message := await _read(reader)):
                self._handle(message, index)
            self._last_heard.pop(index, None)
        except (OSError, ValueError, KeyError, TypeError, EOFError, asyncio.CancelledError):
            pass  # another program connected, or the process has ended
        finally:
            writer.close()
            if writer in self._connections:
                self._on_end_of_connection(self._connections.pop(writer))

    def _admit(self, greeting: dict, writer) -> None:
        """Adds a process. Refuses all processes if it does not belong to them."""
        index, count, task = greeting["process"], greeting["count"], greeting["task"]
        self._connections[writer] = index
        first = next(iter(self._greetings.values()), greeting)
        if self._answer:
            _write(writer, self._answer)
        elif count != self._count or not 0 <= index < count:
            self._refuse(
                f"process {index} was started with --num_processes={count}, process 0 with"
                f" {self._count}: give all the same number"
            )
        elif index in self._greetings:
            self._refuse(f"two processes have --process_id={index}: number them from 0")
        elif task != first["task"]:
            self._refuse(
                f"processes {first['process']} and {index} were started with different configs or"
                " versions: start all with the same command, except for --process_id"
            )
        self._greetings.setdefault(index, greeting)
        if len(self._greetings) == self._count and not self._answer:
            try:
                self._answer_all({"jax_port": self._start_jax_service()})
            except Exception as error:
                text = str(error)[:200]
                self._refuse(
                    f"JAX's service does not start ({text}): start all processes again", retry=True
                )

    def _refuse(self, error: str, retry: bool = False) -> None:
        self._answer_all({"error": error, "retry": retry})

    def _answer_all(self, answer: dict) -> None:
        if not self._answer:
            self._answer = answer
            self._last_heard = dict.fromkeys(self._greetings, time.monotonic())
            self._send_to_all(answer)
            self._is_answered.set()

    def _start_jax_service(self) -> int:
        """The port on which it listens."""
        from jaxlib import _jax  # JAX has no public way to run the service outside of process 0

        with socket.create_server((self._host or "", 0)) as probe:
            port = probe.getsockname()[1]
        # Recoverable, with endless heartbeats: this coordinator reports lost processes itself.
        self._jax_service = _jax.get_distributed_runtime_service(
            f"{self._host or '[::]'}:{port}",
            self._count,
            heartbeat_timeout=10**6,
            shutdown_timeout=5,
            recoverable=True,
        )
        return port

    def _handle(self, message: dict, index: int) -> None:
        self._last_heard[index] = time.monotonic()
        if "barrier" in message:
            self._barriers[index] = message["barrier"]
            if [*self._barriers.values()] == [message["barrier"]] * self._count:
                self._send_to_all(message)
        if "failed" in message:
            del self._last_heard[index]
        if "failed" in message or "stop" in message:
            self._send_to_all(message | {"process": index}, except_for=index)

    def _on_end_of_connection(self, index: int) -> None:
        if self._answer:
            self._report_lost(index, "ended without notice")
            return self._check_over()
        # While the processes wait, one that ended may be started again, unless it is process 0.
        self._greetings.pop(index, None)
        if index == 0:
            self._refuse(
                "process 0 ended while it waited for the others: start all again", retry=True
            )

    def _report_lost(self, index: int, reason: str) -> None:
        """Tells the others, unless the process has said that it leaves or fails."""
        if self._last_heard.pop(index, None) is not None:
            self._lost.add(index)
            message = {"lost": reason, "process": index, "host": self._greetings[index]["host"]}
            self._send_to_all(message, except_for=index)

    def _check_over(self) -> None:
        # A lost process may still be connected, as one that is stopped by SIGSTOP.
        if not set(self._connections.values()) - self._lost:
            self._is_over.set()

    def _send_to_all(self, message: dict, except_for: int | None = None) -> None:
        for writer, index in self._connections.items():
            if index != except_for:
                _write(writer, message)

    def _exchange_heartbeats(self) -> None:
        self._send_to_all({"heartbeat": 1})
        for index, last_heard in list(self._last_heard.items()):
            if time.monotonic() - last_heard > self._peer_timeout:
                self._report_lost(index, f"has not answered for {self._peer_timeout:g} s")
        self._check_over()


async def _read(reader) -> dict:
    line = await reader.readline()
    if not line.endswith(b"\n"):
        raise asyncio.IncompleteReadError(line, None)
    message = json.loads(line)
    if not isinstance(message, dict):
        raise ValueError("not a JSON object")
    return message


def _write(writer, message: dict) -> None:
    writer.write(json.dumps(message).encode() + b"\n")


def main(host: str, port: str, count: str, start_timeout: str, peer_timeout: str) -> None:
    """The command line. Prints one line if it cannot listen."""
    # Some schedulers send signals to all processes of a command. The others still have to save.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    coordinator = Coordinator(host, int(count), float(start_timeout), float(peer_timeout))
    try:
        asyncio.run(coordinator.serve(int(port)))
    except OSError as error:
        print(f"cannot listen at {host}:{port} ({error.strerror or error})", flush=True)
        sys.exit(2)


if __name__ == "__main__":
    main(*sys.argv[1:])
