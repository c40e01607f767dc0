"""What a user sees of a run on the console: the opening block, progress, and where time went."""

import concurrent.futures
import contextlib
import time

import jax
from tqdm import tqdm

import command_line


def opening_block(rows: dict[str, str]) -> None:
    """Prints what is about to run: a name and a value on each line."""
    width = max(map(len, rows))
    for name, value in rows.items():
        _show(f"{name:>{width}}  {value}")


def _show(line: str) -> None:
    """Prints a line on the console. If its reader has ended, as `head` does, the run continues."""
    with contextlib.suppress(BrokenPipeError):
        print(line, file=command_line.console(), flush=True)


# Seconds. Dispatches complete in bursts, so a rate over a shorter time is noise.
_SHORTEST_TIMED = 0.5


class _Bar:
    """A bar on the console; where no bar can be drawn, lines at least 30 seconds apart.

    In a notebook, too, the bar is text: it needs no widgets and stays in the stored notebook.
    """

    def __init__(self, total: int, quiet: bool, **options):
        self.total = total
        self._bar = tqdm(total=total, **command_line.bar_options(quiet), **options)
        self._prints_lines = self._bar.disable and not quiet
        self._last_line = time.monotonic()

    def _line_is_due(self, is_important: bool = False) -> bool:
        return self._prints_lines and (is_important or time.monotonic() - self._last_line >= 30)

    def _print(self, line: str) -> None:
        self._last_line = time.monotonic()
        _show(line)

    def close(self) -> None:
        self._bar.close()


class Progress(_Bar):
    """Shows the progress of training, and measures where the time goes.

    Images per second are measured without compilation (the first call), evaluation and saving.
    """

    def __init__(self, total_steps: int, step: int, batch_size: int, quiet: bool = False):
        super().__init__(total_steps, quiet, initial=step, unit="step")
        self._batch_size = batch_size
        self._lap_start = None  # while no step is computed
        self._seconds = self._images = self._wait_seconds = 0.0  # since the last speed
        self._images_per_second = None  # the last speed
        self._watch = concurrent.futures.ThreadPoolExecutor(1)  # waits for steps to end
        self._began = time.monotonic()
        self._spent = dict.fromkeys(("steps", "data", "compilation", "evaluation", "saving"), 0.0)

    def resume(self) -> None:
        """The devices compute steps from now on."""
        if self._lap_start is None:
            self._lap_start = time.monotonic()

    def pause(self) -> None:
        """No step is computed from now on."""
        self._lap("steps")
        self._lap_start = None

    def _lap(self, part: str) -> None:
        """Adds the time since the last lap to a part of the summary."""
        if self._lap_start is not None:
            now = time.monotonic()
            self._seconds += now - self._lap_start
            self._spent[part] += now - self._lap_start
            self._lap_start = now

    @contextlib.contextmanager
    def timed(self, part: str):
        """Adds the time inside to a part of the summary. For work between steps."""
        start = time.monotonic()
        try:
            yield
        finally:
            self._spent[part] += time.monotonic() - start

    def summary(self) -> str:
        """A line that says where the time went."""
        total = max(1e-9, time.monotonic() - self._began)
        spent = self._spent | {"steps": self._spent["steps"] - self._spent["data"]}
        spent["rest"] = total - sum(spent.values())
        shares = ", ".join(f"{name} {max(0.0, v) / total:.0%}" for name, v in spent.items())
        minutes, seconds = divmod(round(total), 60)
        return f"time {minutes} min {seconds} s: {shares}"

    @contextlib.contextmanager
    def waiting(self, running=None):
        """Around waiting for the next batch. Only the time in which no step is computed counts.

        running: arrays that the devices compute meanwhile, if any.
        """
        idle = time.monotonic()
        ended = self._watch.submit(_time_when_ready, running) if running is not None else None
        yield
        now = time.monotonic()
        if ended is not None:
            idle = max(idle, ended.result()) if ended.done() else now
        self._wait_seconds += max(0.0, now - idle)
        self._spent["data"] += max(0.0, now - idle)

    def discard_compilation(self) -> None:
        """Discards the measurement so far, which contained a compilation."""
        self._lap("compilation")
        self._seconds = self._images = self._wait_seconds = 0.0

    def advance(self, steps: int) -> None:
        """Counts steps that are complete."""
        self._images += steps * self._batch_size
        self._bar.update(steps)

    def speed(self) -> dict[str, float]:
        """The speed since the last call, as values of a record; {} if that was too short ago.

        train/data_wait is the share of the time in which the devices waited for data.
        """
        self._lap("steps")
        if self._seconds < _SHORTEST_TIMED:
            return {}
        self._images_per_second = self._images / self._seconds
        data_wait = min(1.0, self._wait_seconds / self._seconds)
        self._seconds = self._images = self._wait_seconds = 0.0
        return {
            "train/images_per_second": self._images_per_second,
            "train/data_wait": data_wait,
        }

    def show(self, record: dict) -> None:
        """Shows a record. A line is printed for each evaluation, or after 30 seconds."""
        errors = {
            f"{split} error": f"{record[f'{split}/top1_error']:.2%}"
            for split in ("train", "test")
            if f"{split}/top1_error" in record
        }
        self._bar.set_postfix(errors)
        if self._line_is_due(is_important="test error" in errors):
            parts = [f"step {record['step']}/{self.total}", f"epoch {record['epoch']:.2f}"]
            parts += [f"{name} {value}" for name, value in errors.items()]
            if self._images_per_second:
                parts.append(f"{self._images_per_second:.0f} images/s")
            self._print("  ".join(parts))

    def close(self) -> None:
        self._watch.shutdown(wait=False)
        super().close()


class Meter(_Bar):
    """Shows how many examples have been evaluated, and measures the speed.

    An example is evaluated after num_passes passes. The shown number is rounded down.
    """

    def __init__(self, total: int, title: str, num_passes: int = 1, quiet: bool = False):
        super().__init__(total, quiet, desc=title, unit="image", leave=False)
        self._title, self._num_passes, self._count = title, num_passes, 0
        self._started = time.monotonic()
        self._compiled: set = set()
        self._excluded = 0.0  # seconds

    @contextlib.contextmanager
    def excluded(self):
        """Around other work than evaluation. Its time does not count."""
        start = time.monotonic()
        yield
        self._excluded += time.monotonic() - start

    def compiling(self, kind):
        """Around a device call. The first of its kind compiles, and its time does not count."""
        is_first = kind not in self._compiled
        self._compiled.add(kind)
        return self.excluded() if is_first else contextlib.nullcontext()

    def advance(self, count: int) -> None:
        """Counts examples that one pass has evaluated."""
        before = self._count // self._num_passes
        self._count += count
        complete = self._count // self._num_passes
        self._bar.update(complete - before)
        if self._line_is_due():
            self._print(f"{self._title}: {complete} of {self.total} images")

    def advance_to(self, count: int) -> None:
        """Sets the number of examples that are evaluated."""
        self.advance(count - self._count)

    def rate(self) -> float:
        """Examples per second so far."""
        return (
            self._count
            / self._num_passes
            / max(1e-9, time.monotonic() - self._started - self._excluded)
        )


def _time_when_ready(arrays) -> float:
    jax.block_until_ready(arrays)
    return time.monotonic()
