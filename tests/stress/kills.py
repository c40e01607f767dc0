"""Kills a real training process at every call of a save that changes a file, and at random.

    python -m tests.stress.kills [--step=18] [--again=15] [--every=1] [--random=300] [--chains=20]

1. SIGKILL before each call (every N-th) that changes a file below the workdir during a save, in
   turn: `interpose.c` counts them (it needs a C compiler; Linux). The save of --step has a test's
   error, and an older checkpoint goes; that of --again is the second one of its step, which a
   signal in its test had saved without an error.
2. SIGKILL at so many random moments of the time that a slowed run takes, but for its first 30 %, in
   which Python loads. (It says how many were killed before they had ended, and how many of these
   had a checkpoint.)
3. So many chains of 3 to 8 of those on the same run, slowed so far that each finds it at work.

After each, the run goes on here: from the newest complete checkpoint, to the state, the records
and the best checkpoint of the one that nothing disturbed, to the bit.
"""

import argparse
import contextlib
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from tests.stress import runs
from train_lib import recorder
from train_lib.train import Stopped


class Stress:
    """Victims in folders of their own, beside an undisturbed run."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.expected = runs.finish(folder / "undisturbed")
        self.failures: list[str] = []
        self.cases = self.killed = self.behind = 0

    def fresh(self, begun: pathlib.Path | None = None) -> pathlib.Path:
        """A folder for a victim, which goes on with `begun`."""
        workdir = self.folder / "victim"
        shutil.rmtree(workdir, ignore_errors=True)
        if begun:
            shutil.copytree(begun, workdir)
        return workdir

    def saved_without_its_test(self, step: int) -> pathlib.Path:
        """A run that a signal stopped in the test of `step`."""
        workdir, evaluate = self.folder / "begun", recorder.evaluate

        def interrupted(exp, state, *rest):
            if int(state.step) == step:
                os.kill(os.getpid(), signal.SIGTERM)
            return evaluate(exp, state, *rest)

        recorder.evaluate = interrupted
        with contextlib.suppress(Stopped):
            runs.finish(workdir)
        recorder.evaluate = evaluate
        assert runs.newest(workdir) == step, f"no test is due at step {step}"
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

    def at_each_call(self, step: int, every: int, begun: pathlib.Path | None = None) -> None:
        library, armed = runs.build_interposer(self.folder), self.folder / "armed"
        log, count, number = self.folder / "calls", 0, 0
        log.unlink(missing_ok=True)
        while True:
            workdir = self.fresh(begun)
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
                return

    def at_random(self, count: int, rng: random.Random) -> None:
        whole = self._whole()
        for i in range(count):
            workdir, after = self.fresh(), rng.uniform(0.3, 1.0) * whole
            self._kill_after(workdir, after)
            self.check(f"random kill {i} after {after:.2f} s", workdir)

    def chains(self, count: int, rng: random.Random) -> None:
        whole = self._whole()
        for i in range(count):
            workdir, kills = self.fresh(), rng.randint(3, 8)
            for _ in range(kills):
                # Up to about a third of the steps each.
                self._kill_after(workdir, rng.uniform(0.5, 1.5) * whole, slowed=1.0)
            self.check(f"chain {i} of {kills} kills", workdir)

    def _whole(self) -> float:
        """The seconds of a slowed run."""
        started = time.monotonic()
        runs.start(self.fresh(), SLOWED="0.2").communicate(timeout=300)
        return time.monotonic() - started

    def _kill_after(self, workdir: pathlib.Path, seconds: float, slowed: float = 0.2) -> None:
        process = runs.start(workdir, SLOWED=str(slowed))
        try:
            process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            self.killed += 1
            self.behind += runs.newest(workdir) > 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--step", type=int, default=18)
    parser.add_argument("--again", type=int, default=15, help="0: leave this part out")
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
        if arguments.every and arguments.again:
            begun = stress.saved_without_its_test(arguments.again)
            stress.at_each_call(arguments.again, arguments.every, begun)
        print(f"kills at calls: {stress.cases} cases", flush=True)
        for name, count in (("at_random", arguments.random), ("chains", arguments.chains)):
            before, stress.killed, stress.behind = stress.cases, 0, 0
            if count:
                getattr(stress, name)(count, rng)
            print(
                f"{name}: {stress.cases - before} cases, {stress.killed} kills, {stress.behind} of"
                " them behind a checkpoint",
                flush=True,
            )
        print(f"{stress.cases} cases in {time.monotonic() - started:.0f} s")
        print(f"{len(stress.failures)} failures", *stress.failures, sep="\n")
    return len(stress.failures)


if __name__ == "__main__":
    sys.exit(bool(main()))
