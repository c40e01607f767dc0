"""How fast is every family? Images per second, against plain linen and against torch.

    python -m benchmarks.models [--only=lenet5,alexnet,...] [--batch=8,32,...] [--cores=N]
        [--rounds=15] [--seconds=0.2] [--steps_per_dispatch=K] [--linen_in_scan] [--out=FILE]

Side by side, in one process, on one fixed batch:

ours    the networks of `models/`, as training and evaluation run them
linen   the same networks with linen's and XLA's own primitives in place of ours (`plain_linen`),
        compiled with JAX's default options
torch   the same layers in torch (`benchmarks.torch_nets`), in the faster of its two layouts, and
        on all cores or one, whichever is faster. Training decides: inference has the same settings

train: uint8 images scaled, forward, backward, SGD with momentum 0.9. Ours as the training loop runs
it, a `lax.scan` over the config's steps_per_dispatch (or K) in a call. linen's is one compiled step
a call; --linen_in_scan puts it into a scan, too, where JAX 0.10.2 ran its convolutions far slower
on CPUs. infer: a jitted `apply`.

The versions take turns in short slices, because the speed of a machine drifts. Images per second
are medians over the rounds. A ratio is the median of the rounds' ratios, with their quartiles in
brackets; above 1, ours is faster. The last row has the geometric means of the ratios. The benchmark
checks that ours and linen give equal logits, and that torch's network has as many parameters.
"""

import argparse
import contextlib
import dataclasses
import functools
import gc
import importlib
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

import models.layers
from configs.common import base
from input_pipeline.transform import make_transform
from models import registry
from models.layers import backend, builder, convolution, pooling
from train_lib import losses, optimizers
from train_lib import state as state_lib
from train_lib.distributed import memory, parallel
from train_lib.steps import Recipe, make_train_step, several

try:
    import torch

    from benchmarks import torch_nets
except ImportError:
    torch = None

NHWC = ("NHWC", "HWIO", "NHWC")
RATE, MOMENTUM = 1e-4, 0.9


@dataclasses.dataclass(frozen=True)
class Family:
    """A config file and its argument, the images' shape, the classes and the batch size."""

    config: str
    argument: str
    shape: tuple[int, int, int]
    classes: int
    batch: int


IMAGENET = ((224, 224, 3), 1000)
FAMILIES = {
    "lenet5": Family("lenet5", "mnist", (32, 32, 1), 10, 64),
    "mlp_300": Family("mlp", "300", (28, 28, 1), 10, 64),
    "cuda_convnet_26pct": Family("cuda_convnet", "26pct", (32, 32, 3), 10, 128),
    "cuda_convnet_13pct": Family("cuda_convnet", "13pct", (24, 24, 3), 10, 128),
    "maxout_mnist_dense": Family("maxout", "mnist_dense", (28, 28, 1), 10, 100),
    "resnet_cifar10_20": Family("resnet_cifar10", "20", (32, 32, 3), 10, 128),
    "alexnet_two_tower": Family("alexnet", "two_tower", *IMAGENET, 16),
    "alexnet_one_tower": Family("alexnet", "one_tower", *IMAGENET, 16),
    "vgg_A": Family("vgg", "A", *IMAGENET, 4),
    "vgg_D": Family("vgg", "D", *IMAGENET, 2),
    "googlenet_batch_norm": Family("googlenet", "batch_norm", *IMAGENET, 8),
    "resnet_18": Family("resnet", "18", *IMAGENET, 8),
    "resnet_50_v1.5": Family("resnet", "50-v1.5", *IMAGENET, 8),
}


class PlainConv(models.layers.Conv):
    conv_general_dilated: Callable | None = None


class PlainLocalConv(models.layers.LocalConv):
    """A locally connected layer that uses the primitive of linen's `nn.ConvLocal`."""

    @nn.compact
    def __call__(self, x):
        pads = ((self.padding,) * 2,) * 2 if isinstance(self.padding, int) else self.padding
        window = self.kernel_size
        height, width = (
            n + sum(pad) - k + 1 for n, pad, k in zip(x.shape[1:3], pads, window, strict=True)
        )
        shape = (height, width, *window, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (height, width, self.features))
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        # The primitive expects the values of a window channel by channel.
        kernel = kernel.transpose(0, 1, 4, 2, 3, 5).reshape(height, width, -1, self.features)
        y = lax.conv_general_dilated_local(x, kernel, (1, 1), pads, window, dimension_numbers=NHWC)
        return y + bias


def plain_pool(x, layer):
    window, stride, padding = layer.window, layer.stride, layer.padding
    counts = [layer.output_size(n) for n in x.shape[1:3]]
    pads = [
        (padding, max(0, (count - 1) * stride + window - n - padding))
        for count, n in zip(counts, x.shape[1:3], strict=True)
    ]
    if layer.kind == "max":
        return nn.max_pool(x, (window, window), (stride, stride), pads)
    assert not padding, "linen counts padded zeros otherwise than we do"
    return nn.avg_pool(x, (window, window), (stride, stride), pads, count_include_pad=False)


def plain_window_sum(x, window):
    return nn.pool(x, 0.0, lax.add, (window, window), (window, window), "VALID")


@contextlib.contextmanager
def plain_linen():
    """A context in which models are traced with linen's and XLA's convolutions and pooling."""
    with (
        mock.patch.object(models.layers, "Conv", PlainConv),
        mock.patch.object(builder, "Conv", PlainConv),
        mock.patch.object(models.layers, "LocalConv", PlainLocalConv),
        mock.patch.object(convolution, "convolve", lax.conv_general_dilated),
        mock.patch.object(pooling, "pool", plain_pool),
        mock.patch.object(pooling, "window_sum", plain_window_sum),
    ):
        yield


def under(context, function):
    """`function`, always traced within the context."""

    def traced(*args):
        with context():
            return function(*args)

    return traced


class JaxSteps:
    """A family's train and inference steps, by version ("ours", "linen"), over one shared state.

    programs, batches: the training step of each version, and its batches, which are on the host.
    steps: the number of steps in a call.
    """

    def __init__(self, family: Family, config, images, labels, k: int, linen_in_scan: bool):
        devices = parallel.local_devices(1)
        module = registry.create(config.model, family.classes)
        schedule = optax.constant_schedule(RATE)
        optimizer = optimizers.make_optimizer(config.optimizer, schedule)
        transform = make_transform(config.preprocess, config.augment)
        recipe = Recipe(
            module,
            losses.make_loss(config.loss),
            optimizer,
            transform,
            auxiliary_weight=config.loss.auxiliary_weight,
        )
        step = self._step = make_train_step(recipe)

        def infer(variables, images):
            return module.apply(variables, transform(images), train=False)

        versions = {"ours": contextlib.nullcontext, "linen": plain_linen}
        options = {"ours": backend.compiler_options(devices[0].platform), "linen": {}}
        scanned = {"ours": True, "linen": linen_in_scan}
        self.programs, self.batches = {}, {}
        self.steps = {version: k if scanned[version] else 1 for version in versions}
        for version, context in versions.items():
            traced, lead = under(context, step), (1, k) if scanned[version] else (1,)
            traced = several(traced) if scanned[version] else traced
            self.programs[version] = parallel.train_step(traced, devices, options=options[version])
            self.batches[version] = {
                "image": np.broadcast_to(images, (*lead, *images.shape)),
                "label": np.broadcast_to(labels, (*lead, *labels.shape)),
            }
        self._infer = {
            version: jax.jit(under(context, infer), compiler_options=options[version])
            for version, context in versions.items()
        }
        self.state = parallel.replicate(
            state_lib.create(module, optimizer, 0, family.shape), devices
        )
        self.images, self.last = jnp.asarray(images), None

    def parameters(self) -> int:
        return sum(leaf.size for leaf in jax.tree.leaves(self.state.params))

    def operations(self) -> float:
        """Floating-point operations of a training step, by XLA's analysis before optimisation.

        It is that of plain linen's step, which has no hidden calls of libraries, lowered for the
        CPU: JAX has no such analysis for GPUs.
        """
        cpu = jax.local_devices(backend="cpu")[:1]
        program = parallel.train_step(under(plain_linen, self._step), cpu, options={})
        batch = {name: value[:, 0] for name, value in self.batches["ours"].items()}
        shapes = jax.tree.map(jax.typeof, (self.state, batch))
        shapes = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype), shapes)
        return program.lower(*shapes).cost_analysis()["flops"]

    def train(self, version: str):
        self.state, self.last = self.programs[version](self.state, self.batches[version])

    def infer(self, version: str):
        self.last = self._infer[version](self.state.variables(), self.images)

    def wait(self):
        jax.block_until_ready((self.state, self.last))

    def check(self):
        """Raises AssertionError unless the two versions give the same logits."""
        logits = {}
        for version in ("ours", "linen"):
            self.infer(version)
            logits[version] = np.asarray(self.last)
        tolerance = 1e-3 if jax.default_backend() == "cpu" else 2e-2  # a GPU rounds to TF32
        size = np.abs(logits["ours"]).max()
        assert size > 0 and np.isfinite(size), "logits are no numbers to compare"
        np.testing.assert_allclose(logits["ours"], logits["linen"], rtol=0, atol=tolerance * size)


def load_config(family: Family):
    """The family's config with images of the network's own size, no augmentation, and plain SGD."""
    config = importlib.import_module(f"configs.{family.config}").get_config(family.argument)
    neutral = base()
    config.optimizer, config.augment = neutral.optimizer, neutral.augment
    config.optimizer.momentum = MOMENTUM
    config.preprocess.update({"pad": 0, "crop": 0, "mean": "none"})
    return config


def seconds_of(call, wait, count: int) -> float:
    """Seconds that each of `count` calls takes."""
    wait()
    start = time.perf_counter()
    for _ in range(count):
        call()
    wait()
    return (time.perf_counter() - start) / count


def choose_torch_settings(steps, cores: int):
    """Sets the faster layout, then, for short steps, the faster of all cores and one."""

    def fastest(choices, use):
        best = dict.fromkeys(choices, float("inf"))
        for _ in range(3):
            for choice in choices:
                use(choice)
                steps.train()
                best[choice] = min(best[choice], seconds_of(steps.train, steps.wait, 1))
        choice = min(best, key=best.get)
        use(choice)
        return best[choice]

    torch.set_num_threads(cores)
    convolves = any(p.ndim == 4 for p in steps.net.parameters())
    took = fastest(("default", "channels_last") if convolves else ("default",), steps.use)
    if took < 0.5:
        fastest((cores, 1), torch.set_num_threads)


def measure(name: str, family: Family, batch: int, arguments) -> dict:
    """One row of the table."""
    config = load_config(family)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (batch, *family.shape), np.uint8)
    labels = random.integers(0, family.classes, batch, np.int32)
    k = arguments.k or config.steps_per_dispatch
    ours = JaxSteps(family, config, images, labels, k, arguments.linen_in_scan)
    ours.check()
    # Each measurement: the function to call, how to wait for it, and images per call.
    calls: dict = {}
    for mode in ("train", "infer"):
        for version in ("ours", "linen"):
            call = functools.partial(getattr(ours, mode), version)
            size = batch * (ours.steps[version] if mode == "train" else 1)
            calls[mode, version] = (call, ours.wait, size)
    layout = threads = None
    if arguments.torch:
        low, high = config.preprocess.low, config.preprocess.high
        loss = torch_nets.loss_of(config.loss.name, config.loss.get("j"))
        theirs = torch_nets.Steps(name, images, labels, loss, low, high, RATE, MOMENTUM)
        assert theirs.parameters() == ours.parameters(), (
            "torch's network has a different number of parameters"
        )
        choose_torch_settings(theirs, arguments.cores)
        layout, threads = theirs.layout, torch.get_num_threads()
        calls["train", "torch"] = (theirs.train, theirs.wait, batch)
        calls["infer", "torch"] = (theirs.infer, theirs.wait, batch)

    counts = {}
    for key, (call, wait, _) in calls.items():
        seconds_of(call, wait, 1)  # compiles the function
        counts[key] = max(1, int(arguments.seconds / seconds_of(call, wait, 1)))
    speeds: dict = {key: [] for key in calls}
    for _ in range(arguments.rounds):
        for key, (call, wait, size) in calls.items():
            speeds[key].append(size / seconds_of(call, wait, counts[key]))

    row = {"family": name, "batch": batch, "steps": k, "parameters": ours.parameters()}
    row |= {"torch_layout": layout, "torch_threads": threads}
    for mode in ("train", "infer"):
        for version in VERSIONS:
            values = speeds.get((mode, version))
            row[f"{mode}_{version}"] = values and statistics.median(values)
        for version in VERSIONS[1:]:
            pairs = zip(speeds[mode, "ours"], speeds.get((mode, version), ()), strict=False)
            ratios = [a / b for a, b in pairs]
            row[f"{mode}_ratio_{version}"] = ratios and statistics.quantiles(ratios, n=4)
    return row


VERSIONS = ("ours", "linen", "torch")


def _speed(value) -> str:
    return "-" if not value else f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _ratio(quartiles) -> str:
    if not quartiles:
        return "-"
    low, median, high = quartiles
    return f"{median:.2f} ({low:.2f}-{high:.2f})"


def line(row: dict) -> str:
    cells = ""
    for mode in ("train", "infer"):
        cells += "".join(_speed(row[f"{mode}_{version}"]).rjust(9) for version in VERSIONS)
        cells += "".join(_ratio(row[f"{mode}_ratio_{v}"]).rjust(18) for v in VERSIONS[1:])
    layout = {"channels_last": "NHWC", "default": "NCHW"}.get(row["torch_layout"], "-")
    torch_setting = f"{layout} {row['torch_threads'] or ''}".rstrip()
    return f"{row['family']:<21}{row['batch']:>5}{row['steps']:>6}{cells}  {torch_setting}"


def means(rows: list[dict]) -> str:
    """The row of the geometric means of the ratios."""
    cells = ""
    for mode in ("train", "infer"):
        cells += " " * 27
        for version in VERSIONS[1:]:
            medians = [q[1] for row in rows if (q := row[f"{mode}_ratio_{version}"])]
            cells += (f"{statistics.geometric_mean(medians):.2f}" if medians else "-").rjust(18)
    return f"{'geometric mean':<32}{cells}"


def _header() -> str:
    modes = "".join(
        f"{mode + ', images/s':>27}{'ours/linen':>18}{'ours/torch':>18}"
        for mode in ("train", "infer")
    )
    columns = "".join(f"{c:>9}" for c in VERSIONS) + " " * 36
    return (
        f"{'':32}{modes}  torch:\n{'family':<21}{'batch':>5}{'steps':>6}{columns * 2}"
        "  layout, threads"
    )


def setting(use_torch: bool, cores: int) -> dict:
    """Versions and hardware, on which the figures depend; configures torch like XLA."""
    device = jax.devices()[0]
    processors = Path("/proc/cpuinfo")
    lines = processors.read_text().splitlines() if processors.exists() else []
    names = [text.split(":")[1].strip() for text in lines if text.startswith("model name")]
    facts = {
        "device": f"{device.platform} {device.device_kind}",
        "processor": names[0] if names else platform.machine(),
        "cores": cores,
        "python": platform.python_version(),
        "jax": jax.__version__,
        "flax": flax.__version__,
    }
    if use_torch:
        torch.set_flush_denormal(True)  # as XLA does
        torch.set_float32_matmul_precision("high")  # TF32 on GPUs, which is JAX's default
        torch.backends.cudnn.benchmark = True
        facts["torch"] = torch.__version__
    return facts


def use_cores(count: int) -> int:
    """Pins the process to its first `count` cores (0: all it has), before libraries start threads.

    Returns the number of cores that it may use.
    """
    if not hasattr(os, "sched_setaffinity"):
        return os.cpu_count()
    mine = sorted(os.sched_getaffinity(0))
    if count:
        os.sched_setaffinity(0, mine[:count])
    return len(os.sched_getaffinity(0))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="beginnings of families, with commas between")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.2, help="of each slice, about")
    parser.add_argument(
        "--batch", default="", help="sizes, with commas between; else each family's"
    )
    parser.add_argument("--cores", type=int, default=0, help="use only so many; 0: all")
    parser.add_argument("--steps_per_dispatch", dest="k", type=int, default=0)
    parser.add_argument("--linen_in_scan", action="store_true")
    parser.add_argument("--out", default="", help="JSON file to write")
    arguments = parser.parse_args()
    if arguments.rounds < 2:
        parser.error(f"--rounds={arguments.rounds}: quartiles need at least 2")
    families = tuple(filter(None, arguments.only.split(",")))
    sizes = tuple(int(size) for size in arguments.batch.split(",") if size)
    for name in families:
        if not any(family.startswith(name) for family in FAMILIES):
            parser.error(f"--only={name}: there are {', '.join(FAMILIES)}")

    arguments.cores = use_cores(arguments.cores)
    memory.keep_freed_memory()  # as the training loop does, and for torch too
    # torch needs a part of a GPU's memory. JAX reads this when it first looks for devices.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    arguments.torch = torch is not None
    if not arguments.torch:
        print("torch is not installed: nothing is compared with it")
    elif jax.default_backend() != "cpu" and not torch.cuda.is_available():
        arguments.torch = False
        print("torch has no GPU here: nothing is compared with it")
    facts = setting(arguments.torch, arguments.cores)
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    print(f"float32, {arguments.rounds} rounds\n\n{_header()}")
    options = {
        "rounds": arguments.rounds,
        "linen_in_scan": arguments.linen_in_scan,
    }
    rows: list[dict] = []
    for name, family in FAMILIES.items():
        if families and not name.startswith(families):
            continue
        for batch in sizes or (family.batch,):
            rows.append(measure(name, family, batch, arguments))
            print(line(rows[-1]), flush=True)
            if arguments.out:
                text = json.dumps({**facts, **options, "rows": rows}, indent=2)
                Path(arguments.out).write_text(text + "\n")
            jax.clear_caches()
            gc.collect()
    print(means(rows))


if __name__ == "__main__":
    main()
