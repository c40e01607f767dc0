"""Whether a long run keeps its size: memory, open files and threads over many steps.

    python -m tests.stress.hygiene [--steps=50000]

Trains a small network, one step in each call, with a log every 100 steps and twenty evaluations and
saves, and measures this process between steps. The minimum of memory, open files, threads and
arrays on the devices over the last quarter of the run must not exceed the minimum over the second
quarter. A minimum, because a save that is under way holds memory and files for a moment. Allowed
are 5 % and 10 MB of memory, and two threads, because pools start threads when they need them. If
each save left a thread, there would be ten.
"""

import argparse
import pathlib
import sys
import tempfile
import time

import jax
import numpy as np
import psutil

from configs.mlp import get_config
from input_pipeline import sources
from train_lib import train
from train_lib.distributed import parallel
from train_lib.train import train_and_evaluate

LOOKS = 1000


def config(steps: int):
    found = get_config("30")
    found.update_from_flattened_dict(
        {
            "dataset.name": "digits",
            "batch_size": 32,
            "epochs": steps * 32 / 1442,
            "num_devices": 1,
            "log_every_steps": 100,
            "steps_per_dispatch": 1,
            "evaluate.every_epochs": steps * 32 / 1442 / 20,
            "checkpoint.every_epochs": steps * 32 / 1442 / 20,
        }
    )
    return found


def main() -> int:
    """The number of quantities that grew."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=50_000)
    arguments = parser.parse_args()
    process, looks, count = psutil.Process(), [], 0
    every = max(1, arguments.steps // LOOKS)
    scatter = parallel.scatter

    def watched(inputs, devices):
        nonlocal count
        count += 1
        if count % every == 0:
            looks.append(
                (
                    process.memory_info().rss / 1e6,
                    process.num_fds(),
                    process.num_threads(),
                    len(jax.live_arrays()),
                )
            )
        return scatter(inputs, devices)

    parallel.scatter = watched
    train.finish = lambda *_: None
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        run_config = config(arguments.steps)
        state = train_and_evaluate(run_config, pathlib.Path(folder) / "run")
        examples = len(sources.load(run_config.dataset, "train"))
    table = np.array(looks)
    quarters = np.array_split(table, 4)
    early, late = quarters[1].min(axis=0), quarters[3].min(axis=0)
    grown = 0
    for i, name in enumerate(("MB of memory", "open files", "threads", "arrays on devices")):
        allowed = (early[i] * 1.05 + 10, early[i], early[i] + 2, early[i])[i]
        is_more = bool(late[i] > allowed)
        grown += is_more
        print(f"{name:>18}  {early[i]:8.1f} -> {late[i]:8.1f}{'  GROWN' if is_more else ''}")
    print(
        f"{int(state.step):,} steps of {examples:,} examples in"
        f" {time.monotonic() - started:.0f} s, {len(table)} looks, {grown} grown"
    )
    return int(grown)


if __name__ == "__main__":
    sys.exit(bool(main()))
