"""metrics.jsonl and the TensorBoard events of a workdir. No TensorFlow."""

import contextlib
import json
import math
import os
import pathlib
import time

from errors import UserError
from train_lib.workdir import write_text

FILE = "metrics.jsonl"
_LARGEST = 3.4e38  # a float32


def read(workdir: pathlib.Path) -> list[dict]:
    """The records of a workdir, in order; half-written and damaged lines are left out.

    Raises UserError where the file cannot be read.
    """
    path = workdir / FILE
    try:
        text = path.read_text(errors="replace") if path.exists() else ""
    except OSError as error:
        raise UserError(
            f"cannot read {path} ({error}): move it away, or make it readable"
        ) from error
    return [record for line in text.split("\n") if (record := _record(line))]


def _record(line: str) -> dict | None:
    """The record that a line holds; None if it is damaged: the process was killed within it."""
    try:
        record = json.loads(line)
        step = record["step"]
        whole = type(step) is int and step >= 0 and "epoch" in record
        good = whole and all(_is_finite(value) for value in record.values())
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return record if good else None


def _is_finite(value) -> bool:
    """Whether it is a number that TensorBoard and a plot take."""
    return type(value) in (int, float) and abs(value) <= _LARGEST and not math.isnan(value)


class Mirror:
    """What the processes have that do not write: the newest record, and no file."""

    def __init__(self):
        self.last = {"step": -1, "epoch": 0.0}

    @property
    def last_step(self) -> int:
        """The step of the last record; -1 if there is none."""
        return self.last["step"]

    def write(self, record: dict) -> None:
        self.last = record

    def sync(self) -> None:
        pass

    def close(self) -> None:
        pass


class Writer(Mirror):
    """Appends one record a step. Opened at `step`, it first drops all that came behind it.

    So a run that goes on from a checkpoint neither repeats nor misses a step. last: the newest
    record. Raises UserError where it cannot write.
    """

    def __init__(self, workdir: pathlib.Path, step: int):
        super().__init__()
        self.path = workdir / FILE
        with self._named():
            kept = [record for record in read(workdir) if record["step"] <= step]
            self.last = kept[-1] if kept else self.last
            if self.path.exists():
                text = "".join(json.dumps(record) + "\n" for record in kept)
                if text.encode() != self.path.read_bytes():
                    write_text(self.path, text)
            self._file = self.path.open("a")
            self._events = _Events(workdir / "events", step + 1)

    def write(self, record: dict) -> None:
        """record: step, epoch and any of the values named in the README."""
        with self._named():
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
            self._events.write(record)
        self.last = record

    def sync(self) -> None:
        """Puts all records on the disk: called before a checkpoint that lies behind them."""
        with self._named():
            os.fsync(self._file.fileno())

    @contextlib.contextmanager
    def _named(self):
        """Errors of the system as a UserError."""
        try:
            yield
        except OSError as error:
            raise UserError(
                f"cannot write {self.path} or the events beside it ({error}): free some space or"
                " check the folder, then run the same command again"
            ) from error

    def close(self) -> None:
        with self._named(), contextlib.closing(self._file):
            self._events.close()


class _Events:
    """A file of TensorBoard events, opened at the first record and written at once.

    tensorboardX is imported then, and not before the first training step: it imports torch where
    torch is installed, which takes longer than everything else that a run imports.

    tensorboardX's own SummaryWriter leaves that to a thread: an error ends the thread, and the
    next records wait for it for ever.
    """

    def __init__(self, folder: pathlib.Path, first_step: int):
        """TensorBoard forgets what earlier files have from `first_step` on."""
        folder.mkdir(exist_ok=True)
        self._folder, self._first_step = folder, first_step
        self._writer = None

    def _open(self) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2

        # Two of a second, of one process, are two files.
        suffix = f".{os.getpid()}.{time.time_ns()}"
        self._writer = EventsWriter(str(self._folder / "events"), suffix)
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._add(event_pb2.Event(step=self._first_step, session_log=start))

    def _add(self, event) -> None:
        event.wall_time = time.time()
        self._writer.write_event(event)

    def write(self, record: dict) -> None:
        from tensorboardX.proto import event_pb2
        from tensorboardX.summary import scalar

        if self._writer is None:
            self._open()
        for name, value in record.items():
            if name not in ("step", "test/examples"):
                self._add(event_pb2.Event(step=record["step"], summary=scalar(name, value)))
        self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
