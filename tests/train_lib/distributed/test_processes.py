"""Several processes train together over the loopback interface, and end together."""

import itertools
import json
import shutil
import signal
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
import recorded
from conftest import tiny_config
from jax._src.clusters import cloud_tpu_cluster, cluster

from errors import TryAgain, UserError
from input_pipeline import batches, sources
from input_pipeline.split import part_of
from tests.stress.runs import records
from tests.stress.together import free_port, run_together
from train_lib import recorder
from train_lib.distributed import coordinator, processes
from train_lib.train import train_and_evaluate


def assert_close(actual, expected):
    assert [r.keys() for r in actual] == [r.keys() for r in expected]
    for one, other in zip(actual, expected, strict=True):
        for name, value in other.items():
            tolerance = 0.02 if name.endswith("error") else 2e-4 * abs(value)
            assert abs(one[name] - value) <= tolerance, (name, one, other)


def test_batches_of_processes_are_parts_of_one_batch():
    split = sources.load(tiny_config().dataset, "train")
    whole = batches.train_batches(split, batches.Order(3, 96, 8), 13, 4)  # over the end of a pass
    for count in (1, 2, 4, 8):
        parts = [
            batches.train_batches(split, batches.Order(3, 96, 8 // count, index, count), 13, 4)
            for index in range(count)
        ]
        for name, values in whole.items():
            np.testing.assert_array_equal(np.concatenate([p[name] for p in parts]), values)


def test_parts_of_a_split_cover_it():
    split = sources.load(tiny_config().dataset, "test")
    for parts in (1, 2, 3, 8, 400):
        actual = [part_of(split, i, parts) for i in range(parts)]
        assert sum(map(len, actual)) == len(split) == 355
        np.testing.assert_array_equal(np.concatenate([p.labels for p in actual]), split.labels)


def test_a_slurm_group_is_detected(monkeypatch):
    with pytest.raises(UserError, match=r"neither SLURM, .* nor a TPU pod has started this"):
        processes.detect_group()
    for name, value in {
        "JOB_ID": "4711",
        "STEP_NODELIST": "node[3-4]",
        "NTASKS": "8",
        "PROCID": "5",
        "LOCALID": "1",
    }.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    group = processes.detect_group()
    assert group.coordinator.startswith("node3:")
    assert (group.count, group.index, group.local_devices) == (8, 5, (1,))


def on_a_pod(monkeypatch, **metadata):
    """Simulates a host of a TPU pod slice. metadata: of Google's server, with _ instead of -."""

    def get_metadata(key):
        actual = metadata.get(key.replace("-", "_"))
        return ("", 404) if actual is None else (actual, 200)

    for module in (cluster, cloud_tpu_cluster):  # each has its own copy
        monkeypatch.setattr(module, "running_in_cloud_tpu_vm", True)
    monkeypatch.setattr(cloud_tpu_cluster, "get_metadata", get_metadata)
    monkeypatch.delenv("TPU_SKIP_MDS_QUERY", raising=False)  # JAX sets it where there is no TPU


def test_a_tpu_pod_is_detected(monkeypatch):
    endpoints = ["unknown:unknown:127.0.0.7", "unknown:unknown:127.0.0.8"]
    on_a_pod(
        monkeypatch,
        agent_worker_number="1",
        worker_network_endpoints=",".join(endpoints),
        tpu_env="ACCELERATOR_TYPE: 'v5p-16'\nWORKER_ID: '1'",
    )
    assert processes.detect_group() == processes.Group(
        "127.0.0.7:8482", 2, 1, None
    )  # all of its chips


def test_a_tpu_pod_in_kubernetes_is_detected(monkeypatch):
    on_a_pod(monkeypatch)
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "127.0.0.7,127.0.0.8,127.0.0.9")
    monkeypatch.setenv("TPU_WORKER_ID", "2")
    monkeypatch.setenv("JAX_COORDINATOR_PORT", "1234")
    assert processes.detect_group() == processes.Group("127.0.0.7:1234", 3, 2, None)


def test_an_unknown_first_host_asks_to_try_again(monkeypatch):
    on_a_pod(monkeypatch)

    def waits(address, seconds):
        raise RuntimeError(f"Failed to recognize coordinator address {address}")

    monkeypatch.setattr(cloud_tpu_cluster.GkeTpuCluster, "wait_for_coordinator", waits)
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "first,second")
    with pytest.raises(TryAgain, match=r"cannot be found \(.* address first\): start all"):
        processes.detect_group()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A run of one process with four devices, which the other runs must equal."""
    workdir = tmp_path_factory.mktemp("alone")
    with recorded.recording(workdir / "recorded"):
        state = jax.device_get(train_and_evaluate(tiny_config(**OF_FOUR), workdir))
    expected_batches = recorded.batches(workdir / "recorded")
    assert expected_batches.keys() == set(itertools.product(range(29), range(4)))
    assert len({images for images, _ in expected_batches.values()}) == 29 * 4
    return state, records(workdir), expected_batches


OF_FOUR = {"num_devices": 4, "log_every_steps": 1, "steps_per_dispatch": 2}


def assert_resumes_from(saved, resumed, step, processes):
    """Every leaf of the state on each of the four devices equals the saved one, bit for bit."""
    initial, expected = recorded.initial_states(resumed), recorded.saved_states(saved)[step,]
    assert len(expected) > 20
    assert len(initial) == 4
    assert {(at, process) for at, process, _ in initial} == {(step, i) for i in range(processes)}
    assert all(actual == expected for actual in initial.values())


def newest(workdir):
    return max(int(path.name) for path in (workdir / "checkpoints").iterdir())


@pytest.mark.slow
def test_two_processes_stop_together_and_one_process_resumes(tmp_path, alone):
    """SIGTERM goes to the process that does not write. One process resumes, then two."""
    expected, lines, expected_batches = alone
    workdir, folders = tmp_path / "run", [tmp_path / name for name in ("two", "one", "again")]
    ends = run_together(
        workdir,
        2,
        harm=("SIGTERM", "dispatch", 12),
        victim=1,
        config=OF_FOUR,
        record_to=str(folders[0]),
    )
    for index, (code, out, err, _) in enumerate(ends):
        assert code == 75, err
        name = "SIGTERM at" if index == 1 else "SIGTERM in process 1 at"
        assert f"stopped by {name} step" in err
        assert ("resumed at" in err or "to train" in err) == (index == 0)  # one process prints
        assert "test error" not in out
    stopped_at = newest(workdir)
    assert 12 <= stopped_at < 20
    with recorded.recording(folders[1]):
        state = train_and_evaluate(tiny_config(**OF_FOUR), workdir)
    assert_resumes_from(folders[0], folders[1], stopped_at, 1)
    # Every device's images, augmented, and labels are those of the run of one process.
    actual = [recorded.batches(folder) for folder in folders[:2]]
    assert max(actual[0])[0] == stopped_at - 1
    assert min(actual[1])[0] == stopped_at
    assert actual[0] | actual[1] == expected_batches
    assert_close(records(workdir), lines)
    for path, leaf in jax.tree.leaves_with_path(expected.params):
        actual = state.params[path[0].key][path[1].key]
        np.testing.assert_allclose(actual, leaf, atol=2e-5, err_msg=str(path))
    shutil.rmtree(workdir / "checkpoints" / "29")
    for code, _, err, _ in run_together(workdir, 2, config=OF_FOUR, record_to=str(folders[2])):
        assert code == 0, err
    assert_resumes_from(folders[1], folders[2], 25, 2)
    assert_close(records(workdir), lines)


@pytest.mark.slow
def test_four_and_then_two_processes_train_and_evaluate_like_one(tmp_path, alone):
    """The four have the training set in their devices' memory, as on accelerators."""
    folders = [tmp_path.with_name(f"{tmp_path.name}-{name}") for name in ("four", "two")]
    harm = ("SIGTERM", "dispatch", 12)
    options = dict(config=OF_FOUR, record_to=str(folders[0]), resident=True)
    ends = run_together(tmp_path, 4, harm=harm, victim=0, **options)
    assert [code for code, *_ in ends] == [75] * 4, ends
    stopped_at = newest(tmp_path)
    for code, _, err, _ in run_together(tmp_path, 2, config=OF_FOUR, record_to=str(folders[1])):
        assert code == 0, err
    assert_resumes_from(folders[0], folders[1], stopped_at, 2)
    assert recorded.batches(folders[0]).keys() == set(
        itertools.product(range(stopped_at), range(4))
    )
    assert recorded.batches(folders[0]) | recorded.batches(folders[1]) == alone[2]
    assert_close(records(tmp_path), alone[1])
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    config = OF_FOUR | {"evaluate.batch_size": 64, "evaluate.split": "test"}
    ends = run_together(tmp_path, 2, mode="evaluate", config=config)
    assert [code for code, *_ in ends] == [0, 0], ends
    last = alone[1][-1]
    for line in map(json.loads, ends[0][1].splitlines()[-2:]):  # the run alone, and as an ensemble
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
@pytest.mark.slow
@pytest.mark.parametrize(
    "victim, harm, message",
    [
        (0, ("SIGKILL", "between", 10), "process 0 of 2 (on {host}) ended without notice"),
        (1, ("SIGKILL", "restoring", 0), "process 1 of 2 (on {host}) ended without notice"),
        (0, ("SIGSTOP", "dispatch", 7), "process 0 of 2 (on {host}) has not answered for 6 s"),
        (1, ("SIGSTOP", "parting", 0), "process 1 of 2 (on {host}) has not answered for 6 s"),
        (1, ("SIGKILL", "connecting", 0), "process 1 of 2 (on {host}) ended without notice"),
    ],
    ids=lambda value: "-".join(map(str, value[:2])) if isinstance(value, tuple) else None,
)
def test_a_lost_process_is_named_and_ends_the_others(tmp_path, victim, harm, message):
    ends = run_together(tmp_path, 2, harm=harm, victim=victim, peer_timeout=6, net="mlp", devices=1)
    code, _, err, _ = ends[1 - victim]
    assert code == 75
    assert err.splitlines()[-1] == (
        f"run_process.py: {message.format(host=socket.gethostname())}: this process ends too; the"
        " same commands resume from the last checkpoint"
    )


@pytest.mark.slow
def test_processes_exit_without_abort_when_the_coordinator_is_lost(tmp_path):
    """As when process 0's container is killed. JAX's client would abort."""
    harm = ("SIGKILL", "connecting", 0)
    ends = run_together(tmp_path, 2, harm=harm, victim="coordinator", net="mlp", devices=1)
    for code, _, err, _ in ends:
        assert code == 75, err
        assert "process 0's coordinator at 127.0.0.1 has ended" in err.splitlines()[-1]


def test_the_coordinator_ignores_signals(tmp_path):
    """Signals may be sent to all processes of a command. It ends after the processes that train."""
    command = [sys.executable, coordinator.__file__, "127.0.0.1", str(free_port()), "1", "1", "30"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        for name in ("SIGTERM", "SIGINT"):
            process.send_signal(getattr(signal, name))
        assert process.wait(60) == 0  # no process connected within a second


@pytest.mark.slow
def test_a_save_is_finished_when_another_process_is_lost(tmp_path):
    harm = ("SIGKILL", "saving", 10)
    ends = run_together(tmp_path, 2, harm=harm, victim=1, net="mlp", devices=1)
    assert [code for code, *_ in ends] == [75, -9], ends
    assert newest(tmp_path) == 10


@pytest.mark.slow
def test_missing_processes_are_named(tmp_path):
    ends = run_together(tmp_path, 3, starts=[0, 2], start_timeout=12)
    for code, _, err, _ in ends:
        assert (code, err.count("\n")) == (75, 1)
        assert "processes 1 of 3 did not start within 12 s: start all of them" in err


@pytest.mark.slow
def test_different_configs_and_duplicate_ids_are_refused(tmp_path):
    for starts, options, message in (
        ([0, 1], {"other_task": 1}, "processes 0 and 1 were started with different configs"),
        ([0, 1, 1], {}, "two processes have --process_id=1"),
    ):
        ends = run_together(tmp_path, 3, starts=starts, start_timeout=30, **options)
        for code, _, err, _ in ends:
            assert code == 2, err
        assert message in ends[0][2].replace("processes 1 and 0", "processes 0 and 1")


def test_an_error_in_one_process_ends_all(tmp_path):
    """The first process cannot write. The other process does not open the folder."""
    (tmp_path / "file").write_text("")
    ends = run_together(tmp_path / "file" / "run", 2)
    assert [code for code, *_ in ends] == [2, 2], ends
    assert ends[0][2].startswith("cannot write to")
    assert ends[1][2].splitlines()[-1].startswith("run_process.py: process 0: cannot write to")


@pytest.mark.slow
def test_an_error_during_training_ends_all(tmp_path):
    """The other process waits in a step for the one that fails."""
    harm = ("ERROR", "dispatch", 7)
    ends = run_together(tmp_path, 2, harm=harm, victim=1, net="mlp", devices=1)
    assert [code for code, *_ in ends] == [2, 2], ends
    assert ends[0][2].splitlines()[-1] == "run_process.py: process 1: an image is gone"
    assert ends[1][2].splitlines()[-1] == "an image is gone"


@pytest.mark.slow
def test_processes_roll_back_together_with_the_statistics_of_the_first(tmp_path):
    """The network subtracts a mean image. Afterwards it is evaluated alone and as an ensemble."""
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
    steps = [record["step"] for record in recorder.read(tmp_path)]
    assert steps == [*range(4, 15, 4), 15, *range(16, 30, 4), 29]
    ends = run_together(tmp_path, 2, net="mlp", devices=1, config=config, mode="evaluate")
    assert [code for code, *_ in ends] == [0, 0], ends
    lines = [json.loads(line) for line in ends[0][1].splitlines()[-2:]]
    assert lines[0]["top1_error"] == pytest.approx(lines[1]["top1_error"], abs=0.003)


def test_processes_with_different_data_are_refused(monkeypatch):
    values = [{"value": "[1, 2]"}, {"value": "[1, 3]"}]
    monkeypatch.setattr(processes, "gather", lambda **_: values)
    with pytest.raises(UserError, match="process 1 and process 0 differ in data set"):
        processes.check_same("data set", [1, 2])
