"""What a person sees: the opening block and the progress of a run, on standard error."""

import concurrent.futures
import contextlib
import sys
import time

import jax
from tqdm import tqdm


def opening_block(rows: dict[str, str]) -> None:
    """Prints what is about to run, a name and a value a line."""
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"{name:>{width}}  {value}", file=sys.stderr, flush=True)


# Seconds. Dispatches complete in bursts: over less than this a rate is noise.
_SHORTEST_TIMED = 0.5


def _bar(quiet: bool, **options) -> tqdm:
    """A bar on standard error, disabled if `quiet`, or where a line cannot be drawn again.

    It can on a terminal and in a notebook's cell. There the bar is of text, too: it needs no
    widgets, and stays in the notebook when that is stored.
    """
    in_cell = type(sys.stderr).__module__.partition(".")[0] == "ipykernel"
    # A cell's width is not known; narrower than most, as a line that wraps is not drawn again.
    width = {"ncols": 90} if in_cell else {"dynamic_ncols": True}
    return tqdm(disable=quiet or not (in_cell or sys.stderr.isatty()), **width, **options)


class Progress:
    """A bar on a terminal or in a notebook's cell; elsewhere a plain line at each evaluation, and
    twice a minute.

    Also the clock of images per second: it leaves out compilation (the first call), evaluation
    and saving. spent: seconds, by what they went into.
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
        self.waited = 0.0  # the share of the time behind the last rate that devices waited
        self._watch = concurrent.futures.ThreadPoolExecutor(1)  # sees steps end
        self._began = time.monotonic()
        self.spent = dict.fromkeys(("steps", "data", "compilation", "tests", "saving"), 0.0)

    def running(self) -> None:
        """Steps are being computed from now on."""
        if self._started is None:
            self._started = time.monotonic()

    def paused(self) -> None:
        """Something else is about to be done, and no step is under way."""
        self._lap("steps")
        self._started = None

    def _lap(self, what: str) -> None:
        """Counts the time since the last lap."""
        if self._started is not None:
            now = time.monotonic()
            self._seconds += now - self._started
            self.spent[what] += now - self._started
            self._started = now

    @contextlib.contextmanager
    def timed(self, what: str):
        """Around what is done between steps."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.spent[what] += time.monotonic() - start

    def summary(self) -> str:
        """Where the time went, for people."""
        total = max(1e-9, time.monotonic() - self._began)
        spent = self.spent | {"steps": self.spent["steps"] - self.spent["data"]}
        spent["rest"] = total - sum(spent.values())
        shares = ", ".join(f"{name} {max(0.0, v) / total:.0%}" for name, v in spent.items())
        minutes, seconds = divmod(round(total), 60)
        return f"time {minutes} min {seconds} s: {shares}"

    @contextlib.contextmanager
    def waiting(self, running=None):
        """While the next batch is waited for. Only what outlasts the steps under way counts.

        running: arrays that those steps compute; None: there are none.
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
        """What was measured so far does not count: it contained a compilation."""
        self._lap("compilation")
        self._seconds = self._images = self._waited = 0.0

    def done(self, steps: int) -> None:
        """`steps` more are complete."""
        self._images += steps * self._batch_size
        self._bar.update(steps)

    def rate(self) -> float | None:
        """Images per second since the last rate; None until enough was timed to mean something."""
        self._lap("steps")
        if self._seconds < _SHORTEST_TIMED:
            return None
        self._latest = rate = self._images / self._seconds
        self.waited = min(1.0, self._waited / self._seconds)
        self._seconds = self._images = self._waited = 0.0
        return rate

    def tell(self, record: dict) -> None:
        """Shows a record: always if it holds a test, otherwise now and then."""
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
    """Counts examples of a test: a bar where `Progress` has one, or a plain line twice a minute."""

    def __init__(self, total: int, what: str, quiet: bool = False):
        self._bar = _bar(quiet, total=total, desc=what, unit="image", leave=False)
        self.total, self._what, self._done = total, what, 0
        self._plain = self._bar.disable and not quiet
        self._started = self._spoke = time.monotonic()
        self._compiled: set = set()
        self._left_out = 0.0  # seconds

    @contextlib.contextmanager
    def compiling(self, what):
        """Around a device call; the first of its kind is a compilation, and its time left out."""
        start = time.monotonic()
        yield
        if what not in self._compiled:
            self._compiled.add(what)
            self._left_out += time.monotonic() - start

    @contextlib.contextmanager
    def paused(self):
        """While something else is done than testing."""
        start = time.monotonic()
        yield
        self._left_out += time.monotonic() - start

    def done(self, count: int) -> None:
        """So many more examples have their result."""
        self._done += count
        self._bar.update(count)
        if self._plain and time.monotonic() - self._spoke > 30:
            self._spoke = time.monotonic()
            line = f"{self._what}: {self._done} of {self.total} images"
            print(line, file=sys.stderr, flush=True)

    def reached(self, count: int) -> None:
        """So many examples have their result, all together."""
        self.done(count - self._done)

    def rate(self) -> float:
        """Examples per second so far, compilations left out."""
        return self._done / max(1e-9, time.monotonic() - self._started - self._left_out)

    def close(self) -> None:
        self._bar.close()


def _when_ready(arrays) -> float:
    jax.block_until_ready(arrays)
    return time.monotonic()
