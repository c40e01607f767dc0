"""Gradients of every layer against float64, and whether training is deterministic.

    python -m benchmarks.accelerator_checks train RECIPE STEPS K FOLDER DETERMINISTIC
    python -m benchmarks.accelerator_checks restore RECIPE FOLDER COPY

`benchmarks.accelerator` starts these commands, because XLA reads its flags only once. Each prints
one line of JSON. train: STEPS steps on synthetic images, K in a call, saved in FOLDER. restore: the
SHA-256 of the saved state, which is saved again in COPY.
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
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest import mock

import flax.linen as nn
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


class Chain(nn.Module):
    """Layers one after the other."""

    layers: Sequence[nn.Module]

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


_PAIRS = ((0, 1, 2), (3, 4, 5), tuple(range(16)))
_CODES = tuple(tuple(1 if (i >> j % 4) & 1 else -1 for j in range(96)) for i in range(10))

# First those in which a GPU may compute an operand of a maximum twice, with another rounding
# (jax-ml/jax#40564). Layers with random masks are not among them.
LAYERS = {
    "fully connected, maxout": (
        Chain((layers.FullyConnected(96), layers.Activation("maxout", 4))),
        _VECTORS,
    ),
    "conv, maxout": (Chain((_conv(3), layers.Activation("maxout", 4))), _MAPS),
    "conv, batch norm, max pooling": (
        Chain(
            (
                # Without a bias: before a batch norm, its gradient is zero.
                *(_conv(3, use_bias=False), layers.BatchNorm(use_running_average=False)),
                *(layers.Activation("relu"), layers.Pool("max", 3, 2)),
            )
        ),
        _MAPS,
    ),
    "maxout": (layers.Activation("maxout", 4), _MAPS),
    "max pooling 2/2": (layers.Pool("max", 2, 2), (4, 16, 16, 16)),
    "max pooling 3/2": (layers.Pool("max", 3, 2), _MAPS),
    "max pooling 3/2, padding 1": (layers.Pool("max", 3, 2, 1), _MAPS),
    "max pooling 3/2, ceil": (layers.Pool("max", 3, 2, ceil=True), (4, 16, 16, 16)),
    "conv 3x3": (_conv(3), _MAPS),
    "conv 3x3, stride 2": (_conv(3, strides=2), _MAPS),
    "conv 1x1, stride 2": (_conv(1, strides=2), _MAPS),
    "conv 11x11, stride 4": (_conv(11, strides=4), (4, 35, 35, 3)),
    "conv 5x5, 2 groups": (_conv(5, feature_group_count=2), _MAPS),
    "conv 5x5 by a table": (layers.TableConv(_PAIRS, (5, 5)), _MAPS),
    "local conv 3x3": (layers.LocalConv(8, (3, 3), padding=1), _MAPS),
    "fully connected": (layers.FullyConnected(48), _VECTORS),
    "RBF": (layers.RBF(_CODES), _VECTORS),
    "batch norm": (layers.BatchNorm(use_running_average=False), _MAPS),
    "LRN across maps": (layers.alexnet_norm(), _MAPS),
    "LRN within maps": (layers.LocalResponseNormWithinMap(), _MAPS),
    "average pooling 3/2, ceil": (layers.Pool("average", 3, 2, ceil=True), (4, 16, 16, 16)),
    "average pooling 2/2": (layers.Pool("average", 2, 2), (4, 16, 16, 16)),
    "global average pooling": (layers.GlobalAveragePool(), _MAPS),
    "subsampling": (layers.Subsampling(), (4, 16, 16, 16)),
} | {kind: (layers.Activation(kind), _MAPS) for kind in layers.ACTIVATIONS if kind != "maxout"}


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


def gradient_differences(name: str) -> dict[str, float]:
    """The largest difference of a layer's gradients in float32 from those in float64 on the CPU.

    It is relative to the largest gradient of each array: of the input and of the parameters.
    Returns one for each precision of products in float32, see `jax.default_matmul_precision`.
    """
    layer, shape = LAYERS[name]
    random = np.random.default_rng(0)
    x = random.normal(size=shape).astype(np.float32)
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        variables = jax.device_get(layer.init(jax.random.key(0), x))
        y = layer.apply(variables, x, mutable=["batch_stats"])[0]
    weights = random.normal(size=y.shape).astype(np.float32)

    def gradients(params, x, weights):
        def weighted_sum(params, x):
            y, _ = layer.apply({**variables, "params": params}, x, mutable=["batch_stats"])
            return (y * weights).sum()

        return jax.grad(weighted_sum, (0, 1))(params, x)

    inputs = (variables.get("params", {}), x, weights)
    with _float64_on_cpu():
        doubled = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), inputs)
        expected = jax.tree.leaves(jax.device_get(jax.jit(gradients)(*doubled)))
    assert all(leaf.dtype == np.float64 for leaf in expected)
    found = {}
    for precision in ("default", "highest"):
        with jax.default_matmul_precision(precision):
            # A new function: jit would use what it has traced before.
            actual = backend.jit(lambda *inputs: gradients(*inputs))(*inputs)
        pairs = zip(jax.tree.leaves(jax.device_get(actual)), expected, strict=True)
        found[precision] = max(float(np.abs(a - e).max() / np.abs(e).max()) for a, e in pairs)
    return found


def input_gradient_seconds(size: int, stride: int, batch: int, rounds: int) -> float:
    """Seconds of a convolution's input gradient in bfloat16; 28x28 outputs, 128 maps.

    It has the same number of multiply-adds for every stride, but with stride 2 four times as many
    values. Ten of them run in a call, each with other output gradients.
    """
    layer = layers.Conv(
        128, (size, size), strides=stride, padding=size // 2, use_bias=False, dtype=jnp.bfloat16
    )
    keys = jax.random.split(jax.random.key(0), 2)
    x = jnp.zeros((batch, 28 * stride, 28 * stride, 128), jnp.bfloat16)
    variables = layer.init(keys[0], x[:1])
    weights = jax.random.normal(keys[1], (10, batch, 28, 28, 128), jnp.bfloat16)

    @backend.jit
    def gradients(variables, x, weights):
        def one(last, weights):
            # The barrier keeps the gradient whole: its sum alone would be simpler to compute.
            gradient = jax.vjp(lambda x: layer.apply(variables, x), x)[1](weights)[0]
            return last + jax.lax.optimization_barrier(gradient)[0, 0, 0, 0], None

        return jax.lax.scan(one, jnp.bfloat16(0), weights)[0]

    times = []
    for _ in range(rounds + 1):  # the first call compiles
        start = time.perf_counter()
        jax.block_until_ready(gradients(variables, x, weights))
        times.append((time.perf_counter() - start) / len(weights))
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


def train_and_save(recipe: str, steps: str, k: str, folder: str, deterministic: str) -> dict:
    """The digest of the state after some steps, k in a call, and the median seconds of a step."""
    exp = synthetic_experiment(recipe, 2000, deterministic=deterministic == "True")
    step, state = train.compile_step(exp), parallel.replicate(exp.new_state(), exp.devices)
    make = train_indices if exp.resident_data else train_batches
    order, times = Order(0, exp.config.batch_size, 1), []
    for i in range(0, int(steps), int(k)):
        batch = make(exp.train_split, order, i, int(k))
        start = time.perf_counter()
        state, _ = jax.block_until_ready(step(state, batch))
        times.append((time.perf_counter() - start) / int(k))
    _save(state, folder)
    return {"digest": digest(state), "seconds": statistics.median(times[1:])}


def restore(recipe: str, folder: str, copy: str) -> dict:
    """The digest of a saved state, restored onto the default device and saved again in `copy`."""
    exp = synthetic_experiment(recipe, 100)
    _, state = Checkpoints(Path(folder)).restore(exp.new_state())
    state = parallel.replicate(state, exp.devices)
    _save(state, copy)
    return {"digest": digest(state), "platform": jax.default_backend()}


def _save(state, folder: str) -> None:
    checkpoints = Checkpoints(Path(folder))
    checkpoints.save(int(jax.device_get(state.step).reshape(-1)[0]), state)
    checkpoints.wait()


def in_process(*arguments, **environment: str) -> dict:
    """The result of one of this module's commands, in a process of its own."""
    command = [sys.executable, "-m", __name__, *map(str, arguments)]
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return json.loads(done.stdout.splitlines()[-1])


def determinism(recipe: str, steps: int, k: int, folder: Path) -> Iterator[dict]:
    """Rows: two deterministic runs, the cost beside a usual one, and a checkpoint on the CPU."""
    places = {name: folder / name for name in ("first", "second", "usual", "cpu", "back")}

    def run(name):
        return in_process("train", recipe, steps, k, places[name], name != "usual")

    first, second = run("first"), run("second")
    same = first["digest"] == second["digest"]
    yield {"recipe": recipe, "check": "two runs are equal bit for bit", "result": same}
    cost = min(first["seconds"], second["seconds"]) / run("usual")["seconds"]
    yield {"recipe": recipe, "check": "seconds of a step, beside a usual run", "result": cost}
    on_cpu = in_process("restore", recipe, places["first"], places["cpu"], JAX_PLATFORMS="cpu")
    same = on_cpu["digest"] == first["digest"]
    yield {"recipe": recipe, "check": "its checkpoint on the CPU is equal", "result": same}
    back = in_process("restore", recipe, places["cpu"], places["back"])
    same = back["digest"] == first["digest"]
    yield {"recipe": recipe, "check": "and back on this device", "result": same}


if __name__ == "__main__":
    commands = {"train": train_and_save, "restore": restore}
    print(json.dumps(commands[sys.argv[1]](*sys.argv[2:])))
