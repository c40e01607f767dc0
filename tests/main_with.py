"""Runs main.py, and does something to the process at a chosen moment.

    python main_with.py MOMENT STEP FLAGS...

With these moments, the process sends SIGTERM to itself:
    compiling   when XLA compiles the first step
    stepping    when STEP has been dispatched
    saving      when the save of STEP has begun, and is not finished
    testing     when XLA compiles the evaluation
With "missing", the data set is missing on this machine.
"""

import itertools
import os
import pathlib
import signal
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from absl import app
from jax._src import compiler

import main
from errors import UserError
from input_pipeline import sources
from train_lib import checkpoints, recorder
from train_lib.distributed import parallel


def now():
    os.kill(os.getpid(), signal.SIGTERM)


def in_compilation(armed: list):
    """Once something is in `armed`, the next compilation."""
    original = compiler.backend_compile_and_load

    def compile_and_load(*arguments, **named):
        if armed and armed.pop():
            now()
        return original(*arguments, **named)

    compiler.backend_compile_and_load = compile_and_load


def arrange(moment: str, step: int) -> None:
    armed = []
    make, save, evaluate = parallel.train_step, checkpoints.Checkpoints.save, recorder.evaluate
    if moment in ("compiling", "stepping"):

        def train_step(*arguments):
            original, numbers = make(*arguments), itertools.count(1)

            def run(state, batch):
                number = next(numbers)
                if moment == "compiling" and number == 1:
                    armed.append(True)
                found = original(state, batch)
                if moment == "stepping" and number == step:
                    now()
                return found

            return run

        parallel.train_step = train_step
    elif moment == "saving":

        def save_and(self, at, *rest):
            save(self, at, *rest)
            if at == step:
                now()

        checkpoints.Checkpoints.save = save_and
    elif moment == "testing":

        def evaluate_armed(*arguments):
            armed.append(True)
            return evaluate(*arguments)

        recorder.evaluate = evaluate_armed
    elif moment == "missing":

        def check(dataset):
            raise UserError(f"{dataset.name} is not here")

        sources.check = check
    in_compilation(armed)


if __name__ == "__main__":
    _, moment, step, *given = sys.argv
    sys.argv = ["main.py", *given]
    arrange(moment, int(step))
    app.run(main.main, flags_parser=main.parse)
