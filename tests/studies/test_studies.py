"""Studies: their statistics, their verdicts, and runs that are skipped, resumed and reported."""

import json
import math

import numpy as np
import pytest

from errors import UserError
from studies import __main__ as command
from studies import engine, mnist_baselines, report, sweep, weight_sharing
from studies.study import Results, Run, Scale, Study, Verdict, epochs_to, last, last_percent

TINY = {"dataset.name": "digits", "batch_size": 64, "epochs": 0.3, "steps_per_dispatch": 1}
ERROR = "error"


def results(**values):
    return Results({name: {ERROR: of_run} for name, of_run in values.items()})


def test_differences_are_paired_and_have_students_interval():
    measured = results(a=[3.0, 5.0, 4.0], b=[2.0, 3.0, 3.0])
    difference = measured.difference("a", "b", ERROR)
    # Differences 1, 2, 1: mean 4/3, deviation 0.577; the 97.5 % point of t with 2 degrees is 4.303.
    assert difference.mean == pytest.approx(4 / 3)
    half = 4.302653 * np.std([1, 2, 1], ddof=1) / math.sqrt(3)
    assert difference.low == pytest.approx(4 / 3 - half)
    assert difference.high == pytest.approx(4 / 3 + half)
    summary = measured.summary("a", ERROR)
    assert (summary.mean, summary.deviation, summary.count) == (4.0, pytest.approx(1.0), 3)


def test_one_seed_has_no_deviation_and_no_interval():
    measured = results(a=[3.0], b=[2.0])
    assert math.isnan(measured.summary("a", ERROR).deviation)
    difference = measured.difference("a", "b", ERROR)
    assert difference.mean == 1.0 and math.isnan(difference.low) and math.isnan(difference.high)


def test_a_seed_without_a_value_is_left_out_of_the_mean():
    measured = results(a=[3.0, None, 5.0], b=[None, None, None])
    summary = measured.summary("a", ERROR)
    assert (summary.mean, summary.count) == (4.0, 2)
    assert report.format_summary(measured, "a", ERROR) == "4.00 ± 1.41 (2)"
    assert report.format_summary(measured, "b", ERROR) == "-"
    assert math.isnan(measured.difference("a", "b", ERROR).mean)


def test_measures_read_the_last_value_or_the_first_that_is_low_enough(tmp_path):
    records = [
        {"step": 1, "epoch": 0.5, "train/loss": 2.0},
        {"step": 2, "epoch": 1.0, "train/loss": 1.0, "test/top1_error": 0.25},
        {"step": 3, "epoch": 1.5, "train/loss": 0.5},
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n")
    assert last("train/loss")(tmp_path) == 0.5
    assert last_percent("test/top1_error")(tmp_path) == 25.0
    assert epochs_to("train/loss", 1.0)(tmp_path) == 1.0
    assert math.isnan(epochs_to("train/loss", 0.1)(tmp_path))


@pytest.mark.parametrize(
    "errors, expected",
    [
        ({"full": [13, 14, 13], "local": [11, 12, 11.5], "shared": [6, 7, 6]}, "reproduced"),
        (
            {"full": [13, 14, 13], "local": [13, 13.5, 14], "shared": [6, 7, 6.5]},
            "direction reproduced",
        ),
        ({"full": [6, 14, 13], "local": [11, 12, 11], "shared": [7, 14, 13]}, "not reproduced"),
        ({"full": [13], "local": [11], "shared": [6]}, "not reproduced"),  # one seed shows nothing
    ],
)
def test_the_verdict_on_weight_sharing_follows_its_rule(errors, expected):
    values = {f"{name}, 320": {weight_sharing.ERROR: of_run} for name, of_run in errors.items()}
    assert weight_sharing.verdict(Results(values)) == expected


@pytest.mark.parametrize(
    "errors, expected",
    [
        ((12.5, 4.7, 2.9, 1.0, 0.8), "reproduced"),
        ((12.5, 6.0, 2.9, 1.0, 0.8), "direction reproduced"),
        ((12.5, 4.7, 2.9, 0.8, 1.0), "not reproduced"),
    ],
)
def test_the_verdict_on_mnist_follows_its_rule(errors, expected):
    pairs = zip(mnist_baselines.ORDER, errors, strict=True)
    values = {name: {mnist_baselines.ERROR: [error]} for name, error in pairs}
    assert mnist_baselines.verdict(Results(values)) == expected


@pytest.mark.parametrize("name", engine.names())
def test_every_study_is_complete(name):
    study = engine.find(name)
    assert {"smoke", "small"} <= set(study.scales)
    for scale in study.scales.values():
        assert len({run.name for run in scale.runs}) == len(scale.runs)
        for job in engine.jobs(scale, engine.RESULTS)[: len(scale.runs)]:
            job.config({})  # every file, argument and field exists
    with open(f"{engine.RESULTS.parent}/{name}.py") as file:
        assert sum(1 for _ in file) <= 120


@pytest.mark.parametrize("name", engine.names())
def test_verdicts_and_figures_use_the_runs_of_the_study(name):
    study = engine.find(name)
    scale = study.scales["small"]
    rng = np.random.default_rng(0)
    values = {
        run.name: {measure: rng.uniform(1, 2, scale.seeds) for measure in study.measures}
        for run in scale.runs
    }
    assert study.verdict(Results(values)) in set(Verdict) - {Verdict.NOT_RUN}
    if study.figure:
        assert study.figure(Results(values)).axes


STUDY = Study(
    claim="A wider layer errs less.",
    source="nobody",
    changes="everything",
    scales={
        "small": Scale([Run("narrow", "mlp:4", TINY, "9"), Run("wide", "mlp:30", TINY)], 2, 0.01)
    },
    measures={ERROR: last_percent("test/top1_error")},
    rule="Always reproduced.",
    verdict=lambda results: Verdict.REPRODUCED,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The runs of STUDY."""
    folder = tmp_path_factory.mktemp("studies")
    assert len(list(engine.run_all(engine.jobs(STUDY.scales["small"], folder), {}))) == 4
    return folder


@pytest.fixture
def only_study(folder, tmp_path, monkeypatch):
    """STUDY is the only study, and its results are stored in a temporary folder."""
    monkeypatch.setattr(engine, "names", lambda: ["width"])
    monkeypatch.setattr(engine, "find", lambda name: STUDY)
    monkeypatch.setattr(engine, "RESULTS", tmp_path)
    monkeypatch.setattr(report, "PAGES", tmp_path / "pages")
    monkeypatch.setattr(report, "ROOT", tmp_path)
    monkeypatch.setattr(report, "TABLES", ("a.md", "docs/b.md"))
    (tmp_path / "docs").mkdir()
    head = f"| file | argument | {report.COLUMN} |\n|---|---|---|\n"
    (tmp_path / "a.md").write_text(
        f"{head}| MLP | `mlp.py:4` | ? |\n| | `mlp.py:5` | |\n`mlp.py:4`\n"
    )
    (tmp_path / "docs" / "b.md").write_text(
        f"{head}| [mlp](../configs/mlp.py) | `5` | |\n| | `4` | |\n"
    )
    (tmp_path / "runs" / "width").mkdir(parents=True)
    (tmp_path / "runs" / "width" / "small").symlink_to(folder)
    return tmp_path


def test_runs_that_are_done_are_skipped_and_others_resumed(folder, monkeypatch, capsys):
    trained = []
    monkeypatch.setattr(
        engine, "train_and_evaluate", lambda _, workdir: trained.append(workdir.name)
    )
    jobs = engine.jobs(STUDY.scales["small"], folder)
    assert [job.workdir.name for job in engine.run_all(jobs, {})] == [
        *("narrow-seed0", "wide-seed0", "narrow-seed1", "wide-seed1")
    ]
    assert trained == []
    records = (folder / "wide-seed1" / "metrics.jsonl").read_text()
    try:
        (folder / "wide-seed1" / "metrics.jsonl").write_text("")
        list(engine.run_all(jobs, {}))
    finally:
        (folder / "wide-seed1" / "metrics.jsonl").write_text(records)
    assert trained == ["wide-seed1"]
    assert "run 4 of 4: wide, seed 1" in capsys.readouterr().err


def test_a_run_of_another_config_does_not_count(folder):
    jobs = engine.jobs(STUDY.scales["small"], folder)
    with pytest.raises(UserError, match=r"another config \(schedule.learning_rate: 0.01 -> 0.5\)"):
        list(engine.run_all(jobs, {"schedule.learning_rate": 0.5}))


def test_a_run_stores_its_results_and_pages_are_made_of_them(only_study, capsys):
    flags = ["run", "width", f"--workdir={only_study / 'runs'}"]
    assert command.main(flags) == 0
    stored = json.loads((only_study / "width.json").read_text())
    assert stored["verdict"] == "reproduced" and stored["commits"] and stored["machines"]
    assert len(stored["values"]["wide"][ERROR]) == 2
    assert stored["data"] == ["digits, 1,442 training images"]
    assert stored["seconds"] > 0
    assert stored["command"] == "python -m studies run width --scale=small"
    assert stored["curves"]["wide, seed 1"][-1]["test/top1_error"] <= 1
    assert "| narrow | 9 | " in capsys.readouterr().out
    assert command.main(["report"]) == 0
    page = (only_study / "pages" / "width.md").read_text()
    assert page.startswith("# width: reproduced\n")
    assert report.format_summary(Results(stored["values"]), "wide", ERROR) in page
    assert (only_study / "pages" / "width.png").stat().st_size > 5000
    assert (
        "[width](width.md) | A wider layer errs less. | nobody | reproduced"
        in (only_study / "pages" / "README.md").read_text()
    )
    rows = (only_study / "a.md").read_text().splitlines()[2:]
    assert rows[0] == "| MLP | `mlp.py:4` | recipe changed: [width](pages/width.md) |"
    assert rows[1:] == ["| | `mlp.py:5` | not run |", "`mlp.py:4`"]
    rows = (only_study / "docs" / "b.md").read_text().splitlines()[2:]
    assert rows[0] == "| [mlp](../configs/mlp.py) | `5` | not run |"
    assert rows[1] == "| | `4` | recipe changed: [width](../pages/width.md) |"
    assert command.main([]) == 0
    assert "reproduced (small)" in capsys.readouterr().out


def test_pages_agree_with_the_stored_results():
    for path, text in report.pages().items():
        assert path.read_text() == text, "run python -m studies report"


def test_curves_are_thinned_to_their_last_point():
    records = [{"step": i, "epoch": i / 10, "train/loss": 1 / (i + 1)} for i in range(1001)]
    points = engine.thinned(records)
    assert len(points) <= engine.MOST_POINTS
    assert points[-1] == {"epoch": 100.0, "train/loss": 0.000999}
    evaluated = [record | {"test/loss": 2.0} for record in records[::200]]
    assert [point["epoch"] for point in engine.thinned(evaluated + records[1:50])] == [
        *(0.0, 20.0, 40.0, 60.0, 80.0, 100.0)
    ]


def test_a_sweep_trains_all_combinations_and_compare_names_what_differs(tmp_path, capsys):
    changes = [f"--set={name}={value}" for name, value in TINY.items()]
    flags = ["--config=mlp:8", "--vary=model.activation=relu,tanh", f"--workdir={tmp_path}"]
    assert command.main(["sweep", *flags, *changes]) == 0
    table = capsys.readouterr().out.splitlines()[-3:]
    assert [line.split()[0] for line in table] == ["run", "activation=relu", "activation=tanh"]
    runs = [str(tmp_path / f"activation={name}-seed0") for name in ("relu", "tanh")]
    assert command.main(["compare", *runs, f"--plot={tmp_path / 'a.png'}"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0].split()[:2] == ["run", "model.activation"]
    assert table[1].startswith('activation=relu-seed0  "relu"')
    assert (tmp_path / "a.png").stat().st_size > 5000


def test_short_names_are_the_parts_that_differ(tmp_path):
    paths = [tmp_path / "runs" / "a" / "seed0", tmp_path / "runs" / "b" / "seed0"]
    assert sweep.short_names(paths) == ["a/seed0", "b/seed0"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["run", "nothing"], "no study 'nothing': choose one of"),
        (["run", "weight_sharing", "--scale=huge"], "no scale 'huge'"),
        (["run", "weight_sharing", "--set=epochs"], "--set=epochs: give FIELD=VALUE"),
        (["compare", "nowhere", "elsewhere"], "nowhere"),
        (["compare", "nowhere"], "two or more runs"),
        (["sweep", "--config=none", "--workdir=x"], "none"),
    ],
)
def test_mistakes_are_one_line(arguments, message, capsys):
    assert command.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("studies: ") and error.count("\n") == 1 and message in error


def test_unknown_fields_are_refused():
    job = engine.jobs(Scale([Run("a", "mlp:4", {"epoch": 1})], 1, 0), engine.RESULTS)[0]
    with pytest.raises(UserError, match="epoch"):
        job.config({})
