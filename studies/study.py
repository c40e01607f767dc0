"""What a study is: a published claim, the runs that test it, and the rule of its verdict.

Each study has a file in this folder, with a `STUDY`. Its verdict is a function of the measured
values only, and is written before the runs.
"""

import dataclasses
import enum
import itertools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from train_lib import recorder

CONFIDENCE = 0.95  # of the intervals
Measure = Callable[[pathlib.Path], float]


class Verdict(enum.StrEnum):
    """What the runs say about a claim."""

    REPRODUCED = "reproduced"
    DIRECTION = "direction reproduced"
    NOT_REPRODUCED = "not reproduced"
    NOT_RUN = "not run"


@dataclasses.dataclass(frozen=True)
class Run:
    """One config of a study, trained with several seeds.

    config: file and argument as --config has them, "lenet5:mnist". overrides: {dotted name: value}.
    published: the figure that the source gives, as it is printed there. `Study.published` says
        what it is.
    start: the name of an earlier run of the same scale. Its weights are the initial ones, by
        config.init_from, of the run with the same seed.
    """

    name: str
    config: str
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    published: str = ""
    start: str = ""


@dataclasses.dataclass(frozen=True)
class Scale:
    """The runs of a study at one cost.

    seeds: how many, from first_seed on. hours: about, on two cores.
    """

    runs: Sequence[Run]
    seeds: int
    hours: float
    first_seed: int = 0


@dataclasses.dataclass(frozen=True)
class Study:
    """A claim and its test.

    claim: one sentence. source: paper and section. changes: what differs from the source.
    scales: by name: "smoke" (seconds, for tests), "small" (two cores), "paper" (the original).
    measures: name -> (workdir of a finished run) -> value, nan if the run has none.
    published: what the published figures of the runs are, such as "test error, %, ImageNet".
    verdict: a function of `Results`. rule: its meaning in words.
    figure: draws `Results`; None: the curves of all runs.
    devices: how many a CPU simulates, see `config.num_devices`.
    remarks: written after the runs: what we think of the result, without measured numbers.
    """

    claim: str
    source: str
    changes: str
    scales: Mapping[str, Scale]
    measures: Mapping[str, Measure]
    rule: str
    verdict: Callable[["Results"], Verdict]
    figure: Callable[["Results"], Figure] | None = None
    devices: int = 1
    remarks: str = ""
    published: str = ""


@dataclasses.dataclass(frozen=True)
class Summary:
    """Mean, standard deviation and number of the seeds that have a value."""

    mean: float
    deviation: float
    count: int


@dataclasses.dataclass(frozen=True)
class Difference:
    """The mean of paired differences, and the ends of its interval of CONFIDENCE."""

    mean: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Results:
    """What the runs of a study measured.

    values: {run: {measure: one value for each seed}}; None or nan stands for a missing value, such
    as all of a run that diverged.
    """

    values: Mapping[str, Mapping[str, Sequence[float | None]]]

    def of(self, run: str, measure: str) -> np.ndarray:
        """The values of a run, float64 [seeds]."""
        return np.asarray(self.values[run][measure], np.float64)

    def summary(self, run: str, measure: str) -> Summary:
        """mean: nan without a value. deviation: of the sample, with n - 1; nan for one value."""
        values = self.of(run, measure)
        values = values[~np.isnan(values)]
        mean = values.mean() if len(values) else float("nan")
        deviation = values.std(ddof=1) if len(values) > 1 else float("nan")
        return Summary(float(mean), float(deviation), len(values))

    def mean(self, run: str, measure: str) -> float:
        """The mean over the seeds that have a value."""
        return self.summary(run, measure).mean

    def falls(self, runs: Sequence[str], measure: str) -> bool:
        """Whether no mean is above that of the run before it; False if a run has no value."""
        means = [self.mean(run, measure) for run in runs]
        return all(before >= after for before, after in itertools.pairwise(means))

    def difference(self, run: str, other: str, measure: str) -> Difference:
        """run - other, paired by seed, with Student's interval; nan ends for one seed."""
        differences = self.of(run, measure) - self.of(other, measure)
        if len(differences) < 2:
            return Difference(float(differences.mean()), float("nan"), float("nan"))
        low, high = stats.ttest_1samp(differences, 0).confidence_interval(CONFIDENCE)
        return Difference(float(differences.mean()), float(low), float(high))


def last(name: str) -> Measure:
    """The last recorded value of `name`, such as "test/loss"."""
    return lambda workdir: next(r[name] for r in reversed(recorder.read(workdir)) if name in r)


def last_percent(name: str) -> Measure:
    """The last recorded value of an error, in percent."""
    return lambda workdir: 100 * last(name)(workdir)


def epochs_to(name: str, value: float) -> Measure:
    """The epoch at which `name` is first at most `value`; nan if it never is."""
    return lambda workdir: next(
        (r["epoch"] for r in recorder.read(workdir) if r.get(name, np.inf) <= value), float("nan")
    )


def bars(measure: str) -> Callable[[Results], Figure]:
    """A figure of a study: the mean of each run as a bar, and the value of each seed as a point."""

    def draw(results: Results) -> Figure:
        runs = list(results.values)
        figure = Figure(figsize=(8, 1 + 0.4 * len(runs)), layout="constrained")
        axis = figure.subplots()
        axis.barh(runs, [results.mean(run, measure) for run in runs], color="lightsteelblue")
        for place, run in enumerate(runs):
            values = results.of(run, measure)
            axis.plot(values, np.full(len(values), place), "k.", markersize=4)
            if np.isnan(values).all():
                axis.text(0, place, " no value", va="center")
        axis.invert_yaxis()
        axis.set_xlabel(measure)
        return figure

    return draw
