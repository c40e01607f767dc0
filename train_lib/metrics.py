"""metrics.jsonl and the TensorBoard events of a workdir. No TensorFlow."""

import json
import os
import pathlib

from tensorboardX import SummaryWriter

from errors import UserError
from train_lib.workdir import write_text

FILE = "metrics.jsonl"


def read(workdir: pathlib.Path) -> list[dict]:
    """The records of a workdir, in order; a half-written last line is left out."""
    path = workdir / FILE
    records = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else ():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:  # the process was killed within this line
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            records.append(record)
    return records


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
