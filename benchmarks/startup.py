"""How long a run takes from the start of its process to the end of its first training step.

    python -m benchmarks.startup [--config=configs/lenet5.py] [--rounds=5] [--cores=N,...]
        [CHECKOUT[,PYTHON] ...]

Each measurement is a fresh process with an empty workdir. It runs main.py of a checkout, by default
this one with this Python, and ends after the first call of the compiled training step. `cold`: the
folder of caches (decoded data sets) is empty, too. `warm`: an earlier process has filled it.

Several checkouts, or one with several Pythons, are measured in turns: compare times of one
invocation only. The first process of each, which fills the caches (also Python's, of compiled
modules), is not counted. CPU seconds are those of all threads; they change less than clock seconds
when other processes run beside.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

# What the process runs. `parallel.train_step` makes the compiled training step.
CHILD = """
import json, os, runpy, sys, time
sys.path.insert(0, os.getcwd())
started, output = float(sys.argv[1]), sys.argv[2]
sys.argv = ["main.py", *sys.argv[3:]]
import jax
try:
    from train_lib.distributed import parallel
except ImportError:  # a checkout from before November 2026
    from train_lib import parallel

def measured(*arguments, make=parallel.train_step, **named):
    step = make(*arguments, **named)

    def first(state, batch):
        jax.block_until_ready(step(state, batch))
        times = {"clock": time.time() - started, "CPU": time.process_time(), "JAX": jax.__version__}
        with open(output, "w") as file:
            json.dump(times, file)
        os._exit(0)

    return first

parallel.train_step = measured
runpy.run_path("main.py", run_name="__main__")
"""


@dataclasses.dataclass
class Subject:
    """A checkout and the Python that runs it, with its filled caches and what was measured."""

    checkout: str
    python: str
    caches: str
    times: dict[str, list[dict]] = dataclasses.field(
        default_factory=lambda: {"cold": [], "warm": []}
    )

    @classmethod
    def parse(cls, text: str, caches: str) -> "Subject":
        checkout, _, python = text.partition(",")
        return cls(checkout, python or sys.executable, caches)


def run(subject: Subject, config: str, caches: str) -> dict:
    """Starts a process and returns its seconds to the end of the first step."""
    with tempfile.TemporaryDirectory(prefix="canon-startup-") as folder:
        output = pathlib.Path(folder, "times.json")
        arguments = [f"--config={config}", f"--workdir={folder}/run"]
        environment = os.environ | {"XDG_CACHE_HOME": caches}
        environment.pop("JAX_COMPILATION_CACHE_DIR", None)
        done = subprocess.run(
            [subject.python, "-c", CHILD, str(time.time()), str(output), *arguments],
            cwd=subject.checkout,
            env=environment,
            capture_output=True,
            text=True,
        )
        if not output.exists():
            raise SystemExit(f"{subject.checkout} with {subject.python} failed:\n{done.stderr}")
        return json.loads(output.read_text())


def measure(subjects: list[Subject], config: str, rounds: int) -> None:
    """Fills each subject's `times`."""
    for subject in subjects:
        run(subject, config, subject.caches)
    for _ in range(rounds):
        for subject in subjects:
            with tempfile.TemporaryDirectory(prefix="canon-startup-") as empty:
                subject.times["cold"].append(run(subject, config, empty))
            subject.times["warm"].append(run(subject, config, subject.caches))


def table(subjects: list[Subject]) -> str:
    """Medians, and their ratios to the first subject's cold start."""

    def median(subject: Subject, caches: str, clock: str) -> float:
        return statistics.median(times[clock] for times in subject.times[caches])

    rows = ["caches   clock s   CPU s   ratio of clock   of CPU   JAX        checkout, Python"]
    first = [median(subjects[0], "cold", clock) for clock in ("clock", "CPU")]
    for caches in ("cold", "warm"):
        for subject in subjects:
            seconds = [median(subject, caches, clock) for clock in ("clock", "CPU")]
            ratios = [value / base for value, base in zip(seconds, first, strict=True)]
            rows.append(
                f"{caches:7} {seconds[0]:9.2f} {seconds[1]:7.2f} {ratios[0]:16.2f}"
                f" {ratios[1]:8.2f}   {subject.times[caches][0]['JAX']:10}"
                f" {subject.checkout}, {subject.python}"
            )
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("subjects", nargs="*", metavar="CHECKOUT[,PYTHON]", default=["."])
    parser.add_argument("--config", default="configs/lenet5.py")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cores", default="", help="numbers of the cores to run on (Linux)")
    given = parser.parse_args()
    if given.cores:
        os.sched_setaffinity(0, {int(core) for core in given.cores.split(",")})
    with tempfile.TemporaryDirectory(prefix="canon-startup-caches-") as folder:
        subjects = [
            Subject.parse(text, f"{folder}/{number}") for number, text in enumerate(given.subjects)
        ]
        measure(subjects, given.config, given.rounds)
        print(table(subjects))


if __name__ == "__main__":
    main()
