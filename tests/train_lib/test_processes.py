"""Several processes that train together, over the loopback interface, and what ends them."""

import json
import socket

import jax
import numpy as np
import pytest
from conftest import tiny_config

from errors import UserError
from input_pipeline import batches, sources
from tests.stress.runs import records
from tests.stress.together import run_together
from train_lib import metrics, processes
from train_lib.train import train_and_evaluate


def assert_close(found, expected):
    assert [r.keys() for r in found] == [r.keys() for r in expected]
    for one, other in zip(found, expected, strict=True):
        for name, value in other.items():
            tolerance = 0.02 if name.endswith("error") else 2e-4 * abs(value)
            assert abs(one[name] - value) <= tolerance, (name, one, other)


def test_their_batches_are_parts_of_one():
    split = sources.load(tiny_config().dataset, "train")
    whole = batches.train_batches(split, 3, 13, 4, 96, 8)  # over the end of a pass
    for hosts in (1, 2, 4, 8):
        parts = [
            batches.train_batches(split, 3, 13, 4, 96, 8 // hosts, (host, hosts))
            for host in range(hosts)
        ]
        for name, values in whole.items():
            np.testing.assert_array_equal(np.concatenate([p[name] for p in parts]), values)


def test_parts_of_a_split_make_it_whole():
    split = sources.load(tiny_config().dataset, "test")
    for parts in (1, 2, 3, 8, 400):
        found = [sources.part(split, i, parts) for i in range(parts)]
        assert sum(map(len, found)) == len(split) == 355
        np.testing.assert_array_equal(np.concatenate([p.labels for p in found]), split.labels)


def test_slurm_says_who_is_who(monkeypatch):
    with pytest.raises(UserError, match=r"neither SLURM, .* nor a TPU pod has started this"):
        processes.detect()
    for name, value in {
        "JOB_ID": "4711",
        "STEP_NODELIST": "node[3-4]",
        "NTASKS": "8",
        "PROCID": "5",
        "LOCALID": "1",
    }.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    address, number, process, local = processes.detect()
    assert address.startswith("node3:")
    assert (number, process, local) == (8, 5, [1])


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """One process with four devices: the run that the others must equal."""
    workdir = tmp_path_factory.mktemp("alone")
    options = {"num_devices": 4, "log_every_steps": 1, "steps_per_dispatch": 2}
    return jax.device_get(train_and_evaluate(tiny_config(**options), workdir)), records(workdir)


OF_FOUR = {"num_devices": 4, "log_every_steps": 1, "steps_per_dispatch": 2}


def test_two_processes_stop_together_and_one_with_as_many_devices_goes_on(tmp_path, alone):
    """SIGTERM to one that does not write; then the same devices in another number of processes."""
    ends = run_together(tmp_path, 2, harm=("SIGTERM", "dispatch", 12), victim=1, config=OF_FOUR)
    for index, (code, out, err, _) in enumerate(ends):
        assert code == 75, err
        name = "SIGTERM at" if index == 1 else "SIGTERM in process 1 at"
        assert f"stopped by {name} step" in err
        assert ("going on" in err or "to train" in err) == (index == 0)  # one speaks
        assert "test error" not in out
    stopped_at = max(int(path.name) for path in (tmp_path / "checkpoints").iterdir())
    assert 12 <= stopped_at < 20
    state = train_and_evaluate(tiny_config(**OF_FOUR), tmp_path)
    expected, lines = alone
    assert_close(records(tmp_path), lines)
    for path, leaf in jax.tree.leaves_with_path(expected.params):
        found = state.params[path[0].key][path[1].key]
        np.testing.assert_allclose(found, leaf, atol=2e-5, err_msg=str(path))


def test_four_processes_train_as_one_and_test_as_one(tmp_path, alone):
    for code, _, err, _ in run_together(tmp_path, 4, config=OF_FOUR):
        assert code == 0, err
    assert_close(records(tmp_path), alone[1])
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    config = OF_FOUR | {"evaluate.batch_size": 64, "evaluate.split": "test"}
    ends = run_together(tmp_path, 2, mode="evaluate", config=config)
    assert [code for code, *_ in ends] == [0, 0], ends
    last = alone[1][-1]
    for line in map(json.loads, ends[0][1].splitlines()[-2:]):  # by itself, and as an ensemble
        assert line["examples"] == last["test/examples"] == 355
        assert abs(line["top1_error"] - last["test/top1_error"]) < 0.01
        if "ensemble" not in line:
            assert line["loss"] == pytest.approx(last["test/loss"], rel=2e-4)
    assert "top1_error" not in ends[1][1]
    folder = tmp_path / "evaluation" / "digits_test_full"
    rows = (folder / "predictions.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == [str(i) for i in range(355)]
    assert {p: p.read_bytes() for p in before} == before


# A sample; `python -m tests.stress.together` has every process, moment and signal.
@pytest.mark.parametrize(
    "victim, harm, said",
    [
        (0, ("SIGKILL", "between", 10), "process 0 of 2 (on {host}) ended without a word"),
        (1, ("SIGKILL", "restoring", 0), "process 1 of 2 (on {host}) ended without a word"),
        (0, ("SIGSTOP", "dispatch", 7), "process 0 of 2 (on {host}) has not answered for 6 s"),
        (1, ("SIGSTOP", "parting", 0), "process 1 of 2 (on {host}) has not answered for 6 s"),
        (1, ("SIGKILL", "connecting", 0), "process 1 of 2 (on {host}) ended without a word"),
    ],
    ids=lambda value: "-".join(map(str, value[:2])) if isinstance(value, tuple) else None,
)
def test_one_that_is_lost_ends_the_others_by_name(tmp_path, victim, harm, said):
    ends = run_together(tmp_path, 2, harm=harm, victim=victim, silence=6, net="mlp", devices=1)
    code, _, err, _ = ends[1 - victim]
    assert code == 75
    assert err.splitlines()[-1] == (
        f"run_one_of.py: {said.format(host=socket.gethostname())}: this one ends too; the same"
        " commands go on from the last checkpoint"
    )


def test_without_the_coordinator_they_end_and_do_not_abort(tmp_path):
    """As where all that runs in process 0's container is killed; JAX's client then aborts."""
    harm = ("SIGKILL", "connecting", 0)
    ends = run_together(tmp_path, 2, harm=harm, victim="coordinator", net="mlp", devices=1)
    for code, _, err, _ in ends:
        assert code == 75, err
        assert "process 0's coordinator at 127.0.0.1 has ended" in err.splitlines()[-1]


def test_a_save_under_way_is_finished_when_another_is_lost(tmp_path):
    harm = ("SIGKILL", "saving", 10)
    ends = run_together(tmp_path, 2, harm=harm, victim=1, net="mlp", devices=1)
    assert [code for code, *_ in ends] == [75, -9], ends
    assert max(int(path.name) for path in (tmp_path / "checkpoints").iterdir()) == 10


def test_those_that_do_not_come_are_named(tmp_path):
    ends = run_together(tmp_path, 3, starts=[0, 2], patience=20)
    for code, _, err, _ in ends:
        assert (code, err.count("\n")) == (75, 1)
        assert "of 3 processes 1 did not come within 20 s: start all of them" in err


def test_other_configs_and_doubles_are_refused(tmp_path):
    for starts, options, said in (
        ([0, 1], {"odd": 1}, "processes 0 and 1 were started with other configs"),
        ([0, 1, 1], {}, "two processes say that they are number 1"),
    ):
        ends = run_together(tmp_path, 3, starts=starts, patience=30, **options)
        for code, _, err, _ in ends:
            assert code == 2, err
        assert said in ends[0][2].replace("processes 1 and 0", "processes 0 and 1")


def test_an_error_of_one_is_the_end_of_all(tmp_path):
    """The first process cannot write; the other never looks at the folder."""
    (tmp_path / "file").write_text("")
    ends = run_together(tmp_path / "file" / "run", 2)
    assert [code for code, *_ in ends] == [2, 2], ends
    assert ends[0][2].startswith("cannot write to")
    assert ends[1][2].splitlines()[-1].startswith("run_one_of.py: process 0: cannot write to")


def test_an_error_in_the_middle_is_the_end_of_all(tmp_path):
    """While the others wait for that process in a step."""
    harm = ("ERROR", "dispatch", 7)
    ends = run_together(tmp_path, 2, harm=harm, victim=1, net="mlp", devices=1)
    assert [code for code, *_ in ends] == [2, 2], ends
    assert ends[0][2].splitlines()[-1] == "run_one_of.py: process 1: an image is gone"
    assert ends[1][2].splitlines()[-1] == "an image is gone"


def test_they_roll_back_together_with_statistics_of_the_first(tmp_path):
    """Then they test, by what also makes an ensemble, a net that subtracts a mean image."""
    config = {
        "preprocess.mean": "pixel",
        "preprocess.low": 0.0,
        "model.activation": "relu",
        "schedule.learning_rate": 1e30,
        "not_finite.action": "roll_back",
        "not_finite.rate_factor": 1e-16,
        "not_finite.limit": 3,
    }
    ends = run_together(tmp_path, 2, net="mlp", devices=1, config=config)
    assert [code for code, *_ in ends] == [0, 0], ends
    assert ends[0][2].count("going back to step 0") >= 1
    assert "going back" not in ends[1][2]
    steps = [record["step"] for record in metrics.read(tmp_path)]
    assert steps == [*range(4, 15, 4), 15, *range(16, 30, 4), 29]
    ends = run_together(tmp_path, 2, net="mlp", devices=1, config=config, mode="evaluate")
    assert [code for code, *_ in ends] == [0, 0], ends
    lines = [json.loads(line) for line in ends[0][1].splitlines()[-2:]]
    assert lines[0]["top1_error"] == pytest.approx(lines[1]["top1_error"], abs=0.003)
