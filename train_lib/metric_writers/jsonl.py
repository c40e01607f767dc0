"""metrics.jsonl: the records of a run, one JSON object per line."""

import json
import math
import os
import pathlib
import sys

from errors import reported
from train_lib.metric_writers.interface import MetricWriter, RunStart
from train_lib.workdir import write_text

FILE = "metrics.jsonl"
_LARGEST = 3.4e38  # a float32


def read(workdir: pathlib.Path) -> list[dict]:
    """The records of a workdir, in order. Half-written and damaged lines are left out.

    Reports damaged lines on standard error. Raises UserError if the file cannot be read.
    """
    path = workdir / FILE
    with reported(f"cannot read {path}", "move it away, or make it readable", OSError):
        text = path.read_text(errors="replace") if path.exists() else ""
    *lines, rest = text.split("\n")  # the rest is empty, or a line that was not completed
    records = [record for line in [*lines, rest] if (record := _record(line))]
    damaged = sum(_record(line) is None for line in lines)
    if damaged:
        print(f"{path}: damaged lines are left out: {damaged}", file=sys.stderr, flush=True)
    return records


def _record(line: str) -> dict | None:
    """The record on a line; None if the line is damaged or half-written."""
    try:
        record = json.loads(line)
        step = record["step"]
        is_whole = type(step) is int and step >= 0 and "epoch" in record
        is_good = is_whole and all(_is_finite(value) for value in record.values())
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return record if is_good else None


def _is_finite(value) -> bool:
    """Whether TensorBoard and a plot can show the value."""
    return type(value) in (int, float) and abs(value) <= _LARGEST and not math.isnan(value)


class JsonlWriter(MetricWriter):
    """Appends records to metrics.jsonl. First deletes all other records than those of `start`."""

    def __init__(self, start: RunStart):
        self.path = start.workdir / FILE
        with self._os_errors_explained():
            if self.path.exists():
                text = "".join(json.dumps(record) + "\n" for record in start.records)
                if text.encode() != self.path.read_bytes():
                    write_text(self.path, text)
            self._file = self.path.open("a")

    def write(self, record: dict) -> None:
        with self._os_errors_explained():
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()

    def sync(self) -> None:
        with self._os_errors_explained():
            os.fsync(self._file.fileno())

    def close(self) -> None:
        with self._os_errors_explained():
            self._file.close()

    def _os_errors_explained(self):
        advice = "free some space or check the folder, then run the same command again"
        return reported(f"cannot write {self.path}", advice, OSError)
