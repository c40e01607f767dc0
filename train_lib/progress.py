"""What a user sees of a run on standard error: the opening block, progress, and where time went."""

import concurrent.futures
import contextlib
import sys
import time

import jax
from tqdm import tqdm


def opening_block(rows: dict[str, str]) -> None:
    """Prints what is about to run: a name and a value on each line."""
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"{name:>{width}}  {value}", file=sys.stderr, flush=True)


# Seconds. Dispatches complete in bursts, so a rate over a shorter time is noise.
_SHORTEST_TIMED = 0.5


def _bar(quiet: bool, **options) -> tqdm:
    """A bar on standard error, on a terminal or in a notebook's cell; elsewhere it is disabled.

    In a notebook, too, the bar is text: it needs no widgets and stays in the stored notebook.
    """
    in_cell = type(sys.stderr).__module__.partition(".")[0] == "ipykernel"
    # The width of a cell is unknown. A line that wraps could not be drawn again.
    width = {"ncols": 90} if in_cell else {"dynamic_ncols": True}
    return tqdm(disable=quiet or not (in_cell or sys.stderr.isatty()), **width, **options)


class Progress:
    """A bar, or where there is none a line at each evaluation and every 30 seconds.

    It also measures images per second, without compilation (the first call), evaluation and
    saving. waited: the share of the time of the last rate in which devices waited for data.
    spent: seconds by what they were spent on.
    """

    def __init__(self, total_steps: int, step: int, batch_size: int, quiet: bool = False):
        self._batch_size = batch_size
        self._total = total_steps
        self._bar = _bar(quiet, total=total_steps, initial=step, unit="step")
        self._plain = self._bar.disable and not quiet
        self._spoke = time.monotonic()
        self._started = None
        self._seconds = self._images = self._waited = 0.0
        self._latest = None  # the last rate
        self.waited = 0.0
        self._watch = concurrent.futures.ThreadPoolExecutor(1)  # waits for steps to end
        self._began = time.monotonic()
        self.spent = dict.fromkeys(("steps", "data", "compilation", "evaluation", "saving"), 0.0)

    def running(self) -> None:
        """The devices compute steps from now on."""
        if self._started is None:
            self._started = time.monotonic()

    def paused(self) -> None:
        """No step is computed from now on."""
        self._lap("steps")
        self._started = None

    def _lap(self, part: str) -> None:
        """Adds the time since the last lap to `spent[part]`."""
        if self._started is not None:
            now = time.monotonic()
            self._seconds += now - self._started
            self.spent[part] += now - self._started
            self._started = now

    @contextlib.contextmanager
    def timed(self, part: str):
        """Adds the time inside to `spent[part]`. For work between steps."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.spent[part] += time.monotonic() - start

    def summary(self) -> str:
        """A line that says where the time went."""
        total = max(1e-9, time.monotonic() - self._began)
        spent = self.spent | {"steps": self.spent["steps"] - self.spent["data"]}
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
        ended = self._watch.submit(_when_ready, running) if running is not None else None
        yield
        now = time.monotonic()
        if ended is not None:
            idle = max(idle, ended.result()) if ended.done() else now
        self._waited += max(0.0, now - idle)
        self.spent["data"] += max(0.0, now - idle)

    def forget(self) -> None:
        """Discards the measurement so far, which contained a compilation."""
        self._lap("compilation")
        self._seconds = self._images = self._waited = 0.0

    def done(self, steps: int) -> None:
        """So many more steps are complete."""
        self._images += steps * self._batch_size
        self._bar.update(steps)

    def rate(self) -> float | None:
        """Images per second since the last rate; None if that was too short ago."""
        self._lap("steps")
        if self._seconds < _SHORTEST_TIMED:
            return None
        self._latest = rate = self._images / self._seconds
        self.waited = min(1.0, self._waited / self._seconds)
        self._seconds = self._images = self._waited = 0.0
        return rate

    def tell(self, record: dict) -> None:
        """Shows a record: always if it has an evaluation, otherwise every 30 seconds."""
        errors = {
            name: f"{record[key]:.2%}"
            for name, key in (
                ("train error", "train/top1_error"),
                ("test error", "test/top1_error"),
            )
            if key in record
        }
        self._bar.set_postfix({**errors})
        quiet = "test/top1_error" not in record and time.monotonic() - self._spoke < 30
        if self._plain and not quiet:
            self._spoke = time.monotonic()
            parts = [f"step {record['step']}/{self._total}", f"epoch {record['epoch']:.2f}"]
            parts += [f"{name} {value}" for name, value in errors.items()]
            if self._latest:
                parts.append(f"{self._latest:.0f} images/s")
            print("  ".join(parts), file=sys.stderr, flush=True)

    def close(self) -> None:
        self._watch.shutdown(wait=False)
        self._bar.close()


class Meter:
    """Counts evaluated examples: by a bar, or where there is none a line every 30 seconds."""

    def __init__(self, total: int, title: str, quiet: bool = False):
        self._bar = _bar(quiet, total=total, desc=title, unit="image", leave=False)
        self.total, self._title, self._done = total, title, 0
        self._plain = self._bar.disable and not quiet
        self._started = self._spoke = time.monotonic()
        self._compiled: set = set()
        self._left_out = 0.0  # seconds

    @contextlib.contextmanager
    def compiling(self, kind):
        """Around a device call. The first of its kind compiles, and its time does not count."""
        start = time.monotonic()
        yield
        if kind not in self._compiled:
            self._compiled.add(kind)
            self._left_out += time.monotonic() - start

    @contextlib.contextmanager
    def paused(self):
        """Around other work than evaluation, whose time does not count."""
        start = time.monotonic()
        yield
        self._left_out += time.monotonic() - start

    def done(self, count: int) -> None:
        """So many more examples are evaluated."""
        self._done += count
        self._bar.update(count)
        if self._plain and time.monotonic() - self._spoke > 30:
            self._spoke = time.monotonic()
            line = f"{self._title}: {self._done} of {self.total} images"
            print(line, file=sys.stderr, flush=True)

    def reached(self, count: int) -> None:
        """So many examples are evaluated in all."""
        self.done(count - self._done)

    def rate(self) -> float:
        """Examples per second so far, without compilations."""
        return self._done / max(1e-9, time.monotonic() - self._started - self._left_out)

    def close(self) -> None:
        self._bar.close()


def _when_ready(arrays) -> float:
    jax.block_until_ready(arrays)
    return time.monotonic()
