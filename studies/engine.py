"""Runs studies: trains what is not done yet, resumes what was interrupted, gathers the values."""

import contextlib
import dataclasses
import datetime
import importlib
import json
import math
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from typing import Any

import jax
from ml_collections import ConfigDict

from configs import compare, schema
from configs.load import load
from configs.rules import check_type
from errors import UserError
from input_pipeline.stream import cores
from models import registry
from studies.study import Measure, Results, Run, Scale, Study, Verdict
from train_lib import recorder
from train_lib.distributed.signals import StopRequest
from train_lib.experiment import resolve
from train_lib.recorder import NotFinite
from train_lib.train import Stopped, train_and_evaluate
from train_lib.workdir import has_checkpoints, read_config

RESULTS = pathlib.Path(__file__).parent / "results"
TRAINED = "trained.jsonl"  # in a run's workdir, one line for each part of its training
MOST_POINTS = 40  # of a stored curve
CURVES = ("train/loss", "train/top1_error", "test/loss", "test/top1_error", "train/examples")
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


@dataclasses.dataclass(frozen=True)
class Job:
    """A run of a study with one seed. start: the job whose weights it begins with, if any."""

    run: Run
    seed: int
    workdir: pathlib.Path
    start: "Job | None" = None

    def config(self, changes: Mapping[str, Any]) -> ConfigDict:
        """The complete config. Raises UserError for an unknown field or an impossible value.

        changes: {dotted name: value} that all runs of the command share, such as data_dir.
        """
        config = load(self.run.config)
        overrides = {**self.run.overrides, **changes}
        fields = schema.BY_LAYER | compare.flatten(config)
        if self.start:
            overrides["init_from"] = self._start_folder()
        if unknown := sorted(overrides.keys() - fields.keys()):
            raise UserError(f"{self.run.config} has no field {unknown[0]}: see docs/config.md")
        if "seed" in overrides:
            raise UserError("seed cannot be set: a study has its seeds, and a sweep has --seeds")
        for name, value in overrides.items():
            default = tuple(fields[name]) if isinstance(fields[name], list) else fields[name]
            if isinstance(value, dict):
                overrides[name] = value = ConfigDict(value)
            check_type(f"config.{name}", value, default)
        config.update_from_flattened_dict({**overrides, "seed": self.seed})
        schema.validate(config)
        registry.check(config.model)
        return config

    def _start_folder(self) -> str:
        """As the run's config names it, if it has begun: the folder may have been moved since."""
        if has_checkpoints(self.workdir):
            stored = read_config(self.workdir).init_from
            if pathlib.Path(stored).name == self.start.workdir.name:
                return stored
        return str(self.start.workdir)

    def is_changed(self, changes: Mapping[str, Any]) -> bool:
        """Whether `changes` make it another experiment. Folders, for example, do not."""
        return bool(compare.differences(compare.flatten(self.config({})), self.config(changes)))


def names() -> list[str]:
    """The names of all studies: the files of this folder that have a STUDY."""
    paths = pathlib.Path(__file__).parent.glob("*.py")
    return sorted(path.stem for path in paths if "\nSTUDY = " in path.read_text("utf-8"))


def find(name: str) -> Study:
    """A study. Raises UserError for an unknown name."""
    if name not in names():
        raise UserError(f"no study {name!r}: choose one of {', '.join(names())}")
    return importlib.import_module(f"studies.{name}").STUDY


def scale_of(study: Study, scale: str) -> Scale:
    """Raises UserError for a scale that the study does not have."""
    if scale not in study.scales:
        raise UserError(f"no scale {scale!r}: the study has {', '.join(study.scales)}")
    return study.scales[scale]


def jobs(scale: Scale, folder: pathlib.Path) -> list[Job]:
    """All runs of a scale: all of them with the first seed, then with the next, ..."""
    made: dict[tuple[str, int], Job] = {}
    for seed in range(scale.first_seed, scale.first_seed + scale.seeds):
        for run in scale.runs:
            workdir = folder / f"{run.name.replace('/', '-')}-seed{seed}"
            start = made[run.start, seed] if run.start else None
            made[run.name, seed] = Job(run, seed, workdir, start)
    return list(made.values())


def is_done(job: Job, config: ConfigDict) -> bool:
    """Whether the workdir holds a run with its last evaluation and checkpoint, or it diverged.

    Diverged: the run itself, or the one it starts from.

    config: of the job. Raises UserError, as training does, if the run has another one.
    """
    if job.start and diverged(job.start):
        return True
    if not (job.workdir / "config.json").exists():
        return False
    total = resolve(config, job.workdir).plan.total_steps
    if diverged(job):
        return True
    records = recorder.read(job.workdir)
    is_evaluated = bool(records) and records[-1]["step"] == total and "test/loss" in records[-1]
    # Records are written before the checkpoint.
    return is_evaluated and (job.workdir / "checkpoints" / str(total)).is_dir()


def run_all(
    todo: Sequence[Job], changes: Mapping[str, Any], stop: StopRequest | None = None
) -> Iterator[Job]:
    """Trains each job that is not done, and yields each job.

    Prints which run it is, and about how long the others will take. A run whose loss or parameters
    become infinite is done: that is a result, too. A run that starts from it is not trained. stop:
    see `train_and_evaluate`, which says what else is raised.
    """
    started, trained = time.monotonic(), 0
    configs = [job.config(changes) for job in todo]  # a wrong value is refused before the first run
    for number, (job, config) in enumerate(zip(todo, configs, strict=True), 1):
        if is_done(job, config):
            yield job
            continue
        mean = (time.monotonic() - started) / trained if trained else None
        rest = f", about {_duration(mean * (len(todo) - number + 1))} to go" if mean else ""
        title = f"run {number} of {len(todo)}: {job.run.name}, seed {job.seed}{rest}"
        with contextlib.suppress(BrokenPipeError):  # nobody reads it any longer
            print(title, file=sys.stderr, flush=True)
        before, fault = time.monotonic(), ""
        try:
            train_and_evaluate(config, job.workdir, stop=stop)
        except NotFinite as error:
            fault = str(error)
            print(f"diverged: {fault}", file=sys.stderr, flush=True)
        except Stopped:
            _note_part(job, time.monotonic() - before)
            raise
        _note_part(job, time.monotonic() - before, fault)
        if stop:
            stop.nothing_to_save = True
        trained += 1
        yield job


def _note_part(job: Job, seconds: float, fault: str = "") -> None:
    with (job.workdir / TRAINED).open("a") as file:
        part = {"seconds": round(seconds, 1), "commit": commit(), "machine": machine()}
        part |= {"fault": fault} if fault else {}
        # It begins with a line end, in case the line before it was cut off.
        file.write("\n" + json.dumps(part) + "\n")


def parts_of(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """Seconds, commit, machine of each part of a run's training: several if it was interrupted.

    A line that was cut off, as by a full disk, is left out.
    """
    path, parts = workdir / TRAINED, []
    for line in path.read_text().splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError):
            parts.append(json.loads(line))
    return parts


def diverged(job: Job) -> bool:
    """Whether the training, or that of the job's start, ended because a value became infinite."""
    if job.start and diverged(job.start):
        return True
    return any("fault" in part for part in parts_of(job.workdir))


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds > 5400 else f"{max(1, round(seconds / 60))} min"


def measure(measures: Mapping[str, Measure], done: Sequence[Job]) -> Results:
    """The values of all measures, from the workdirs. A run that diverged has none."""
    values: dict[str, dict[str, list[float | None]]] = {}
    for job in done:
        of_run = values.setdefault(job.run.name, {name: [] for name in measures})
        for name, value_of in measures.items():
            value = math.nan if diverged(job) else float(value_of(job.workdir))
            of_run[name].append(value if math.isfinite(value) else None)  # JSON has no nan
    return Results(values)


def simulate_devices(count: int) -> None:
    """Lets a CPU stand for `count` devices. Call it before JAX looks for devices."""
    # Collectives of simulated devices can dead-lock unless the thread pool has more threads.
    os.environ.setdefault("NPROC", str(4 * count))
    jax.config.update("jax_num_cpu_devices", count)


def stored(name: str, scale: str, done: Sequence[Job]) -> dict[str, Any]:
    """The content of results/NAME.json, but for the command and the note."""
    study = find(name)
    results = measure(study.measures, done)
    parts = [part for job in done for part in parts_of(job.workdir)]
    return {
        "study": name,
        "scale": scale,
        # "smoke" shows that the runs work. It may lack some that the verdict needs.
        "verdict": Verdict.NOT_RUN if scale == "smoke" else study.verdict(results),
        "date": datetime.date.today().isoformat(),
        "machines": sorted({part["machine"] for part in parts if "machine" in part}),
        "versions": {package: metadata.version(package) for package in PACKAGES},
        "commits": sorted({part["commit"] for part in parts if "commit" in part}),
        "seconds": round(sum(part["seconds"] for part in parts)),
        "values": results.values,
        "diverged": [_with_start(job) for job in done if diverged(job)],
        "data": sorted({data_of(job) for job in done if job.workdir.exists()}),
        "curves": {f"{j.run.name}, seed {j.seed}": thinned(recorder.read(j.workdir)) for j in done},
    }


def _with_start(job: Job) -> str:
    start = f", which starts from {job.run.start}" if job.start and diverged(job.start) else ""
    return f"{job.run.name}, seed {job.seed}{start}"


def thinned(records: Sequence[dict]) -> list[dict]:
    """At most MOST_POINTS records, with the values of CURVES, in four digits.

    Of the records with an evaluation, if there are several, else of all.
    """
    evaluated = [r for r in records if "test/loss" in r]
    records = evaluated if len(evaluated) > 4 else [r for r in records if CURVES[0] in r]
    every = -(-len(records) // MOST_POINTS)
    chosen = [r for i, r in enumerate(records) if (len(records) - 1 - i) % every == 0]
    names = ("epoch", *CURVES)
    return [{n: float(f"{r[n]:.4g}") for n in names if n in r} for r in chosen]


def data_of(job: Job) -> str:
    """The data set of a run, and the number of its training images."""
    described = json.loads((job.workdir / "dataset.json").read_text())
    return f"{described['name']}, {described['train_examples']:,} training images"


def machine() -> str:
    """The processor and the number of its cores that this process may use."""
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if "model name" in line), "")
    return f"{cores()} of {os.cpu_count()} cores of {model or platform.processor()}"


def commit() -> str:
    """The commit of the code, with "+" if tracked files differ; "unknown" without a repository."""
    folder = pathlib.Path(__file__).parent
    if not shutil.which("git"):
        return "unknown"
    done = subprocess.run(
        ["git", "-C", folder, "describe", "--always", "--dirty=+", "--abbrev=10"],
        capture_output=True,
        text=True,
    )
    return done.stdout.strip() or "unknown"
