"""config.deterministic: the options that XLA receives, and equal results of two processes."""

import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from conftest import tiny_config

from errors import UserError
from train_lib import experiment
from train_lib.distributed import parallel
from train_lib.evaluation.trained import load_run
from train_lib.train import train_and_evaluate

ROOT = pathlib.Path(__file__).parents[3]
FLAG = "--xla_gpu_deterministic_ops=true"


@pytest.fixture(autouse=True)
def late():
    """JAX has started in this process, so its flags, which other tests read, do not change."""
    jax.devices()
    before = os.environ["XLA_FLAGS"]
    assert FLAG not in before
    yield
    assert os.environ["XLA_FLAGS"] == before


def run_in_a_process(folder, deterministic):
    """(parameters, {program: the options with which XLA compiled it}) of a short training."""
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    environment["XLA_FLAGS"] = f"--xla_dump_to={folder / 'dump'} --xla_dump_hlo_as_text"
    overrides = {
        "dataset.name": "digits",
        "model.regulariser": "dropout",
        "epochs": 0.3,
        "augment.translate": 1.0,
        "deterministic": deterministic,
    }
    subprocess.run(
        [
            *(sys.executable, "main.py", "--config=configs/mlp.py:10", f"--workdir={folder}/run"),
            *(f"--config.{name}={value}" for name, value in overrides.items()),
        ],
        cwd=ROOT,
        env=environment,
        check=True,
        capture_output=True,
        timeout=300,
    )
    options = {path.stem: path.read_text() for path in folder.glob("dump/*.debug_options")}
    return load_run(folder / "run").params, options


@pytest.mark.slow
def test_every_program_of_a_run_is_compiled_as_the_switch_says_and_runs_repeat(tmp_path):
    """XLA writes its options down. It reads its flags once, when JAX first looks for devices."""
    found = {}
    for name, deterministic in (("one", True), ("again", True), ("without", False)):
        found[name], options = run_in_a_process(tmp_path / name, deterministic)
        assert any("train_steps" in program for program in options)  # the train step is among them
        for program, text in options.items():
            assert ("xla_gpu_deterministic_ops: true" in text) == deterministic, program
    jax.tree.map(np.testing.assert_array_equal, found["one"], found["again"])


def test_xlas_other_flags_stay(monkeypatch):
    from jax._src import xla_bridge

    monkeypatch.setattr(xla_bridge, "backends_are_initialized", lambda: False)
    for before in ("", "--xla_dump_to=a"):
        monkeypatch.setenv("XLA_FLAGS", before)
        for _ in range(2):  # the second time it is there already
            parallel.use_deterministic_kernels()
            assert os.environ["XLA_FLAGS"].split() == [*before.split(), FLAG]


def test_where_it_comes_too_late_a_gpu_refuses_and_a_cpu_needs_nothing(monkeypatch, tmp_path):
    flags = os.environ["XLA_FLAGS"]
    parallel.use_deterministic_kernels()
    assert os.environ["XLA_FLAGS"] == flags
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    config = tiny_config(deterministic=True)
    with pytest.raises(UserError, match=f"before JAX starts: set XLA_FLAGS={FLAG}"):
        train_and_evaluate(config, tmp_path / "run")
    experiment.resolve(config, read_only=True)  # its net may be evaluated all the same
    monkeypatch.setenv("XLA_FLAGS", f"{flags} {FLAG}")
    parallel.use_deterministic_kernels()
