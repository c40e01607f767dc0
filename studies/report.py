"""Pages and plots from the stored results of studies. No number in them is typed by hand."""

import json
import math
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from errors import reported
from studies import engine
from studies.study import Results, Run, Study, Verdict
from train_lib.pictures import run_plots
from train_lib.workdir import write_bytes

ROOT = engine.RESULTS.parents[1]
PAGES = ROOT / "docs" / "studies"
TABLES = ("README.md", "docs/networks.md")  # files with a column COLUMN, the last of a table
COLUMN = "measured here, %"
_KEYS = {"scale", "verdict", "date", "command", "machines", "versions", "commits", "seconds"}
_KEYS |= {"values", "diverged", "data", "curves", "note"}
_NONE = object()
_FILE = re.compile(r"\[(\w+)\]\([./]*configs/|`(\w+)\.py:")
_ARGUMENT = re.compile(r"`(?:\w*\.py:)?([\w.-]+)`")
_INDEX = """# Studies: published claims, run again

Each study trains the networks of one published claim and compares the outcome. Its verdict follows
from a rule that was written before the runs (with one exception, which is stated).
`python -m studies run NAME --scale=small` repeats a study, whose file is in
[studies/](../../studies). `make results` generates these pages from
[studies/results](../../studies/results).

- *Reproduced*: all that the rule of the study asks for holds.
- *Direction reproduced*: the effect has the claim's sign, but not its size, or not all its parts.
- *Not reproduced*: it has not, in this test. Most tests are far smaller than the source's. So this
  verdict does not refute the claim: the page of the study says what was smaller, and whether the
  test was too small.
- *Not run*: no result is stored.

| study | claim | source | verdict | test |
|---|---|---|---|---|
"""
_AFTER_TABLE = """
Mean and standard deviation over the seeds, with the number of seeds that have a value; "-" if none
has. All seeds are tested with the same images, so the deviations do not contain the chance of their
choice.
"""
_TRAINING_ERROR = """A training error is counted in the training, since the record before it (see
`log_every_steps`): dropout and distortions are active, if there are any, and the weights change.
"""


def load(name: str) -> dict[str, Any] | None:
    """The stored results of a study; None if it was not run. Raises UserError if it has others."""
    path = engine.RESULTS / f"{name}.json"
    if not path.exists():
        return None
    kinds = (OSError, ValueError, LookupError, TypeError, AttributeError)
    with reported(f"cannot use {path}", "run the study again, or restore the file", *kinds):
        stored, study = json.loads(path.read_text()), engine.find(name)
        if missing := sorted(_KEYS - stored.keys()):
            raise ValueError(f"it has no {missing[0]}")
        results = Results(stored["values"])
        for run in study.scales[stored["scale"]].runs:
            for measure in study.measures:
                if run.name not in results.values or not len(results.of(run.name, measure)):
                    raise ValueError(f"it has no values of {run.name!r}")
        return stored


def pages() -> dict[pathlib.Path, str]:
    """{path: text} of all pages, and of the files with tables of networks."""
    rows, pages = [], {}
    for name in engine.names():
        study, stored = engine.find(name), load(name)
        verdict = stored["verdict"] if stored else Verdict.NOT_RUN
        link = f"[{name}]({name}.md)" if stored else name
        size = _size(study, stored) if stored else ""
        rows.append(f"| {link} | {study.claim} | {study.source} | {verdict} | {size} |\n")
        if stored:
            pages[PAGES / f"{name}.md"] = page(name, study, stored)
    pages[PAGES / "README.md"] = _INDEX + "".join(rows)
    for path in map(ROOT.joinpath, TABLES):
        to_pages = PAGES.relative_to(path.parent, walk_up=True).as_posix()
        pages[path] = with_measured(path.read_text(), to_pages)
    return pages


def _size(study: Study, stored: Mapping[str, Any]) -> str:
    """ "3 seeds; cifar10, 10,000 training images; 1.6 h"."""
    seeds = study.scales[stored["scale"]].seeds
    seconds = stored["seconds"]
    hours = f"{seconds / 3600:.1f} h" if seconds > 600 else f"{seconds / 60:.0f} min"
    return "; ".join([f"{seeds} seed{'s' * (seeds > 1)}", *stored["data"], hours])


def write() -> list[pathlib.Path]:
    """Writes all pages and plots. Returns their paths."""
    PAGES.mkdir(parents=True, exist_ok=True)
    paths = []
    for path, text in pages().items():
        write_bytes(path, text.encode())
        paths.append(path)
    for name in engine.names():
        if stored := load(name):
            paths.append(PAGES / f"{name}.png")
            figure(engine.find(name), stored).savefig(
                paths[-1], dpi=90, metadata={"Software": None}
            )
    return paths


def with_measured(text: str, to_pages: str) -> str:
    """A Markdown file with the errors of studies in the last column of its tables of networks.

    to_pages: the path of the pages, seen from the file.
    """
    lines, file, is_table = text.split("\n"), "", False
    for i, line in enumerate(lines):
        is_table = line.startswith("|") and (is_table or COLUMN in line)
        if is_table and (match := _FILE.search(line)):
            file = match.group(1) or match.group(2)
        if is_table and file and (arguments := _ARGUMENT.findall(line)):
            measured = (measured_error(f"{file}:{name}", to_pages) for name in arguments)
            start = line.rstrip("|").rpartition("|")[0]
            different = dict.fromkeys(filter(None, measured))
            lines[i] = f"{start}| {'; '.join(different) or 'not run'} |"
    return "\n".join(lines)


def measured_error(config: str, to_pages: str) -> str:
    """The error of a recipe as it ships, or links to the studies that change it; else ""."""
    changed = []
    for name in engine.names():
        study, stored = engine.find(name), load(name)
        runs = study.scales[stored["scale"]].runs if stored else ()
        link = f"({to_pages}/{name}.md)"
        for run in (run for run in runs if run.config == config):
            error = next(iter(study.measures))
            if not run.overrides and error == "test error, %":
                note = ", see its note" if stored["note"] else ""
                summary = format_summary(Results(stored["values"]), run.name, error)
                return f"[{summary}]{link}{note}"
            changed.append(f"[{name}]{link}")
    return f"recipe changed: {', '.join(dict.fromkeys(changed))}" if changed else ""


def figure(study: Study, stored: Mapping[str, Any]) -> Figure:
    """The figure of a study: its own, or the curves of the runs with seed 0."""
    if study.figure:
        return study.figure(Results(stored["values"]))
    curves = {n.removesuffix(", seed 0"): c for n, c in stored["curves"].items() if "seed 0" in n}
    return run_plots.curves(curves)


def page(name: str, study: Study, stored: Mapping[str, Any]) -> str:
    """The page of a study that was run."""
    versions = ", ".join(f"{package} {version}" for package, version in stored["versions"].items())
    remarks = f"\n**Remarks.** {study.remarks}\n" if study.remarks else ""
    note = f" {stored['note']}" if stored["note"] else ""
    faults = "; ".join(stored["diverged"])
    faults = f"\nNo value, because the loss became infinite: {faults}.\n" if faults else ""
    during = _TRAINING_ERROR if any("training error" in m for m in study.measures) else ""
    drawn = next(iter(study.measures)) if study.figure else "errors and losses over the epochs"
    return f"""# {name}: {stored["verdict"]}

**Claim.** {study.claim} ({study.source})

**Verdict: {stored["verdict"]}.** {study.rule}

{table(study, stored)}{_AFTER_TABLE}{during}{faults}
![{drawn}]({name}.png)

**What differs from the source.** {study.changes}
{remarks}
**How it was run.** `{stored["command"]}` on {" and ".join(stored["machines"])},
{stored["date"]}, commit {" and ".join(stored["commits"])}; {versions}. Data:
{"; ".join(stored["data"])}. Training took {stored["seconds"] / 3600:.2f} hours.{note}

{settings(study.scales[stored["scale"]].runs)}"""


def settings(runs: Sequence[Run]) -> str:
    """What the runs change in their configs, in Markdown."""
    first, *others = (dict(run.overrides) for run in runs)
    shared = {k: v for k, v in first.items() if all(o.get(k, _NONE) == v for o in others)}
    lines = [
        f"**Settings.** Configs of [configs/](../../configs) with changes.{_all(shared)}",
        "",
        "| run | config | changed |",
        "|---|---|---|",
    ]
    for run in runs:
        own = {k: v for k, v in run.overrides.items() if k not in shared}
        start = f"starts from {run.start}; " if run.start else ""
        lines.append(f"| {run.name} | `{run.config}` | {start}{_assignments(own)} |")
    return "\n".join(lines) + "\n"


def _all(shared: Mapping[str, Any]) -> str:
    return f" In all runs: {_assignments(shared)}." if shared else ""


def _assignments(fields: Mapping[str, Any]) -> str:
    return ", ".join(f"`{name}={value}`" for name, value in fields.items())


def table(study: Study, stored: Mapping[str, Any]) -> str:
    """The values of each run beside the published ones, in Markdown."""
    results, measures = Results(stored["values"]), list(study.measures)
    published = f"published: {study.published}" if study.published else "published"
    lines = [
        f"| run | {published} | {' | '.join(measures)} |",
        f"|---|---|{'---|' * len(measures)}",
    ]
    for run in study.scales[stored["scale"]].runs:
        cells = [format_summary(results, run.name, measure) for measure in measures]
        lines.append(f"| {run.name} | {run.published} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def format_summary(results: Results, run: str, measure: str) -> str:
    """ "1.06 ± 0.06 (3)"; "-" if no seed has a value."""
    summary = results.summary(run, measure)
    if not summary.count:
        return "-"
    deviation = "" if math.isnan(summary.deviation) else f" ± {summary.deviation:.2f}"
    return f"{summary.mean:.2f}{deviation} ({summary.count})"
