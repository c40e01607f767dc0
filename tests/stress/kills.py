"""Kills a real training process at every call of a save that changes a file, and at random.

    python -m tests.stress.kills [--step=10] [--every=1] [--random=300] [--chains=20] [--seed=0]

1. SIGKILL before each call (every N-th) that changes a file below the workdir during the save of
   a step, in turn: `interpose.c` counts them (it needs a C compiler; Linux).
2. SIGKILL at so many random moments of a run's time as it was without one, but for its first 30 %,
   in which Python loads. (A run that ends earlier than then is not killed, and counts.)
3. So many chains of 3 to 8 of those, in the second half of that time, on the same run.

After each, the run goes on here and must end with the state and the records of the one that
nothing disturbed, to the bit.
"""

import argparse
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from tests.stress import runs


class Stress:
    """Victims in folders of their own, beside an undisturbed run."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.expected = runs.finish(folder / "undisturbed")
        self.failures: list[str] = []
        self.cases = 0

    def fresh(self) -> pathlib.Path:
        workdir = self.folder / "victim"
        shutil.rmtree(workdir, ignore_errors=True)
        return workdir

    def check(self, what: str, workdir: pathlib.Path) -> None:
        """Goes on to the end and compares."""
        self.cases += 1
        try:
            wrong = runs.finish(workdir).differences(self.expected)
        except Exception as error:
            wrong = [f"{type(error).__name__}: {error}"]
        if wrong:
            self.failures.append(f"{what}: {'; '.join(wrong[:3])}")
            print(self.failures[-1], flush=True)

    def at_each_call(self, step: int, every: int) -> int:
        """The number of calls."""
        library, armed = runs.build_interposer(self.folder), self.folder / "armed"
        log, count, number = self.folder / "calls", 0, 0
        while True:
            workdir = self.fresh()
            done = runs.start(
                workdir,
                armed,
                step,
                LD_PRELOAD=str(library),
                FAULT_BELOW=str(workdir),
                FAULT_ARMED=str(armed),
                FAULT_LOG=str(log) if not count else "",
                FAULT_AT=str(number),
            )
            _, said = done.communicate(timeout=300)
            if number == 0:  # counts only
                count = len(log.read_text().splitlines())
                print(f"{count} calls in the save of step {step}:", flush=True)
                names = [line.split()[1] for line in log.read_text().splitlines()]
                print({name: names.count(name) for name in sorted(set(names))}, flush=True)
            armed.unlink(missing_ok=True)
            expected = 0 if number == 0 or number > count + 5 else -signal.SIGKILL
            if done.returncode != expected and number <= count - 5:  # threads vary a little
                self.failures.append(f"call {number}: ended with {done.returncode}: {said[-300:]}")
            self.check(f"call {number}", workdir)
            number += every if number else 1
            if number > count:
                return count

    def at_random(self, count: int, rng: random.Random) -> None:
        started = time.monotonic()
        runs.start(self.fresh()).communicate(timeout=300)
        whole = time.monotonic() - started
        for i in range(count):
            workdir, after = self.fresh(), rng.uniform(0.3, 1.0) * whole
            self._kill_after(workdir, after)
            self.check(f"random kill {i} after {after:.2f} s", workdir)

    def chains(self, count: int, rng: random.Random) -> None:
        started = time.monotonic()
        runs.start(self.fresh()).communicate(timeout=300)
        whole = time.monotonic() - started
        for i in range(count):
            workdir, kills = self.fresh(), rng.randint(3, 8)
            for _ in range(kills):
                self._kill_after(workdir, rng.uniform(0.5, 1.0) * whole)
            self.check(f"chain {i} of {kills} kills", workdir)

    def _kill_after(self, workdir: pathlib.Path, seconds: float) -> None:
        process = runs.start(workdir)
        try:
            process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--step", type=int, default=10)
    parser.add_argument("--every", type=int, default=1, help="0: leave this part out")
    parser.add_argument("--random", type=int, default=300)
    parser.add_argument("--chains", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    runs.use_compilation_cache()
    with tempfile.TemporaryDirectory() as folder:
        stress, rng = Stress(pathlib.Path(folder)), random.Random(arguments.seed)
        started = time.monotonic()
        if arguments.every:
            stress.at_each_call(arguments.step, arguments.every)
            print(f"kills at calls: {stress.cases} cases", flush=True)
        for name, count in (("at_random", arguments.random), ("chains", arguments.chains)):
            before = stress.cases
            if count:
                getattr(stress, name)(count, rng)
            print(f"{name}: {stress.cases - before} cases", flush=True)
        print(f"{stress.cases} cases in {time.monotonic() - started:.0f} s")
        print(f"{len(stress.failures)} failures", *stress.failures, sep="\n")
    return len(stress.failures)


if __name__ == "__main__":
    sys.exit(bool(main()))
