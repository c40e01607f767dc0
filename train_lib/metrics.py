"""metrics.jsonl and the TensorBoard events of a workdir. No TensorFlow."""

import json
import math
import os
import pathlib

from tensorboardX import SummaryWriter

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
    record.
    """

    def __init__(self, workdir: pathlib.Path, step: int):
        self.path = workdir / FILE
        super().__init__()
        kept = [record for record in read(workdir) if record["step"] <= step]
        self.last = kept[-1] if kept else self.last
        if self.path.exists():
            text = "".join(json.dumps(record) + "\n" for record in kept)
            if text.encode() != self.path.read_bytes():
                write_text(self.path, text)
        self._file = self.path.open("a")
        self._events = SummaryWriter(str(workdir / "events"), purge_step=step + 1)

    def write(self, record: dict) -> None:
        """record: step, epoch and any of the values named in the README."""
        try:
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
            for name, value in record.items():
                if name not in ("step", "test/examples"):
                    self._events.add_scalar(name, value, record["step"])
        except OSError as error:
            raise self._failed(error) from error
        self.last = record

    def sync(self) -> None:
        """Puts all records on the disk: called before a checkpoint that lies behind them."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> UserError:
        return UserError(f"cannot write {self.path} ({error}): free some space, run again")

    def close(self) -> None:
        self._file.close()
        self._events.close()
