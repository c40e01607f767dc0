"""Gradients of every layer against float64, and whether training is deterministic.

    python -m benchmarks.accelerator_checks train RECIPE STEPS FOLDER DETERMINISTIC
    python -m benchmarks.accelerator_checks restore RECIPE FOLDER

`benchmarks.accelerator` starts these commands, because XLA reads its flags only once. Each prints
one line of JSON. train: STEPS steps on synthetic images, saved in FOLDER. restore: the SHA-256 of
the saved state.
"""

import contextlib
import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from configs.load import load
from input_pipeline import sources
from input_pipeline.batches import Order, train_batches, train_indices
from models import layers
from models.layers import backend, builder, normalization, rbf
from train_lib import experiment, train
from train_lib.checkpoints import Checkpoints
from train_lib.distributed import parallel

# {name: (layer, shape of its input)}. Shapes that are not multiples of windows test the edges.
_MAPS, _VECTORS = (4, 17, 17, 16), (8, 96)


def _conv(size, **options):
    return layers.Conv(32, (size, size), padding=size // 2, **options)


LAYERS = {
    "conv 3x3": (_conv(3), _MAPS),
    "conv 3x3, stride 2": (_conv(3, strides=2), _MAPS),
    "conv 1x1, stride 2": (_conv(1, strides=2), _MAPS),
    "conv 11x11, stride 4": (_conv(11, strides=4), (4, 35, 35, 3)),
    "conv 5x5, 2 groups": (_conv(5, feature_group_count=2), _MAPS),
    "local conv 3x3": (layers.LocalConv(8, (3, 3), padding=1), _MAPS),
    "max pooling 3/2": (layers.Pool("max", 3, 2), _MAPS),
    "max pooling 3/2, padding 1": (layers.Pool("max", 3, 2, 1), _MAPS),
    "max pooling 3/2, ceil": (layers.Pool("max", 3, 2, ceil=True), (4, 16, 16, 16)),
    "max pooling 2/2": (layers.Pool("max", 2, 2), (4, 16, 16, 16)),
    "average pooling 3/2, ceil": (layers.Pool("average", 3, 2, ceil=True), (4, 16, 16, 16)),
    "average pooling 2/2": (layers.Pool("average", 2, 2), (4, 16, 16, 16)),
    "global average pooling": (layers.GlobalAveragePool(), _MAPS),
    "subsampling": (layers.Subsampling(), (4, 16, 16, 16)),
    "LRN across maps": (layers.alexnet_norm(), _MAPS),
    "LRN within maps": (layers.LocalResponseNormWithinMap(), _MAPS),
    "batch norm": (layers.BatchNorm(use_running_average=False), _MAPS),
    "maxout": (layers.Activation("maxout", 4), _MAPS),
    "relu": (layers.Activation("relu"), _MAPS),
    "scaled tanh": (layers.Activation("scaled_tanh"), _MAPS),
    "fully connected": (layers.FullyConnected(48), _VECTORS),
    "dropout, rate 0": (layers.Dropout(0.0), _VECTORS),
}
_TAKE_TRAIN = (layers.Dropout,)


@contextlib.contextmanager
def _float64_on_cpu():
    """LRN is float32 whatever comes in. Here it is float64, as all other layers."""
    in_float64 = types.SimpleNamespace(**{**vars(jnp), "float32": jnp.float64})
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.enable_x64(True))
        stack.enter_context(jax.default_device(jax.local_devices(backend="cpu")[0]))
        for module in (normalization, rbf, builder):
            stack.enter_context(mock.patch.object(module, "jnp", in_float64))
        yield


def gradient_difference(name: str, precision: str) -> float:
    """The largest difference of a layer's gradients in float32 from those in float64 on the CPU.

    It is relative to the largest gradient of each array: of the input and of the parameters.
    precision: of products in float32, as in `jax.default_matmul_precision`.
    """
    layer, shape = LAYERS[name]
    arguments = (True, 1.0) if isinstance(layer, _TAKE_TRAIN) else ()
    random = np.random.default_rng(0)
    x = random.normal(size=shape).astype(np.float32)
    key = jax.random.key(0)
    variables = jax.device_get(layer.init({"params": key, "dropout": key}, x, *arguments))
    weights = random.normal(
        size=jax.eval_shape(
            lambda v, x: layer.apply(v, x, *arguments, mutable=["batch_stats"])[0], variables, x
        ).shape
    ).astype(np.float32)

    def gradients(params, x, weights):
        def weighted_sum(params, x):
            rest = {**variables, "params": params}
            y, _ = layer.apply(rest, x, *arguments, mutable=["batch_stats"])
            return (y * weights).sum()

        return jax.grad(weighted_sum, (0, 1))(params, x)

    inputs = (variables.get("params", {}), x, weights)
    with jax.default_matmul_precision(precision):
        actual = jax.device_get(backend.jit(gradients)(*inputs))
    with _float64_on_cpu():
        doubled = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), inputs)
        # A new function: jit would use what it has traced above.
        expected = jax.device_get(jax.jit(lambda *inputs: gradients(*inputs))(*doubled))
    pairs = zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True)
    assert all(leaf.dtype == np.float64 for leaf in jax.tree.leaves(expected))
    return max(float(np.abs(a - e).max() / np.abs(e).max()) for a, e in pairs)


def input_gradient_seconds(size: int, stride: int, batch: int, rounds: int) -> float:
    """Seconds of a convolution's input gradient in bfloat16; 28x28 outputs, 128 maps.

    It has the same number of multiply-adds for every stride.
    """
    layer = layers.Conv(
        128, (size, size), strides=stride, padding=size // 2, use_bias=False, dtype=jnp.bfloat16
    )
    x = jnp.ones((batch, 28 * stride, 28 * stride, 128), jnp.bfloat16)
    variables = layer.init(jax.random.key(0), x[:1])
    weights = jnp.ones((batch, 28, 28, 128), jnp.bfloat16)

    @backend.jit
    def gradient(variables, x, weights):
        return jax.vjp(lambda x: layer.apply(variables, x), x)[1](weights)[0]

    times = []
    for _ in range(rounds + 1):  # the first call compiles
        start = time.perf_counter()
        for _ in range(10):
            last = gradient(variables, x, weights)
        jax.block_until_ready(last)
        times.append((time.perf_counter() - start) / 10)
    return statistics.median(times[1:])


class Synthetic:
    """Random images of CIFAR-10's shape, as a module of `sources.EMBEDDED`."""

    IMAGE_SHAPE, CLASS_NAMES = sources.KNOWN["cifar10"]

    def __init__(self, examples: int):
        self.examples = examples

    def load(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8 [n, 32, 32, 3] and labels int32 [n]; the test split has 100."""
        count = self.examples if split == "train" else 100
        random = np.random.default_rng(0)
        images = random.integers(0, 256, (count, *self.IMAGE_SHAPE), np.uint8)
        return images, random.integers(0, 10, count, np.int32)


def synthetic_experiment(recipe: str, examples: int, **overrides) -> experiment.Experiment:
    """The experiment of a recipe for CIFAR-10, with synthetic images in its place."""
    sources.EMBEDDED["cifar10"] = Synthetic(examples)
    config = load(recipe)
    config.num_devices = 1
    config.update_from_flattened_dict(overrides)
    return experiment.resolve(config)


def digest(state) -> str:
    """The SHA-256 of all arrays of a state."""
    sha256 = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(jax.device_get(state)):
        sha256.update(f"{path} {leaf.dtype} {leaf.shape}".encode())
        sha256.update(np.ascontiguousarray(leaf).tobytes())
    return sha256.hexdigest()


def train_and_save(recipe: str, steps: str, folder: str, deterministic: str) -> dict:
    """The digest of the state after so many steps, and the median seconds of a step."""
    exp = synthetic_experiment(recipe, 2000, deterministic=deterministic == "True", batch_size=64)
    step, state = train.compile_step(exp), parallel.replicate(exp.new_state(), exp.devices)
    make = train_indices if exp.resident_data else train_batches
    order, times = Order(0, 64, 1), []
    for i in range(int(steps)):
        batch = make(exp.train_split, order, i, 1)
        start = time.perf_counter()
        state, _ = jax.block_until_ready(step(state, batch))
        times.append(time.perf_counter() - start)
    checkpoints = Checkpoints(Path(folder))
    checkpoints.save(int(steps), state)
    checkpoints.wait()
    return {"digest": digest(state), "seconds": statistics.median(times[1:])}


def restore(recipe: str, folder: str) -> dict:
    """The digest of the state that `train_and_save` saved, restored onto the default device."""
    exp = synthetic_experiment(recipe, 100)
    _, state = Checkpoints(Path(folder)).restore(exp.new_state())
    state = parallel.replicate(state, exp.devices)
    return {"digest": digest(state), "platform": jax.default_backend()}


def in_process(*arguments, **environment: str) -> dict:
    """The result of one of this module's commands, in a process of its own."""
    command = [sys.executable, "-m", __name__, *map(str, arguments)]
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return json.loads(done.stdout.splitlines()[-1])


def determinism(recipe: str, steps: int, folder: Path) -> Iterator[dict]:
    """Rows: two deterministic runs, the cost beside a usual one, and a checkpoint on the CPU."""
    runs = [in_process("train", recipe, steps, folder / name, True) for name in ("first", "second")]
    same = runs[0]["digest"] == runs[1]["digest"]
    yield {"recipe": recipe, "check": "two runs are equal bit for bit", "result": same}
    restored = in_process("restore", recipe, folder / "first", JAX_PLATFORMS="cpu")
    same = restored["digest"] == runs[0]["digest"]
    yield {"recipe": recipe, "check": "its checkpoint on the CPU is equal", "result": same}
    usual = in_process("train", recipe, steps, folder / "usual", False)
    cost = min(run["seconds"] for run in runs) / usual["seconds"]
    yield {"recipe": recipe, "check": "seconds of a step, beside a usual run", "result": cost}


if __name__ == "__main__":
    commands = {"train": train_and_save, "restore": restore}
    print(json.dumps(commands[sys.argv[1]](*sys.argv[2:])))
