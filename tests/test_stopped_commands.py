"""SIGTERM at chosen moments to the real command, with one process and with two."""

import os
import pathlib
import subprocess
import sys

import pytest

from tests.stress.together import free_port

TESTS = pathlib.Path(__file__).parent
FLAGS = (
    "--config=configs/mlp.py:10",
    "--config.dataset.name=digits",
    "--config.batch_size=100",
    "--config.epochs=3",
    "--config.evaluate.every_epochs=1",
    "--config.checkpoint.every_steps=5",
)


def start(workdir, moment=None, step=0, *flags):
    program = [TESTS / "main_with.py", moment, step] if moment else [TESTS.parent / "main.py"]
    # In a compilation: one, and not a look into the tests' cache.
    cache = str(moment not in ("compiling", "testing")).lower()
    environment = {**os.environ, "XLA_FLAGS": "", "JAX_ENABLE_COMPILATION_CACHE": cache}
    command = [sys.executable, *program, *FLAGS, f"--workdir={workdir}", *flags]
    return subprocess.Popen(
        list(map(str, command)),
        cwd=TESTS.parent,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process):
    """(exit status, last line on standard error)."""
    try:
        _, said = process.communicate(timeout=300)
    finally:
        process.kill()
    assert "Traceback" not in said, said
    return process.returncode, said.splitlines()[-1]


def saved(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


@pytest.mark.parametrize(
    ("moment", "step", "stops_at", "steps_saved"),
    [
        ("stepping", 7, 7, [5, 7]),
        # The next call is made before the loop looks.
        pytest.param("saving", 5, 6, [5, 6], marks=pytest.mark.slow),
        # The evaluation is interrupted.
        pytest.param("testing", 15, 15, [5, 10, 15], marks=pytest.mark.slow),
    ],
)
def test_it_saves_and_asks_to_be_started_again(tmp_path, moment, step, stops_at, steps_saved):
    assert end(start(tmp_path, moment, step)) == (
        75,
        f"main.py: stopped by SIGTERM at step {stops_at}, saved in {tmp_path}: the same command"
        " resumes it",
    )
    assert saved(tmp_path) == steps_saved


def test_in_the_first_compilation_there_is_nothing_to_wait_for(tmp_path):
    expected = (75, "main.py: stopped before the first step, by SIGTERM")
    assert end(start(tmp_path, "compiling")) == expected
    assert saved(tmp_path) == []


def together(workdir, moment, step):
    """The ends of two processes. `main_with.py` does something to the second."""
    place = [f"--coordinator=127.0.0.1:{free_port()}", "--num_processes=2"]
    first = start(workdir, None, 0, *place, "--process_id=0")
    second = start(workdir, moment, step, *place, "--process_id=1")
    return end(first), end(second)


@pytest.mark.slow
def test_of_two_processes_the_one_that_is_asked_stops_both(tmp_path):
    first, second = together(tmp_path, "stepping", 12)
    *_, stopped_at = saved(tmp_path)
    assert 12 <= stopped_at <= 20
    rest = f"at step {stopped_at}, saved in {tmp_path}: the same command resumes it"
    assert first == (75, f"main.py: stopped by SIGTERM in process 1 {rest}")
    assert second == (75, f"main.py: stopped by SIGTERM {rest}")


@pytest.mark.slow
def test_what_one_machine_lacks_is_no_reason_to_start_again(tmp_path):
    """The other process ends too, instead of waiting for the first."""
    first, second = together(tmp_path, "missing", 0)
    assert first == (2, "main.py: process 1: digits is not here")
    assert second == (2, "main.py: digits is not here")
