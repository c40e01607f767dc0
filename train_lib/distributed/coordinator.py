"""The process that keeps a run's processes together: who is there, who is lost, what one says.

    python coordinator.py HOST PORT COUNT PATIENCE SILENCE

Started by process 0, and not a part of it: it outlives it by the moments that the others need to
learn that it is gone, and to go. Standard library, but for JAX's own service, which it holds too
(JAX would run it within process 0, whose end would then be an abort of all others).

Lines of JSON over TCP. A process begins with `process`, `of`, `host` and `what` (a digest of what
it is about to do); once all COUNT are there, or PATIENCE seconds are over, each gets `jax` (the
port of JAX's service) or `error`, and with it `again`, whether a new start may mend it. Then both
sides send a line a second; `stop` and `failed` go from one to all, and so does `lost`, for one that
closed its connection without `bye` or was silent for SILENCE seconds. Once all have said that they
are `here` for the n-th time, `all` tells them so.
"""

import asyncio
import json
import signal
import socket
import sys
import time

LONGEST = 2**16  # bytes of a line: what is longer is none of ours


class Coordinator:
    """See above. Gone when every connection is closed."""

    def __init__(self, host: str, count: int, patience: float, silence: float):
        self._host, self._count = host, count
        self._patience, self._silence = patience, silence
        self._writers: dict[int, asyncio.StreamWriter] = {}
        self._hellos: dict[int, dict] = {}
        self._heard: dict[int, float] = {}
        self._complete, self._over = asyncio.Event(), asyncio.Event()
        self._refusal: dict | None = None
        self._service = self._port = None
        self._lost_ones: set[int] = set()
        self._here: dict[int, int] = {}

    async def serve(self, port: int) -> None:
        """Until all have left. Prints "ready" once it listens. Raises OSError if it cannot."""
        host = self._host if _is_loopback(self._host) else None
        server = await asyncio.start_server(self._connected, host, port, limit=LONGEST)
        print("ready", flush=True)
        try:
            await asyncio.wait_for(self._complete.wait(), self._patience)
        except TimeoutError:
            missing = [str(i) for i in range(self._count) if i not in self._hellos]
            self._refuse(
                f"of {self._count} processes {', '.join(missing)} did not come within"
                f" {self._patience:g} s: start all of them, or raise --start_timeout",
                again=True,
            )
        server.close()  # the port is free for the next run
        self._is_over()  # perhaps nobody ever came
        watch = asyncio.create_task(self._watch())
        await self._over.wait()
        watch.cancel()

    def _refuse(self, why: str, again: bool = False) -> None:
        self._refusal = self._refusal or {"error": why, "again": again}
        self._complete.set()

    def _start_service(self) -> None:
        from jaxlib import _jax  # JAX has no public way to run it apart from process 0

        host = self._host if _is_loopback(self._host) else ""
        with socket.create_server((host, 0)) as probe:
            self._port = probe.getsockname()[1]
        # Recoverable: it keeps quiet about who is lost, which is told here. So do its heartbeats.
        self._service = _jax.get_distributed_runtime_service(
            f"{host or '[::]'}:{self._port}",
            self._count,
            heartbeat_timeout=10**6,
            shutdown_timeout=5,
            recoverable=True,
        )

    async def _connected(self, reader, writer) -> None:
        index = None
        try:
            hello = await _read(reader)
            index = self._admit(hello, writer)
            if not await self._all_came(reader):
                return self._forget(index)
            if self._refusal is None and self._service is None:
                try:
                    self._start_service()
                except Exception as error:
                    self._refuse(
                        f"JAX's service does not start ({str(error)[:200]}): try again", again=True
                    )
            _write(writer, self._refusal or {"jax": self._port})
            await writer.drain()
            if not self._refusal:
                await self._follow(index, reader)
        except (OSError, ValueError, KeyError, TypeError, EOFError, asyncio.CancelledError):
            pass  # a stranger, or one that has gone
        finally:
            writer.close()
            if index is not None and self._writers.get(index) is writer:
                del self._writers[index]
            self._is_over()

    async def _all_came(self, reader) -> bool:
        """Waits for all; whether the process on this connection waited as well."""
        complete = asyncio.create_task(self._complete.wait())
        gone = asyncio.create_task(reader.read(1))  # nothing is said before the answer
        await asyncio.wait({complete, gone}, return_when=asyncio.FIRST_COMPLETED)
        came = self._complete.is_set()
        for task in (complete, gone):
            task.cancel()
        await asyncio.gather(complete, gone, return_exceptions=True)
        return came

    def _forget(self, index: int) -> None:
        """One that left while it waited; it may be started again. All end without process 0."""
        self._hellos.pop(index, None)
        self._heard.pop(index, None)
        if index == 0:
            self._refuse("process 0 ended while it waited for the others: start all", again=True)

    def _is_over(self) -> None:
        """All have left, but for those that are lost: one that was stopped is still connected."""
        if self._complete.is_set() and not self._writers.keys() - self._lost_ones:
            self._over.set()

    def _admit(self, hello: dict, writer) -> int | None:
        """Its number; None, and the refusal of all, for one that does not fit."""
        index, count = hello["process"], hello["of"]
        first = next(iter(self._hellos.values()), hello)
        if count != self._count or not 0 <= index < count:
            self._refuse(f"process {index} says that there are {count} processes: {self._count}")
        elif index in self._hellos:
            self._refuse(f"two processes say that they are number {index} of {count}")
        elif hello["what"] != first["what"]:
            self._refuse(
                f"processes {first['process']} and {index} were started with other configs or"
                " versions: start all with the same command, but for --process_id"
            )
        self._hellos[index], self._writers[index] = hello, writer
        self._heard[index] = time.monotonic()
        if len(self._hellos) == self._count:
            self._complete.set()
        return index

    async def _follow(self, index: int, reader) -> None:
        """What process `index` says, until it leaves."""
        while True:
            try:
                said = await _read(reader)
            except (OSError, ValueError, EOFError):
                return self._lost(index, "ended without a word")
            self._heard[index] = time.monotonic()
            if "bye" in said:
                return self._heard.pop(index, None)
            if "failed" in said:
                self._heard.pop(index, None)
            if "here" in said:
                self._here[index] = said["here"]
                if len(self._here) == self._count and len(set(self._here.values())) == 1:
                    self._tell({"all": said["here"]})
            if "failed" in said or "stop" in said:
                self._tell(said | {"process": index}, but=index)

    def _lost(self, index: int, why: str) -> None:
        if self._heard.pop(index, None) is not None:
            self._lost_ones.add(index)
            self._is_over()
            host = self._hellos[index]["host"]
            self._tell({"lost": why, "process": index, "host": host}, but=index)

    def _tell(self, what: dict, but: int | None = None) -> None:
        for index, writer in self._writers.items():
            if index != but:
                _write(writer, what)

    async def _watch(self) -> None:
        """Sends the beat, and looks for those that are silent."""
        while True:
            await asyncio.sleep(1)
            now = time.monotonic()
            for writer in self._writers.values():
                _write(writer, {"beat": 1})
            for index, heard in list(self._heard.items()):
                if now - heard > self._silence:
                    self._lost(index, f"has not answered for {self._silence:g} s")


def _is_loopback(host: str) -> bool:
    """Whether only this machine is meant. A machine's own name may stand for loopback, too, and
    is yet meant for the others."""
    return host in ("localhost", "::1") or host.startswith("127.")


async def _read(reader) -> dict:
    line = await reader.readline()
    if not line.endswith(b"\n"):
        raise asyncio.IncompleteReadError(line, None)
    said = json.loads(line)
    if not isinstance(said, dict):
        raise ValueError("no object")
    return said


def _write(writer, what: dict) -> None:
    writer.write(json.dumps(what).encode() + b"\n")


def main(host: str, port: str, count: str, patience: str, silence: str) -> None:
    """The command line. What goes wrong at the start is one line on standard output."""

    # Some schedulers send it to all processes of a command. Those that train save together first.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)

    async def run():
        await Coordinator(host, int(count), float(patience), float(silence)).serve(int(port))

    try:
        asyncio.run(run())
    except OSError as error:
        print(f"cannot listen at {host}:{port} ({error.strerror or error})", flush=True)
        sys.exit(2)


if __name__ == "__main__":
    main(*sys.argv[1:])
