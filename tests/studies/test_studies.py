"""Studies: their statistics, their verdicts, and runs that are skipped, resumed and reported."""

import dataclasses
import json
import math
import os
import signal

import numpy as np
import pytest

from errors import UserError
from studies import __main__ as command
from studies import (
    activation_rates,
    activations,
    engine,
    mnist_baselines,
    report,
    sweep,
    weight_sharing,
)
from studies.study import Results, Run, Scale, Study, Verdict, epochs_to, last, last_percent

TINY = {"dataset.name": "digits", "batch_size": 64, "epochs": 0.3, "steps_per_dispatch": 1}
DIGITS = [f"--set={name}={value}" for name, value in TINY.items()]
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


# Its claim is that rates differ, and a rate at which the training diverges is not the best.
@pytest.mark.parametrize("name", sorted(set(engine.names()) - {"activation_rates"}))
def test_a_run_without_a_value_never_makes_a_verdict_better(name):
    stored, study = report.load(name), engine.find(name)
    if stored is None:
        pytest.skip("not run")
    order = [Verdict.NOT_REPRODUCED, Verdict.DIRECTION, Verdict.REPRODUCED]
    assert study.verdict(Results(stored["values"])) == stored["verdict"]
    nothing = {
        run: {measure: [None] * len(seeds) for measure, seeds in measures.items()}
        for run, measures in stored["values"].items()
    }
    for run in stored["values"]:
        verdict = study.verdict(Results(stored["values"] | {run: nothing[run]}))
        assert order.index(verdict) <= order.index(stored["verdict"]), run
    if name != "vanishing_gradient":  # a gradient without a value is 0
        assert study.verdict(Results(nothing)) == Verdict.NOT_REPRODUCED


def test_an_order_needs_all_values():
    measured = results(a=[2.0], b=[1.0], c=[1.0], none=[None])
    assert measured.falls("abc", ERROR) and not measured.falls("ba", ERROR)
    for runs in (("a", "none"), ("none", "b"), ("a", "none", "b")):
        assert not measured.falls(runs, ERROR)


def test_a_run_whose_folder_was_moved_keeps_its_start(tmp_path):
    before, after = tmp_path / "before", tmp_path / "after"
    scale = Scale([Run("a", "mlp:4", TINY), Run("b", "mlp:4", TINY, start="a")], 1, 0)
    list(engine.run_all(engine.jobs(scale, before), {}))
    before.rename(after)
    jobs = engine.jobs(scale, after)
    assert all(engine.is_done(job, job.config({})) for job in jobs)
    # Without its last checkpoint, a run is not done: another may start from it.
    (checkpoint,) = (after / "a-seed0" / "checkpoints").glob("[0-9]*")
    checkpoint.rename(tmp_path / checkpoint.name)
    assert not engine.is_done(jobs[0], jobs[0].config({}))


def test_a_run_starts_from_an_earlier_run_with_its_seed(tmp_path):
    runs = [Run("a/b", "mlp:4"), Run("c", "mlp:4", start="a/b")]
    jobs = engine.jobs(Scale(runs, 2, 0), tmp_path)
    assert [job.config({}).init_from for job in jobs] == [
        *("", str(tmp_path / "a-b-seed0"), "", str(tmp_path / "a-b-seed1"))
    ]
    for name in engine.names():  # a run's start is before it
        for scale in engine.find(name).scales.values():
            names = [run.name for run in scale.runs]
            assert all(run.start in ["", *names[:i]] for i, run in enumerate(scale.runs)), name


def test_activations_train_with_the_best_rates():
    stored = report.load("activation_rates")
    if stored is None:
        pytest.skip("activation_rates was not run")
    assert activation_rates.best_rates(Results(stored["values"])) == activations.RATES


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
        engine, "train_and_evaluate", lambda _, workdir, **__: trained.append(workdir.name)
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
    with (only_study / "runs/width/small/wide-seed1" / engine.TRAINED).open("a") as file:
        file.write('{"seconds": 3600}\n{"seco')  # as earlier versions noted it; cut off
    flags = ["run", "width", f"--workdir={only_study / 'runs'}"]
    assert command.main(flags) == 0
    stored = json.loads((only_study / "width.json").read_text())
    assert stored["verdict"] == "reproduced" and stored["commits"] and stored["machines"]
    assert len(stored["values"]["wide"][ERROR]) == 2
    assert stored["data"] == ["digits, 1,442 training images"]
    assert stored["seconds"] > 3600
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
    flags = [
        "--config=configs/mlp.py:8",
        "--set=model.activation=relu,tanh",
        f"--workdir={tmp_path}",
    ]
    assert command.main(["sweep", *flags, *DIGITS]) == 0
    table = capsys.readouterr().out.splitlines()[-3:]
    assert [line.split()[0] for line in table] == ["run", "activation=relu", "activation=tanh"]
    runs = [str(tmp_path / f"activation={name}-seed0") for name in ("relu", "tanh")]
    assert command.main(["compare", *runs, f"--plot={tmp_path / 'a.png'}"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0].split()[:2] == ["run", "model.activation"]
    assert table[1].startswith('activation=relu-seed0  "relu"')
    assert "nan" not in "".join(table)  # runs too short to have a rate
    assert (tmp_path / "a.png").stat().st_size > 5000


def test_a_sweep_refuses_a_wrong_value_before_it_trains(tmp_path, capsys):
    flags = ["sweep", "--config=mlp:8", f"--workdir={tmp_path / 'runs'}", *DIGITS]
    assert command.main([*flags, "--set=model.activation=relu,tanhh"]) == 2
    assert "activation=tanhh" in capsys.readouterr().err
    assert command.main([*flags, "--set=optimizer.layer_rates={'h0': 'fast'}"]) == 2
    assert "layer_rates" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
    run = Run("slow", "mlp:8", {"optimizer.layer_rates": {"h0": 0.1}})
    assert engine.Job(run, 0, tmp_path).config({}).optimizer.layer_rates.h0 == 0.1


def test_a_run_that_diverges_has_no_value_and_the_others_are_trained(tmp_path, monkeypatch, capsys):
    relu = TINY | {"model.activation": "relu"}  # tanh is finite at all rates
    rates = {"schedule.learning_rate": (1e30, 0.01)}
    table = sweep.sweep("mlp:8", rates | {n: [v] for n, v in relu.items()}, range(1), tmp_path)
    assert table.splitlines()[1].split() == ["learning_rate=1e+30", "-"]
    assert float(table.splitlines()[2].split()[1]) > 0
    assert "diverged: the " in capsys.readouterr().err
    scale = Scale([Run("fast", "mlp:8", relu | {"schedule.learning_rate": 1e30})], 1, 0.0)
    jobs = engine.jobs(scale, tmp_path)
    (tmp_path / "learning_rate=1e+30-seed0").rename(jobs[0].workdir)
    monkeypatch.setattr(engine, "train_and_evaluate", None)  # it is not trained again
    assert list(engine.run_all(jobs, {})) == jobs
    study = dataclasses.replace(STUDY, scales={"small": scale})
    monkeypatch.setattr(engine, "find", lambda name: study)
    stored = engine.stored("width", "small", jobs) | {"command": "", "note": ""}
    assert stored["diverged"] == ["fast, seed 0"]
    page = report.page("width", study, stored)
    assert "No value, because the loss became infinite: fast, seed 0." in page
    report.figure(study, stored)


def test_a_run_that_starts_from_a_diverged_one_is_not_trained(tmp_path, monkeypatch):
    runs = [Run("a", "mlp:4", TINY), Run("b", "mlp:4", TINY, start="a")]
    runs.append(Run("c", "mlp:4", TINY, start="b"))
    scale, trained = Scale(runs, 1, 0), []
    jobs = engine.jobs(scale, tmp_path)

    def diverge(_, workdir, **__):
        trained.append(workdir.name)
        workdir.mkdir()
        raise engine.NotFinite("the loss became infinite", 1)

    monkeypatch.setattr(engine, "train_and_evaluate", diverge)
    assert list(engine.run_all(jobs, {})) == jobs
    assert trained == ["a-seed0"]
    monkeypatch.setattr(engine, "find", lambda name: STUDY)
    (tmp_path / "a-seed0" / "dataset.json").write_text('{"name": "x", "train_examples": 1}')
    stored = engine.stored("width", "small", jobs)
    assert stored["values"] == {name: {ERROR: [None]} for name in "abc"}
    assert report.figure(STUDY, stored).axes
    assert stored["diverged"] == [
        *("a, seed 0", "b, seed 0, which starts from a", "c, seed 0, which starts from b")
    ]


def test_short_names_are_the_parts_that_differ(tmp_path):
    paths = [tmp_path / "runs" / "a" / "seed0", tmp_path / "runs" / "b" / "seed0"]
    assert sweep.short_names(paths) == ["a/seed0", "b/seed0"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["run", "nothing"], "no study 'nothing': choose one of"),
        (["run", "weight_sharing", "--scale=huge"], "no scale 'huge'"),
        (["run", "weight_sharing", "--set=epochs"], "--set=epochs: give FIELD=VALUE"),
        (["run", "weight_sharing", "--set==3"], "--set==3: give FIELD=VALUE"),
        (["run", "weight_sharing", "--set=epochs=a"], "config.epochs=a: must be of type float"),
        (["run", "weight_sharing", "--set=seed=7"], "seed cannot be set"),
        (["run", "weight_sharing", "--set=model={}"], "has no field model"),
        (["sweep", "--config=mlp", "--workdir=x", "--seeds=0"], "--seeds=0: give their number"),
        (["sweep", "--config=mlp", "--workdir=x", "--seeds=3:2"], "--seeds=3:2: give their"),
        (["sweep", "--config=mlp", "--workdir=x", "--seeds=a"], "--seeds=a: give their number"),
        (
            ["sweep", "--config=mlp", "--workdir=x", "--set=epochs=1.0,b"],
            "config.epochs=b: must be",
        ),
        (["compare", "nowhere", "./nowhere"], "two or more runs"),
        (["compare", "nowhere", "elsewhere"], "nowhere"),
        (["compare", "nowhere"], "two or more runs"),
        (["sweep", "--config=none", "--workdir=x"], "none"),
    ],
)
def test_mistakes_are_one_line(arguments, message, capsys):
    assert command.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("studies: ") and error.count("\n") == 1 and message in error


@pytest.mark.parametrize(
    "text, values",
    [
        ("relu,tanh", ["relu", "tanh"]),
        ("0.1, 0.1, 1", [0.1, 1]),
        ("(36, 48),(32, 32)", [(36, 48), (32, 32)]),
        ("(36, 48)", [(36, 48)]),
        ("train[:10],'train[10:20]'", ["train[:10]", "train[10:20]"]),
        ('"a,b",c', ["a,b", "c"]),
        ("{[]: 1}", ["{[]: 1}"]),  # ast raises TypeError
    ],
)
def test_values_of_a_sweep_are_separated_by_commas(text, values):
    assert command._values(text) == values


def test_seeds_are_a_number_or_a_range():
    assert command._seeds("3") == range(3) and command._seeds("2:5") == range(2, 5)
    jobs = engine.jobs(Scale([Run("a", "mlp:4")], 2, 0, first_seed=3), engine.RESULTS)
    assert [(job.seed, job.workdir.name) for job in jobs] == [(3, "a-seed3"), (4, "a-seed4")]


def test_results_of_a_changed_study_are_not_stored(only_study, monkeypatch, capsys):
    monkeypatch.setattr(engine, "run_all", lambda todo, *_: todo)
    flags = ["run", "width", f"--workdir={only_study / 'runs'}"]
    assert command.main([*flags, "--set=batch_size=32"]) == 0
    assert "not stored" in capsys.readouterr().out and not (only_study / "width.json").exists()
    assert command.main([*flags, "--set=dataset.data_dir=elsewhere", "--note=on a laptop"]) == 0
    stored = json.loads((only_study / "width.json").read_text())
    command_of_it = "python -m studies run width --scale=small --set=dataset.data_dir=DATA"
    assert (stored["command"], stored["note"]) == (command_of_it, "on a laptop")


def test_results_that_do_not_fit_the_study_are_one_line(only_study, capsys):
    command.main(["run", "width", f"--workdir={only_study / 'runs'}"])
    path = only_study / "width.json"
    stored, page = json.loads(path.read_text()), only_study / "a.md"
    before = page.read_text()
    values = {name: of_run for name, of_run in stored["values"].items() if name != "wide"}
    without_key = {key: value for key, value in stored.items() if key != "note"}
    cases = {
        "it has no note": json.dumps(without_key),
        "it has no values of 'wide'": json.dumps(stored | {"values": values}),
        "'huge'": json.dumps(stored | {"scale": "huge"}),
        "Unterminated": json.dumps(stored)[:-9],
        "no attribute": "[]",
    }
    capsys.readouterr()
    for message, text in cases.items():
        path.write_text(text)
        assert command.main(["report"]) == 2 == command.main([])
        error = capsys.readouterr().err
        assert error.count("\n") == 2 and f"cannot use {path} (" in error and message in error
    assert page.read_text() == before


@pytest.mark.parametrize(
    "statuses, status",
    [((0, 0, 0), 0), ((2, 0, 0), 2), ((0, 75), 75), ((-9,), -9)],
)
def test_all_studies_run_unless_one_is_stopped(statuses, status, monkeypatch):
    """SIGTERM, which this process receives, is sent on to the process of a study."""
    started, signals = [], []

    class Child:
        def __init__(self, arguments):
            started.append(arguments[4])

        def wait(self):
            if statuses[len(started) - 1] == 75:
                os.kill(os.getpid(), signal.SIGTERM)
            return statuses[len(started) - 1]

        def send_signal(self, number):
            signals.append(number)

    monkeypatch.setattr(command.subprocess, "Popen", Child)
    monkeypatch.setattr(engine, "names", lambda: ["a", "b", "c"])
    assert command.main(["run", "all"]) == status
    assert started == ["a", "b", "c"][: len(statuses)]
    assert signals == ([signal.SIGTERM] if status == 75 else [])
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_missing_data_set_is_a_message_with_the_flags_of_this_command(tmp_path, capsys):
    assert command.main(["run", "mnist_baselines", f"--set=dataset.data_dir={tmp_path}"]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "python -m input_pipeline.prepare mnist" in message
    assert "--set=dataset.data_dir=DIR" in message and "--config" not in message


def test_unknown_fields_are_refused():
    job = engine.jobs(Scale([Run("a", "mlp:4", {"epoch": 1})], 1, 0), engine.RESULTS)[0]
    with pytest.raises(UserError, match="epoch"):
        job.config({})
