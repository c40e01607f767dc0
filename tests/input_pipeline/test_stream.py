"""Decoded batches: a function of (seed, step) for any threads, processes, devices and hosts."""

import io
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from configs.schema import base
from errors import UserError
from input_pipeline import batches, stream
from input_pipeline import reading as reading_lib
from input_pipeline.split import Info
from input_pipeline.views import View
from train_lib.distributed.workers import prefetch_in_processes

INFO = Info("made", (0, 0, 3), ("cat", "dog", "fox"))
SEED, BATCH = 4, 8


class Pictures:
    """Twenty PNG files of different sizes in memory. Example i has the grey level 10 * i."""

    info = INFO

    def __init__(self, bad=(), labels=None, n=20):
        self.bad, self.labels, self.n = bad, labels or [i % 3 for i in range(n)], n

    def __len__(self):
        return self.n

    def read(self, i):
        file = io.BytesIO()
        Image.new("RGB", (24 + i, 20 + 2 * i), (10 * i,) * 3).save(file, "PNG")
        name = f"{i}.png (class {INFO.class_names[i % 3]})"
        data = file.getvalue()
        return data[: len(data) // 2] if i in self.bad else data, self.labels[i], name


class Noise:
    """Images in memory. Crops at different places differ."""

    info = Info("noise", (20, 30, 3), ("a", "b"))

    def __len__(self):
        return 50

    def read(self, i):
        image = np.random.default_rng(i).integers(0, 256, (20, 30, 3)).astype(np.uint8)
        return image, i % 2, f"example {i}"


def reading(workers=0, **options):
    view = base().view
    view.update({"size": 16, "train_scale": (16, 20), "test_scale": 18})
    processes = prefetch_in_processes(workers)
    return reading_lib.Reading(View.from_section(view), workers=processes, **options)


def training(split, first=0, last=10**6, dispatch=1, devices=1, process=(0, 1), **options):
    """process: its number and the number of processes."""
    order = batches.Order(SEED, BATCH, devices, *process)
    steps = range(first, last)
    return stream.TrainBatches(split, reading(**options), order, steps, lambda _: dispatch)


def train(split, first=0, last=6, **options):
    return list(training(split, first, last, **options))


def flat(actual, name="image"):
    """[steps, places, ...]"""
    steps = [np.swapaxes(batch[name], 0, 1) for batch in actual]
    return np.concatenate([part.reshape(len(part), -1, *part.shape[3:]) for part in steps])


WHOLE = flat(train(Noise()))


def test_examples_follow_batch_indices_in_all_passes():
    levels = flat(train(Pictures(), last=5))[:, :, 0, 0, 0] // 10
    for step, actual in enumerate(levels):
        expected = batches.Order(SEED, BATCH, 1).examples(step * BATCH, BATCH, 20)
        np.testing.assert_array_equal(actual, expected)
    assert sorted(levels.flat) == sorted([*range(20)] * 2)


def test_a_stream_can_start_at_any_step():
    for first in (1, 5):
        np.testing.assert_array_equal(flat(train(Noise(), first=first)), WHOLE[first:])


@pytest.mark.parametrize(("devices", "dispatch"), [(2, 1), (8, 3), (1, 6)])
def test_devices_and_dispatches_change_the_layout_only(devices, dispatch):
    actual = train(Noise(), devices=devices, dispatch=dispatch)
    assert actual[0]["image"].shape == (devices, dispatch, BATCH // devices, 16, 16, 3)
    assert actual[0]["image"].dtype == np.uint8
    assert actual[0]["label"].shape == (devices, dispatch, BATCH // devices)
    np.testing.assert_array_equal(flat(actual), WHOLE)


@pytest.mark.parametrize(("threads", "part"), [(1, 8), (1, 3), (3, 8), (16, 8)])
def test_threads_and_sizes_of_parts_do_not_change_batches(monkeypatch, threads, part):
    monkeypatch.setattr(stream, "cores", lambda: threads)
    monkeypatch.setattr(stream, "_LARGEST_PART", part)
    np.testing.assert_array_equal(flat(train(Noise(), devices=2, dispatch=3)), WHOLE)
    actual = list(stream.eval_batches(Pictures(), reading(), BATCH, 1))
    assert [batch["mask"].sum() for batch in actual] == [8, 8, 4]
    levels = np.concatenate([batch["image"][0, :, 0, 0, 0] // 10 for batch in actual])
    np.testing.assert_array_equal(levels[:20], range(20))


def test_each_process_reads_its_part():
    parts = [flat(train(Noise(), process=(number, 4))) for number in range(4)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), WHOLE)


def test_crops_differ_between_seeds_and_passes():
    class Same(Noise):
        def read(self, i):
            return super().read(0)

    images = flat(train(Same(), last=12)).reshape(96, -1)
    assert len(np.unique(images, axis=0)) > 60


def test_workers_give_the_same_batches_and_end_with_the_iterator():
    iterator = training(Noise(), first=1, devices=2, workers=2)
    actual = [next(iterator) for _ in range(5)]
    np.testing.assert_array_equal(flat(actual), WHOLE[1:])
    children = multiprocessing.active_children()
    assert len(children) >= 2
    for child in children:  # as from Ctrl-C: workers must live until the run has saved
        os.kill(child.pid, signal.SIGINT)
        os.kill(child.pid, signal.SIGTERM)
    more = flat([next(iterator) for _ in range(6)])  # more than were ready
    np.testing.assert_array_equal(more, flat(train(Noise(), first=6, last=12)))
    iterator.close()
    assert not [child for child in children if child.is_alive()]


linux = pytest.mark.skipif(not os.path.isdir("/proc"), reason="reads /proc")


def _children(parent):
    actual = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{entry}/stat") as file:
                fields = file.read().rsplit(")", 1)[1].split()
            with open(f"/proc/{entry}/cmdline") as file:
                spawned = "spawn_main" in file.read()
        except OSError:
            continue
        if int(fields[1]) == parent and spawned:
            actual.append(int(entry))
    return actual


def _alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


@linux
def test_a_killed_worker_is_reported_in_one_line():
    iterator = training(Noise(), workers=1)
    next(iterator)
    for child in _children(os.getpid()):
        os.kill(child, signal.SIGKILL)
    with pytest.raises(UserError, match="out of memory"):
        for _ in range(10):
            next(iterator)


PARENT = """
import sys, time
sys.path[:0] = sys.argv[1:]
from test_stream import Noise, training
if __name__ == "__main__":
    batches = training(Noise(), workers=2)
    next(batches)
    print("ready", flush=True)
    time.sleep(1)
    for batch in batches:
        pass
"""


@linux
@pytest.mark.parametrize("victim", ["parent", "worker"])
@pytest.mark.slow
def test_a_killed_process_leaves_no_processes_and_no_shared_memory(tmp_path, victim):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    here = os.path.dirname(__file__)
    root = os.path.dirname(os.path.dirname(here))
    command = [sys.executable, str(script), root, here]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as parent:
        assert parent.stdout.readline() == "ready\n"
        children = _children(parent.pid)
        assert len(children) >= 2
        shared = set().union(*map(_shared_memory, [parent.pid, *children]))
        assert shared
        os.kill(parent.pid if victim == "parent" else _workers(children)[0], signal.SIGKILL)
        message = parent.communicate(timeout=60)[1]
        assert parent.returncode == (-signal.SIGKILL if victim == "parent" else 1)
        assert victim == "parent" or "a process that decodes images ended" in message
    deadline = time.monotonic() + 30
    while any(map(_alive, children)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not any(map(_alive, children))
    while shared & set(os.listdir("/dev/shm")) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not shared & set(os.listdir("/dev/shm"))


@linux
@pytest.mark.slow
def test_a_killed_worker_ends_the_command_with_the_status_to_try_again(tmp_path):
    """Runs main.py, which exits without Python's exit handlers."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 20, 20, 3)).astype(np.uint8)
    for number, image in enumerate(pixels):
        part, name = ("train", "val")[number >= 8], "ab"[number % 2]
        folder = tmp_path / "pictures" / part / name
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number}.png")
    root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    workdir, pipe = tmp_path / "run", subprocess.PIPE
    flags = {
        "config": "configs/mlp.py:10",
        "config.dataset.name": "folder",
        "config.dataset.data_dir": tmp_path / "pictures",
        "config.dataset.workers": 1,
        "config.view.size": 16,
        "config.view.train_scale": "(16,18)",
        "config.view.test_scale": 16,
        "config.batch_size": 4,
        "config.epochs": 10**6,
        "config.evaluate.every_epochs": 10**6,
        "config.log_every_steps": 1,
        "workdir": workdir,
    }
    command = [sys.executable, "main.py", *(f"--{name}={value}" for name, value in flags.items())]
    environment = {**os.environ, "XLA_FLAGS": ""}
    with subprocess.Popen(
        command, cwd=root, env=environment, stdout=pipe, stderr=pipe, text=True
    ) as run:
        log, deadline = workdir / "metrics.jsonl", time.monotonic() + 200
        while not (log.exists() and log.read_text().count("\n") > 2) and run.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        children = _children(run.pid)
        shared = set().union(*map(_shared_memory, [run.pid, *children]))
        for worker in _workers(children):
            os.kill(worker, signal.SIGKILL)
        message = run.communicate(timeout=60)[1]
    assert run.returncode == 75, message
    assert "Traceback" not in message
    assert message.splitlines()[-1].startswith(
        "main.py: a process that decodes images ended (out of"
    )
    assert shared
    deadline = time.monotonic() + 30
    while shared & set(os.listdir("/dev/shm")) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not shared & set(os.listdir("/dev/shm"))


KILLED_EARLY = """
import os, signal, sys
from multiprocessing import resource_tracker, shared_memory
sys.path.insert(0, sys.argv[1])
from train_lib.distributed import workers
resource_tracker.ensure_running()
if not os.fork():
    def killed(block, size):  # the block has a name, no size yet
        path = os.readlink(f"/proc/self/fd/{block}")
        print(path, os.path.exists(path), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    workers.begin_worker(os.getppid())
    os.ftruncate = killed
    shared_memory.SharedMemory(create=True, size=10)
os.wait()
"""


@linux
def test_shared_memory_of_a_worker_killed_while_it_made_it_is_freed():
    root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    # Ends when the process that cleans up does, which has the same standard error.
    command = [sys.executable, "-c", KILLED_EARLY, root]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    path, was_there = done.stdout.split()
    assert was_there == "True", done.stderr
    assert not os.path.exists(path)


def _shared_memory(pid):
    """Names of the shared memory that a process has mapped."""
    with open(f"/proc/{pid}/maps") as file:
        actual = [line.split("/dev/shm/")[1].split()[0] for line in file if "/dev/shm/" in line]
    return {name for name in actual if os.path.exists(f"/dev/shm/{name}")}


def _workers(pids):
    """The worker processes among `pids`: without Python's resource tracker."""
    actual = []
    for pid in pids:
        with open(f"/proc/{pid}/cmdline") as file:
            if "resource_tracker" not in file.read():
                actual.append(pid)
    return actual


# ------------------------------------------------------------------------------- bad examples


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_reported_by_name(workers):
    with pytest.raises(UserError, match=r"cannot read 7\.png \(class dog\) .*on_bad_image=skip"):
        train(Pictures(bad=(7,)), workers=workers)
    with pytest.raises(UserError, match=r"cannot read 7\.png"):
        list(stream.eval_batches(Pictures(bad=(7,)), reading(workers=workers), BATCH, 2))


def test_skipped_images_are_counted_and_named_once(capsys):
    reading_lib._print_once.cache_clear()
    iterator = training(Pictures(bad=(7,)), last=5, on_bad_image="skip")
    actual = list(iterator)
    levels = flat(actual)[:, :, 0, 0, 0] // 10
    good = flat(train(Pictures(), last=5))[:, :, 0, 0, 0] // 10
    np.testing.assert_array_equal(levels, np.where(good == 7, 8, good))
    assert iterator.skipped == 2  # two passes
    message = capsys.readouterr().err
    assert message.count("skipped 7.png") == 1


def test_a_split_without_readable_images_is_an_error():
    with pytest.raises(UserError, match="100 images in a row"):
        train(Pictures(bad=range(20)), on_bad_image="skip")


def test_labels_out_of_range_are_refused():
    with pytest.raises(UserError, match="its label is 3"):
        train(Pictures(labels=[0, 1, 3, *[0] * 17]))


# --------------------------------------------------------------------------------- evaluation


@pytest.mark.parametrize(("devices", "batch", "workers"), [(1, 6, 0), (2, 8, 0), (4, 20, 1)])
def test_evaluation_sees_every_example_once_in_order(devices, batch, workers):
    actual = list(stream.eval_batches(Pictures(), reading(workers=workers), batch, devices))
    for one in actual:
        assert one["image"].shape == (devices, batch // devices, 16, 16, 3)
    mask = np.concatenate([one["mask"].reshape(-1) for one in actual])
    levels = np.concatenate([one["image"].reshape(-1, 16, 16, 3) for one in actual])[:, 0, 0, 0]
    labels = np.concatenate([one["label"].reshape(-1) for one in actual])
    assert (levels[mask > 0] // 10).tolist() == list(range(20))
    assert labels[mask > 0].tolist() == [i % 3 for i in range(20)]


def test_evaluation_masks_skipped_images():
    actual = list(stream.eval_batches(Pictures(bad=(7,)), reading(on_bad_image="skip"), 8, 1))
    mask = np.concatenate([one["mask"].reshape(-1) for one in actual])
    assert mask.sum() == 19
    assert mask[7] == 0
