"""What a process has imported by its first training step, and by the first step of a test."""

import os
import pathlib
import subprocess
import sys

import pytest
from conftest import TINY, tiny_config

from train_lib.train import train_and_evaluate

ROOT = pathlib.Path(__file__).parents[1]

# Runs main.py to the end of the first call of a compiled step; prints the modules of that moment.
FIRST_STEP = """
import os, runpy, sys
sys.path.insert(0, os.getcwd())
sys.argv[0] = "main.py"
import jax
from train_lib.distributed import parallel

def ending(make):
    def made(*arguments):
        step = make(*arguments)
        def first(state, batch):
            jax.block_until_ready(step(state, batch))
            print(*sys.modules, flush=True)
            os._exit(0)
        return first
    return made

for name in ("train_step", "eval_step", "predict_step"):
    setattr(parallel, name, ending(getattr(parallel, name)))
runpy.run_path("main.py", run_name="__main__")
"""
# Drawing, and the libraries that only reading other files or writing records needs.
LATER = {"matplotlib", "sklearn", "scipy", "tensorboardX", "tensorflow_datasets", "grain", "torch"}


def modules_at_the_first_step(workdir: pathlib.Path, mode: str) -> set[str]:
    overrides = [f"--config.{name}={value}" for name, value in TINY.items()]
    flags = [f"--mode={mode}", "--config=configs/lenet5.py", f"--workdir={workdir}", *overrides]
    done = subprocess.run(
        [sys.executable, "-c", FIRST_STEP, *flags],
        cwd=ROOT,
        env=os.environ,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_training_imports_no_more_than_its_first_step_needs(tmp_path):
    found = modules_at_the_first_step(tmp_path / "run", "train")
    assert {"jax", "orbax"} <= found and not LATER & found


@pytest.mark.slow
def test_evaluation_imports_no_matplotlib_before_it_draws(tmp_path):
    train_and_evaluate(tiny_config(), tmp_path / "run")
    found = modules_at_the_first_step(tmp_path / "run", "evaluate")
    assert "jax" in found and not LATER & found
