"""A small run with everything that has a memory, the state and records it ends with, and victims.

    python -m tests.stress.runs WORKDIR [ARMED_FILE STEP]

trains it; with a file, that file is there from the beginning of the save of STEP to its end.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from unittest import mock

import jax
import numpy as np
from absl import logging

from configs.mlp import get_config
from errors import UserError
from train_lib import checkpoints, recorder, train
from train_lib.distributed import parallel, shell
from train_lib.train import Stopped, train_and_evaluate

ROOT = pathlib.Path(__file__).parents[2]
STEPS = 18
CLOCKED = ("train/images_per_second", "train/data_wait")


def config():
    """Dropout, distortions, plateau, warm-up, averages; tests at 3, 6, ..., saves at 5, 10, ..."""
    found = get_config("30")
    found.update_from_flattened_dict(
        {
            "dataset.name": "digits",
            "batch_size": 100,
            "epochs": 1.2,
            "num_devices": 1,
            "log_every_steps": 2,
            "steps_per_dispatch": 2,
            "model.regulariser": "dropout",
            "augment.translate": 1.0,
            "augment.shear": 0.1,
            "evaluate.every_epochs": 0.2,
            "checkpoint.every_steps": 5,
            "optimizer.averaging": 0.8,
            "schedule.name": "plateau",
            "schedule.learning_rate": 0.2,
            "schedule.warmup_rate": 0.01,
            "schedule.warmup_error": 0.99,
            "schedule.plateau.patience": 1,
            "schedule.plateau.min_improvement": 0.9,
        }
    )
    return found


@dataclasses.dataclass(frozen=True)
class End:
    """state: {path: array}. records: those of metrics.jsonl without what a clock gave.

    best: the step of the best checkpoint. wrong: what was wrong with its beginning.
    """

    state: dict
    records: list
    best: int | None = None
    wrong: tuple[str, ...] = ()

    def differences(self, other: "End") -> list[str]:
        """What is not the same to the bit, and what was wrong before."""
        names = self.state.keys() ^ other.state.keys()
        found = [*self.wrong, *(f"{name} is in one only" for name in sorted(names))]
        for name in self.state.keys() & other.state.keys():
            one, two = self.state[name], other.state[name]
            if one.dtype != two.dtype or one.shape != two.shape or one.tobytes() != two.tobytes():
                found.append(f"{name} differs")
        if self.records != other.records:
            found.append("metrics.jsonl differs")
        if self.best != other.best:
            found.append(f"the best checkpoint is {self.best}, not {other.best}")
        return found


def records(workdir: pathlib.Path) -> list[dict]:
    """Those of metrics.jsonl without the values that a clock gave."""
    return [
        {name: value for name, value in record.items() if name not in CLOCKED}
        for record in recorder.read(workdir)
    ]


def step_of(line: str) -> int:
    """Of a line of metrics.jsonl."""
    return json.loads(line)["step"]


def newest(workdir: pathlib.Path) -> int:
    """The newest step that is saved whole: Orbax names a folder so at the end. 0 if there is none.

    That which is about to be saved again counts, too.
    """
    folders = (workdir / checkpoints.DIRECTORY, workdir / checkpoints.REPLACED)
    names = [entry.name for folder in folders for entry in folder.glob("*")]
    return max((int(name) for name in names if name.isdecimal()), default=0)


@contextlib.contextmanager
def beginnings():
    """A list of the steps at which runs begin meanwhile."""
    found, create = [], recorder.Writer.__init__

    def noted(self, workdir, step, *rest):
        found.append(step)
        create(self, workdir, step, *rest)

    recorder.Writer.__init__ = noted
    try:
        yield found
    finally:
        recorder.Writer.__init__ = create


def finish(workdir: pathlib.Path, around=contextlib.nullcontext) -> End:
    """Trains, or goes on, in this process, to the end; `around()` is entered for that time.

    A run that begins anew ends like one that goes on: so it is looked at where it begins.
    """
    expected, wrong = newest(workdir), []
    no_plots = mock.patch.object(train, "finish", lambda *_: None)  # they take seconds
    with no_plots, beginnings() as began, around():
        state = jax.device_get(train_and_evaluate(config(), workdir))
    if began != [expected]:
        wrong.append(f"it began at {began} and not at {expected}")
    if (workdir / checkpoints.DAMAGED).exists():
        wrong.append("a checkpoint was taken for damaged")
    if (workdir / checkpoints.REPLACED).exists():
        wrong.append("a checkpoint that was replaced is still there")
    leaves = {jax.tree_util.keystr(p): np.asarray(v) for p, v in jax.tree.leaves_with_path(state)}
    jax.clear_caches()  # hundreds of runs' compiled steps take all memory maps there are
    best = checkpoints.Checkpoints(workdir, read_only=True).best_step()
    return End(leaves, records(workdir), best, tuple(wrong))


def environment(**extra: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", **extra}


def start(workdir: pathlib.Path, *arguments, **extra: str) -> subprocess.Popen:
    """The run as a process of its own. extra: environment variables."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.stress.runs", str(workdir), *map(str, arguments)],
        env=environment(**extra),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def build_interposer(folder: pathlib.Path) -> pathlib.Path:
    """Compiles interpose.c. Raises CalledProcessError without a C compiler."""
    library = folder / "interpose.so"
    source = pathlib.Path(__file__).with_name("interpose.c")
    command = ["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"]
    subprocess.run(list(map(str, command)), check=True)
    return library


def use_compilation_cache() -> None:
    """Of this process and those that it starts: they all compile the same steps."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="canon-stress-")
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def arm(file: pathlib.Path, step: int) -> None:
    """Makes the file for the time of the save of `step`."""
    save = checkpoints.Checkpoints.save

    def armed(self, at, *rest):
        if at != step:
            return save(self, at, *rest)
        self.wait()  # an earlier one is none of this one's
        file.write_text("")
        try:
            save(self, at, *rest)
            self.wait()
        finally:
            file.unlink()

    checkpoints.Checkpoints.save = armed


def main(workdir: str, file: str = "", step: str = "0") -> None:
    if file:
        arm(pathlib.Path(file), int(step))
    if "SLOWED" in os.environ:  # most of the time is the loop's, not the start's
        plain = parallel.scatter
        slowed = float(os.environ["SLOWED"])  # seconds a batch
        parallel.scatter = lambda *rest: time.sleep(slowed) or plain(*rest)
    logging.set_verbosity(logging.FATAL)  # as the command line does
    shell.silence_writes_of_failed_saves()
    try:
        end = finish(pathlib.Path(workdir))
    except (UserError, Stopped) as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    print(json.dumps(len(end.records)))


if __name__ == "__main__":
    main(*sys.argv[1:])
