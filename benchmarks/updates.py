"""Where the time goes in an update of one image: LeNet-5 trained as in 1998.

    taskset -c 0 python -m benchmarks.updates [--rounds=9]

Three programs make 1,000 updates in one call each, and take turns: the forward pass and the loss
alone; with the gradient, added to the weights; and the training step of
configs/lenet5.py:mnist_1998, whose update is stochastic diagonal Levenberg-Marquardt. The images
are the digits of scikit-learn, which get the size of MNIST's.
"""

import argparse
import re
import statistics
import time

import jax

from configs.lenet5 import get_config
from input_pipeline.batches import Order, train_batches
from models import summary
from train_lib.distributed import parallel
from train_lib.experiment import Experiment, resolve
from train_lib.steps import make_train_step, several

UPDATES = 1000
# What a compiled program does without a call: it only names arrays.
_NO_CALL = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast"}


def programs(exp: Experiment) -> dict:
    """{name: step(state, batch) -> (state, record)}."""

    def loss(params, batch):
        images = exp.transform(batch["image"])
        return exp.loss(exp.module.apply({"params": params}, images), batch["label"]).mean()

    def forward(state, batch):
        # Without a change of the parameters, XLA would compute all steps at once.
        value = loss(state.params, batch)
        return state.replace(params=jax.tree.map(lambda p: p + 1e-12 * value, state.params)), {}

    def gradient(state, batch):
        found = jax.grad(loss)(state.params, batch)
        new = jax.tree.map(lambda p, g: p - 1e-5 * g, state.params, found)
        return state.replace(params=new), {}

    return {"forward": forward, "gradient": gradient, "update": make_train_step(exp.recipe)}


def kernels_of_an_update(program: str) -> int:
    """The number of calls in the body of the loop over updates. program: as text, after XLA."""
    body = re.search(r"while\(.*body=(%[\w.-]+)", program).group(1)
    lines = program.split(f"\n{body} ", 1)[1].split("\n}", 1)[0].splitlines()[1:]
    operations = (re.match(r"\s*(?:ROOT )?\S+ = .*?\s([\w-]+)\(", line) for line in lines)
    return sum(found is not None and found.group(1) not in _NO_CALL for found in operations)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    config = get_config("mnist_1998")
    config.dataset.name = "digits"
    exp = resolve(config)
    batch = train_batches(exp.train_split, Order(0, 1, 1), 0, UPDATES)
    state = parallel.replicate(exp.new_state(), exp.devices)
    runs, kernels, seconds = {}, {}, {}
    for name, step in programs(exp).items():
        runs[name] = parallel.train_step(several(step), exp.devices)
        kernels[name] = kernels_of_an_update(runs[name].lower(state, batch).compile().as_text())
    for _ in range(rounds + 1):  # the first round compiles
        for name, run in runs.items():
            copy = jax.block_until_ready(jax.tree.map(lambda leaf: leaf.copy(), state))
            start = time.perf_counter()
            jax.block_until_ready(run(copy, batch))
            seconds.setdefault(name, []).append(time.perf_counter() - start)
    macs = summary.describe(exp.module, "lenet5", exp.input_shape)["total"]["macs"]
    print(f"multiply-adds of a forward pass: {macs:,}; a gradient has about three times as many")
    for name, times in seconds.items():
        microseconds = 1e6 * statistics.median(times[1:]) / UPDATES
        print(f"{name:>8}: {microseconds:4.0f} us, {kernels[name]} kernels")


if __name__ == "__main__":
    main()
