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
def flags_do_not_change():
    """Checks that XLA's flags do not change, because JAX has started in this process."""
    jax.devices()
    before = os.environ["XLA_FLAGS"]
    assert FLAG not in before
    yield
    assert os.environ["XLA_FLAGS"] == before


def run_in_process(folder, deterministic):
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
def test_the_option_reaches_every_compiled_program_and_runs_repeat(tmp_path):
    """XLA dumps its options. It reads its flags once, when JAX first looks for devices."""
    actual = {}
    for name, deterministic in (("one", True), ("again", True), ("without", False)):
        actual[name], options = run_in_process(tmp_path / name, deterministic)
        assert any("train_steps" in program for program in options)  # the train step is among them
        for program, text in options.items():
            assert ("xla_gpu_deterministic_ops: true" in text) == deterministic, program
    jax.tree.map(np.testing.assert_array_equal, actual["one"], actual["again"])


def test_other_xla_flags_are_kept(monkeypatch):
    from jax._src import xla_bridge

    monkeypatch.setattr(xla_bridge, "backends_are_initialized", lambda: False)
    for before in ("", "--xla_dump_to=a"):
        monkeypatch.setenv("XLA_FLAGS", before)
        for _ in range(2):  # the second call changes nothing
            parallel.use_deterministic_kernels()
            assert os.environ["XLA_FLAGS"].split() == [*before.split(), FLAG]


def test_setting_the_option_too_late_is_refused_on_gpus_only(monkeypatch, tmp_path):
    flags = os.environ["XLA_FLAGS"]
    parallel.use_deterministic_kernels()
    assert os.environ["XLA_FLAGS"] == flags
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    config = tiny_config(deterministic=True)
    with pytest.raises(UserError, match=f"before JAX starts: set XLA_FLAGS={FLAG}"):
        train_and_evaluate(config, tmp_path / "run")
    experiment.resolve(config, read_only=True)  # its network may still be evaluated
    monkeypatch.setenv("XLA_FLAGS", f"{flags} {FLAG}")
    parallel.use_deterministic_kernels()
