"""How much does the training loop cost? Its images per second, against the bare compiled step.

    python -m benchmarks.loop [--data_dir=DATA] [--seconds=20] [--rounds=5]

Bare: the same compiled dispatch called in a plain Python loop on one fixed batch. Loop: the whole
`train.loop` as `train_and_evaluate` runs it (making batches, logging, metrics.jsonl, TensorBoard,
progress), without evaluation and saves. The two take turns in one process, since machines drift;
the ratio of each round is printed, and the median. Uses LeNet-5's mnist recipe if --data_dir is
given, else the digits.
"""

import argparse
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import jax

from configs.lenet5 import get_config
from input_pipeline.batches import Order, train_batches, train_indices
from train_lib import experiment, train
from train_lib.checkpoints import Checkpoints
from train_lib.distributed import parallel
from train_lib.distributed.signals import StopRequest
from train_lib.plan import Plan
from train_lib.recorder import Recorder


def compare(exp: experiment.Experiment, seconds: float, rounds: int) -> Iterator[tuple]:
    """Yields (images/s of the bare step, images/s of the loop) for each round.

    seconds: about how long each measurement takes.
    """
    count, k, batch_size = len(exp.devices), exp.config.steps_per_dispatch, exp.config.batch_size
    split = exp.train_split
    compiled = train.compile_step(exp)
    make = train_indices if exp.resident_data else train_batches
    batch = make(split, Order(exp.config.seed, batch_size, count), 0, k)

    def fresh_state():
        return parallel.replicate(exp.new_state(), exp.devices)

    def bare(dispatches):
        state, _ = compiled(fresh_state(), batch)
        jax.block_until_ready(state)
        start = time.perf_counter()
        for _ in range(dispatches):
            state, windows = compiled(state, batch)
        jax.block_until_ready((state, windows))
        return dispatches * k * batch_size / (time.perf_counter() - start)

    def loop(dispatches):
        steps = dispatches * k
        ends = frozenset({steps})
        plan = Plan(len(split) / batch_size, 1.0, steps, ends, ends, k)
        with tempfile.TemporaryDirectory() as folder:
            workdir = Path(folder)
            checkpoints = Checkpoints(workdir)
            short = dataclasses.replace(exp, workdir=workdir)
            vars(short).update(plan=plan, train_split=split, test_split=split)
            vars(short).update(resident_data=exp.resident_data)  # not copied again
            state = jax.block_until_ready(fresh_state())
            with StopRequest() as stop, Recorder(short, checkpoints, stop, 0) as recorder:
                recorder._record = recorder._save = lambda *_: None  # no evaluation, no save
                start = time.perf_counter()
                train.loop(short, compiled, state, recorder, train.Session(stop))
                seconds = time.perf_counter() - start
        return steps * batch_size / seconds

    per_second = bare(5)
    dispatches = max(5, int(seconds * per_second / (k * batch_size)))
    loop(2)
    for _ in range(rounds):
        yield bare(dispatches), loop(dispatches)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", default="")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement, about")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()

    config = get_config("mnist" if arguments.data_dir else "digits")
    config.dataset.data_dir = arguments.data_dir
    config.epochs = 10_000.0
    exp = experiment.resolve(config)
    ratios = []
    for b, m in compare(exp, arguments.seconds, arguments.rounds):
        ratios.append(m / b)
        print(f"bare {b:,.0f}  loop {m:,.0f} images/s  ratio {m / b:.3f}", flush=True)
    print(f"median ratio {statistics.median(ratios):.3f} over {arguments.rounds} rounds")
    print(
        f"{exp.info.name}, batch {config.batch_size}, {config.steps_per_dispatch} steps a dispatch,"
        f" {len(exp.devices)} x {jax.devices()[0]}"
    )


if __name__ == "__main__":
    main()
