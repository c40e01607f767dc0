"""Does Python show? Images per second of the training loop against the bare compiled step.

    python -m benchmarks.loop [--data_dir=DATA] [--seconds=20] [--rounds=5]

Bare: the same compiled dispatch called in a plain Python loop on one fixed batch. Loop: the whole
`Run.train` as `train_and_evaluate` runs it (making batches, logging, metrics.jsonl, TensorBoard,
progress), without evaluation and saves. The two take turns in one process, since machines drift;
the ratio of each round is printed, and the median. Uses LeNet-5's mnist recipe if --data_dir is
given, else the digits.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import jax

from configs.lenet5 import get_config
from input_pipeline import sources
from input_pipeline.batches import Order, train_batches
from train_lib import experiment, optimizers, plans, rates
from train_lib import state as state_lib
from train_lib.checkpoints import Checkpoints
from train_lib.distributed import parallel
from train_lib.distributed.signals import StopRequest
from train_lib.steps import make_train_step, several
from train_lib.train import Run


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", default="")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement, about")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()

    config = get_config("mnist" if arguments.data_dir else "digits")
    config.dataset.data_dir = arguments.data_dir
    config.epochs = 10_000.0
    exp = experiment.build(config)
    count, k, batch_size = len(exp.devices), config.steps_per_dispatch, config.batch_size
    split = sources.load(config.dataset, "train")
    rate = rates.make_rate(config.schedule, len(split) / batch_size, 10**6)
    optimizer = optimizers.make_optimizer(config.optimizer, rate)
    step = make_train_step(
        exp.module, exp.loss, optimizer, exp.transform, config.seed, config.log_every_steps
    )
    compiled = parallel.train_step(several(step), exp.devices)
    batch = train_batches(split, Order(config.seed, batch_size, count), 0, k)

    def fresh_state():
        state = state_lib.create(exp.module, optimizer, config.seed, exp.input_shape)
        return parallel.replicate(state, exp.devices)

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
        plan = plans.Plan(len(split) / batch_size, steps, frozenset({steps}), frozenset({steps}), k)
        with tempfile.TemporaryDirectory() as folder:
            workdir = Path(folder)
            checkpoints = Checkpoints(workdir)
            run = Run(exp, plan, workdir, checkpoints, rate, split, split)
            times = []

            def between_steps(state, *_):  # the last step is complete: no test, no save
                times.append(time.perf_counter())
                return state, False

            run._between_steps = between_steps
            state = jax.block_until_ready(fresh_state())
            with StopRequest() as stop:
                start = time.perf_counter()
                run.train(state, 0, compiled, stop)
            run.close()
        return steps * batch_size / (times[-1] - start)

    per_second = bare(5)
    dispatches = max(5, int(arguments.seconds * per_second / (k * batch_size)))
    loop(2)
    ratios = []
    for _ in range(arguments.rounds):
        b, m = bare(dispatches), loop(dispatches)
        ratios.append(m / b)
        print(f"bare {b:,.0f}  loop {m:,.0f} images/s  ratio {m / b:.3f}", flush=True)
    print(f"median ratio {statistics.median(ratios):.3f} over {arguments.rounds} rounds")
    print(
        f"{exp.info.name}, batch {batch_size}, {k} steps a dispatch, {count} x {jax.devices()[0]}"
    )


if __name__ == "__main__":
    main()
