"""Studies of one's own: the same config with several values and seeds, and a comparison of runs."""

import itertools
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from configs import compare
from errors import UserError
from studies import engine
from studies.report import format_summary
from studies.study import Run, Scale, last_percent
from train_lib import recorder
from train_lib.distributed.signals import StopRequest
from train_lib.pictures import run_plots
from train_lib.workdir import check_run, read_config, read_info

ERROR = "test/top1_error"
PERCENT = "test error, %"


def sweep(
    config: str,
    values: Mapping[str, Sequence[Any]],
    seeds: range,
    folder: pathlib.Path,
    stop: StopRequest | None = None,
) -> str:
    """Trains a config with all combinations of values. Returns a table of mean errors.

    config: file and argument, "lenet5:mnist". values: {dotted name: its values}, one or several.
    folder: of the runs. stop: see `train_and_evaluate`.
    """
    several = {name for name in values if len(values[name]) > 1}
    runs = []
    for combination in itertools.product(*values.values()):
        overrides = dict(zip(values, combination, strict=True))
        varied = {name: value for name, value in overrides.items() if name in several}
        runs.append(Run(_label(varied) or config, config, overrides))
    todo = engine.jobs(Scale(runs, len(seeds), 0.0, seeds.start), folder)
    done = list(engine.run_all(todo, {}, stop))
    results = engine.measure({PERCENT: last_percent(ERROR)}, done)
    rows = [[name, format_summary(results, name, PERCENT)] for name in results.values]
    return aligned([["run", f"{PERCENT} (seeds)"], *rows])


def _label(values: Mapping[str, Any]) -> str:
    """ "activation=relu, depth=20" """
    return ", ".join(f"{name.rpartition('.')[2]}={value}" for name, value in values.items())


def compare_runs(workdirs: Sequence[pathlib.Path], plot: pathlib.Path) -> str:
    """A table of the runs: the fields in which they differ, last and best error, time.

    plot: a PNG file of their curves. Raises UserError for a folder without a run.
    """
    workdirs = list(dict.fromkeys(workdir.resolve() for workdir in workdirs))
    if len(workdirs) < 2:
        raise UserError("compare needs two or more runs: give different folders")
    for workdir in workdirs:
        check_run(workdir, "compare")
    configs = [compare.flatten(read_config(workdir)) for workdir in workdirs]
    differing = [
        name
        for name in sorted(set().union(*configs))
        if len({json.dumps(config.get(name)) for config in configs}) > 1
    ]
    names, records = short_names(workdirs), [recorder.read(workdir) for workdir in workdirs]
    rows = [["run", *differing, "last error, %", "best, %", "minutes"]]
    for name, config, run, workdir in zip(names, configs, records, workdirs, strict=True):
        values = [json.dumps(config.get(field)) for field in differing]
        errors = _errors(run) or [float("nan")]
        minutes = _seconds(run, workdir) / 60
        numbers = (f"{errors[-1]:.2f}", f"{min(errors):.2f}", f"{minutes:.1f}")
        rows.append([name, *values, *(number.replace("nan", "-") for number in numbers)])
    figure = run_plots.curves(dict(zip(names, records, strict=True)))
    run_plots.save(figure, plot)
    minutes = "minutes: of the training steps, from their rate; -: too few steps to have one"
    return f"{aligned(rows)}\n{minutes}\ncurves: {plot}"


def short_names(workdirs: Sequence[pathlib.Path]) -> list[str]:
    """The parts of the paths in which they differ."""
    parts = [path.resolve().parts for path in workdirs]
    first = next(
        i for i, column in enumerate(itertools.zip_longest(*parts)) if len(set(column)) > 1
    )
    return ["/".join(part[first:]) or part[-1] for part in parts]


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join(lines)


def _errors(records: Sequence[dict]) -> list[float]:
    """The test errors of a run, in percent."""
    return [100 * record[ERROR] for record in records if ERROR in record]


def _seconds(records: Sequence[dict], workdir: pathlib.Path) -> float:
    """Seconds of the training steps: the images of the run, at its mean rate."""
    rates = [r["train/images_per_second"] for r in records if "train/images_per_second" in r]
    examples = records[-1]["epoch"] * read_info(workdir).train_examples if records else 0.0
    return examples / np.mean(rates) if rates else float("nan")
