"""The parts of `benchmarks.accelerator`: each is a generator of rows, one for each measurement.

    python -m benchmarks.accelerator_parts PART --seconds=N [--tiny] [--cifar10=...] [--recipes=...]
        [--folder=FOLDER]

prints lines: the facts of the machine, then the rows, in JSON. `benchmarks.accelerator` starts it.
FOLDER gets the metrics of the recipes that are trained.
"""

import argparse
import concurrent.futures
import contextlib
import dataclasses
import functools
import io
import itertools
import json
import os
import shutil
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from benchmarks import accelerator_checks as checks
from benchmarks import loop as loop_benchmark
from benchmarks import models
from benchmarks.accelerator import FACTS, LIMIT, ROW
from benchmarks.moved_bytes import moved_bytes
from configs.load import load
from errors import one_line
from input_pipeline import sources
from train_lib import train
from train_lib.distributed import parallel
from train_lib.distributed.signals import StopRequest

# Dense bfloat16 operations per second: NVIDIA's data sheets of the H100 SXM and the H200.
PEAKS = {"NVIDIA H100 80GB HBM3": 989e12, "NVIDIA H200": 989e12}
# XLA's options, one at a time. The first row has none.
OPTIONS = (
    {},
    {"xla_gpu_force_conv_nhwc": True},
    {"xla_gpu_experimental_enable_conv_fusion": True},
    {"xla_gpu_use_runtime_fusion": True},
    {"xla_gpu_autotune_level": 0},
    {"xla_gpu_per_fusion_autotune_cache_dir": "/tmp/autotune"},
    {"xla_gpu_enable_command_buffer": ""},
    {"xla_gpu_command_buffer_unroll_loops": True},
    {"xla_gpu_enable_latency_hiding_scheduler": True},
    {"optimization_level": "O1"},
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """How large a measurement is.

    batches: {family: batch sizes of `rates`}, the most valuable first.
    scaled: {family: batch size of `options`}. sizes: of `batch_sizes`, for the same families.
    rounds, seconds: number and length of the slices that are timed.
    k: steps in a call of ours, for families with images of at most 32 pixels; others have one.
    layers: beginnings of the names of layers. gradient_batch: for the times of input gradients.
    examples, loop_recipes, loop_seconds: of `loop`.
    recipe_steps: 0 for the whole recipe.
    same_recipe, same_steps: of `deterministic`.
    """

    batches: dict[str, tuple[int, ...]]
    scaled: dict[str, int]
    sizes: tuple[int, ...]
    rounds: int
    seconds: float
    k: int
    layers: tuple[str, ...]
    gradient_batch: int
    examples: int
    loop_recipes: tuple[str, ...]
    loop_seconds: float
    recipe_steps: int
    same_recipe: str
    same_steps: int


FULL = Settings(
    batches={
        "resnet_50_v1.5": (256, 512),
        "resnet_cifar10_20": (128, 1024),
        "alexnet_two_tower": (512, 1024),
        "vgg_D": (128, 256),
        "googlenet_batch_norm": (256, 512),
        "lenet5": (1024, 8192),
        "cuda_convnet_26pct": (128, 2048),
        "maxout_mnist_dense": (100, 8192),
        "mlp_300": (64, 8192),
        "alexnet_one_tower": (512, 1024),
        "cuda_convnet_13pct": (128, 2048),
        "resnet_18": (256, 512),
        "vgg_A": (128, 256),
    },
    scaled={"resnet_50_v1.5": 256, "resnet_cifar10_20": 128},
    sizes=(1024, 32, 512, 64, 256, 128),
    rounds=3,
    seconds=0.2,
    k=50,
    layers=("",),
    gradient_batch=256,
    examples=50_000,
    loop_recipes=("resnet_cifar10:20", "cuda_convnet:26pct"),
    loop_seconds=1.0,
    recipe_steps=0,
    same_recipe="resnet_cifar10:20",
    same_steps=500,
)
TINY = Settings(
    batches={"mlp_300": (4, 8), "lenet5": (4,)},
    scaled={"mlp_300": 4},
    sizes=(2, 4),
    rounds=2,
    seconds=0.01,
    k=2,
    layers=("max pooling 2/2", "maxout", "fully", "LRN across"),
    gradient_batch=1,
    examples=500,
    loop_recipes=("cuda_convnet:26pct",),
    loop_seconds=0.2,
    recipe_steps=3,
    same_recipe="cuda_convnet:26pct",
    same_steps=4,
)


@dataclasses.dataclass(frozen=True)
class Run:
    """What a part gets. deadline: of time.perf_counter, in seconds. See the flags."""

    settings: Settings
    cifar10: str = ""
    recipes: tuple[str, ...] = ("resnet_cifar10:20",)
    folder: Path = Path()
    deadline: float = float("inf")

    def seconds_left(self) -> float:
        return self.deadline - time.perf_counter()


def attempt(labels: dict, measure: Callable[[], dict]) -> dict:
    """A row: the labels, and the values that `measure` returns, or its error as a line of text."""
    try:
        return labels | measure()
    except Exception as error:
        text = str(error)
        is_unknown = "No such compile option" in text
        return labels | {"error": "unknown" if is_unknown else one_line(error)[:200]}


def why_no_torch() -> str:
    """Why torch is not compared; "" if it is."""
    if models.torch is None:
        return "not installed"
    on_gpu = jax.default_backend() != "cpu"
    return "finds no GPU" if on_gpu and not models.torch.cuda.is_available() else ""


def images_per_second(call: Callable, wait: Callable, images: int, settings: Settings) -> float:
    """The median over rounds. images: of a call. The function must be compiled."""
    count = max(1, int(settings.seconds / models.seconds_of(call, wait, 1)))
    times = [models.seconds_of(call, wait, count) for _ in range(settings.rounds)]
    return images / statistics.median(times)


def random_batch(family: models.Family, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [batch, height, width, channels] and labels int32 [batch]."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (batch, *family.shape), np.uint8)
    return images, random.integers(0, family.classes, batch, np.int32)


class Family:
    """A family's steps in bfloat16 with a batch on the device. version: "ours" or "linen"."""

    def __init__(self, name: str, batch: int, settings: Settings):
        self.family, self.batch, self.settings = models.FAMILIES[name], batch, settings
        config = models.load_config(self.family)
        config.model.dtype = "bfloat16"
        k = settings.k if self.family.shape[0] <= 32 else 1
        self.images = random_batch(self.family, batch)
        self.steps = models.JaxSteps(self.family, config, *self.images, k, False)
        batches, devices = self.steps.batches, parallel.local_devices(1)
        self.steps.batches = {v: parallel.scatter(b, devices) for v, b in batches.items()}

    def lower(self, version: str = "ours"):
        """The training step, before compilation. Its `compile` takes XLA's options."""
        return self.steps.programs[version].lower(self.steps.state, self.steps.batches[version])

    def rate(self, compiled, version: str = "ours") -> float:
        """Images per second of a compiled training step."""
        self.steps.programs[version] = compiled
        call = functools.partial(self.steps.train, version)
        models.seconds_of(call, self.steps.wait, 1)
        images = self.batch * self.steps.steps[version]
        return images_per_second(call, self.steps.wait, images, self.settings)

    def train(self, version: str) -> dict:
        """The rate of training, and for ours the cost of a step and the fraction of the peak."""
        compiled, k = self.lower(version).compile(), self.steps.steps[version]
        rate = self.rate(compiled, version)  # it puts the compiled step into the program's place
        row = {"images/s": rate, "steps/call": k}

        def costs():
            flops, peak = self.steps.operations(), PEAKS.get(jax.devices()[0].device_kind)
            return {
                "GFLOP/step": flops / 1e9,
                "GB/step": moved_bytes(compiled.as_text()) / 1e9 if k == 1 else None,
                "of peak": peak and flops / self.batch * rate / peak,
            }

        return attempt(row, costs) if version == "ours" else row  # a failure keeps the rate

    def infer(self, version: str) -> dict:
        """The rate of inference."""
        call = functools.partial(self.steps.infer, version)
        models.seconds_of(call, self.steps.wait, 1)
        return {"images/s": images_per_second(call, self.steps.wait, self.batch, self.settings)}


def torch_rate(name: str, batch: int, mode: str, settings: Settings, graphs: bool) -> dict:
    """The rate of torch.compile in bfloat16 (autocast), channels last. graphs: with CUDA graphs."""
    torch, family = models.torch, models.FAMILIES[name]
    # Else torch compiles a later network for any shape, and none after the eighth.
    torch._dynamo.reset()
    config = models.load_config(family)
    loss = models.torch_nets.loss_of(config.loss.name, config.loss.get("j"))
    scale = (config.preprocess.low, config.preprocess.high, models.RATE, models.MOMENTUM)
    steps = models.torch_nets.Steps(name, *random_batch(family, batch), loss, *scale)
    steps.use("channels_last")
    steps.net.compile(dynamic=False, mode="reduce-overhead" if graphs else "default")

    def call():
        # Anew for each step: autocast keeps converted weights until it ends.
        with torch.autocast(steps.device.type, torch.bfloat16):
            getattr(steps, mode)()

    for _ in range(3):  # the first calls compile, and choose kernels
        models.seconds_of(call, steps.wait, 1)
    return {"images/s": images_per_second(call, steps.wait, batch, settings)}


def rates(run: Run) -> Iterator[dict]:
    """Every family: ours and torch in training, then inference; linen; then larger batches."""
    settings = run.settings
    families: dict = {}
    theirs = () if why_no_torch() else ("torch",)
    graphs = ("torch, CUDA graphs",) if theirs and jax.default_backend() == "gpu" else ()
    groups = (
        *(("train", ("ours", *theirs)), ("infer", ("ours", *theirs))),
        *(("train", graphs), ("train", ("linen",)), ("infer", ("linen",))),
    )

    def measure(name, batch, mode, version):
        if version.startswith("torch"):
            return torch_rate(name, batch, mode, settings, version != "torch")
        if (name, batch) not in families:
            families[name, batch] = Family(name, batch, settings)
        try:
            return getattr(families[name, batch], mode)(version)
        except Exception:
            del families[name, batch]  # its state may be lost
            raise

    for turn in range(max(map(len, settings.batches.values()))):
        for mode, versions in groups:
            for (name, sizes), version in itertools.product(settings.batches.items(), versions):
                # CUDA graphs save the time between kernels, which only small networks notice.
                is_large = models.FAMILIES[name].shape[0] > 32
                if turn < len(sizes) and not (is_large and version in graphs):
                    labels = {"family": name, "mode": mode, "version": version}
                    arguments = (name, sizes[turn], mode, version)
                    labels |= {"batch": sizes[turn]}
                    yield attempt(labels, functools.partial(measure, *arguments))
        families.clear()


def gradients(run: Run) -> Iterator[dict]:
    """The time of strided input gradients, then each layer's gradients against float64."""
    batch, rounds = run.settings.gradient_batch, run.settings.rounds

    def milliseconds(size):
        plain, strided = (
            1e3 * checks.input_gradient_seconds(size, stride, batch, rounds) for stride in (1, 2)
        )
        return {"stride 1, ms": plain, "stride 2, ms": strided, "ratio": strided / plain}

    for size in (3, 1):
        labels = {"input gradient": f"conv {size}x{size}"}
        yield attempt(labels, functools.partial(milliseconds, size))
    for name in checks.LAYERS:
        if name.startswith(run.settings.layers):
            yield attempt({"layer": name}, functools.partial(checks.gradient_differences, name))


def loop(run: Run) -> Iterator[dict]:
    """The training loop against the bare step, with the recipe's own batch and precision."""
    settings = run.settings

    def measure(recipe, k):
        changes = {"epochs": 10_000.0, "steps_per_dispatch": k}
        exp = checks.synthetic_experiment(recipe, settings.examples, **changes)
        pairs = list(loop_benchmark.compare(exp, settings.loop_seconds, settings.rounds))
        bare, whole = (statistics.median(values) for values in zip(*pairs, strict=True))
        ratio = statistics.median(m / b for b, m in pairs)
        return {"bare, images/s": bare, "loop, images/s": whole, "ratio": ratio}

    for recipe, k in itertools.product(settings.loop_recipes, (settings.k, 1)):
        labels = {"recipe": recipe, "steps/call": k}
        yield attempt(labels, functools.partial(measure, recipe, k))


def _pixels(encoded: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(encoded)))


class Cifar10Archive:
    """CIFAR-10 from an archive of images, SPLIT/LABEL/NAME, as a module of `sources.EMBEDDED`."""

    IMAGE_SHAPE, CLASS_NAMES = sources.KNOWN["cifar10"]

    def __init__(self, path: str):
        files: dict = {"train": ([], []), "test": ([], [])}
        with tarfile.open(path) as archive:
            for member in filter(tarfile.TarInfo.isfile, archive):
                split, label, _ = member.name.split("/")
                images, labels = files[split]
                images.append(archive.extractfile(member).read())
                labels.append(self.CLASS_NAMES.index(label))
        with concurrent.futures.ThreadPoolExecutor() as pool:
            self.splits = {
                split: (list(pool.map(_pixels, images)), labels)
                for split, (images, labels) in files.items()
            }

    def load(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8 [n, 32, 32, 3] and labels int32 [n] of "train" or "test"."""
        images, labels = self.splits[split]
        return np.stack(images), np.array(labels, np.int32)


class StopAt(StopRequest):
    """Asks a training run to stop when run.deadline has passed."""

    def __init__(self, run: Run):
        super().__init__()
        self.run = run

    def __call__(self) -> bool:
        return super().__call__() or self.run.seconds_left() < 0


def recipe(run: Run) -> Iterator[dict]:
    """Trains recipes on CIFAR-10. A row has the test error after the last evaluation."""
    if not run.cifar10:
        yield {"recipe": ",".join(run.recipes), "error": "--cifar10 is not given"}
        return
    start = time.perf_counter()
    sources.EMBEDDED["cifar10"] = Cifar10Archive(run.cifar10)
    yield {"archive": run.cifar10, "seconds to read": time.perf_counter() - start}

    def train_recipe(name):
        config = load(name)
        config.num_devices, config.steps = 1, run.settings.recipe_steps
        config.steps_per_dispatch = run.settings.k
        config.evaluate.every_epochs, config.checkpoint.every_epochs = 10.0, 1000.0
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder, StopAt(run) as stop:
            with contextlib.suppress(train.Stopped):
                train.train_and_evaluate(config, Path(folder, "run"), stop=stop)
            metrics = Path(folder, "run", "metrics.jsonl")
            records = list(map(json.loads, metrics.read_text().splitlines()))
            shutil.copy(metrics, run.folder / f"{name.replace(':', '_')}.jsonl")
        last = [record for record in records if "test/top1_error" in record][-1:]
        return {
            "step": records[-1]["step"] if records else 0,
            "evaluated at step": last[0]["step"] if last else None,
            "test error, %": 100 * last[0]["test/top1_error"] if last else None,
            "seconds": time.perf_counter() - start,
        }

    for name in run.recipes:
        yield attempt({"recipe": name}, functools.partial(train_recipe, name))


def deterministic(run: Run) -> Iterator[dict]:
    """See `accelerator_checks.determinism`."""
    settings = run.settings
    with tempfile.TemporaryDirectory() as folder:
        yield from checks.determinism(
            settings.same_recipe, settings.same_steps, settings.k, Path(folder)
        )


def batch_sizes(run: Run) -> Iterator[dict]:
    """Ours and torch in training at several batch sizes, each compiled anew."""
    settings = run.settings
    for size, name in itertools.product(settings.sizes, settings.scaled):
        labels = {"family": name, "batch": size}
        yield attempt(
            labels | {"version": "ours"},
            lambda n=name, s=size: Family(n, s, settings).train("ours"),
        )
        if not why_no_torch():
            arguments = (name, size, "train", settings, False)
            yield attempt(labels | {"version": "torch"}, functools.partial(torch_rate, *arguments))


def options(run: Run) -> Iterator[dict]:
    """Training rates with XLA's options, one at a time, and the seconds that compiling takes."""

    def measure(family, lowered, chosen):
        start = time.perf_counter()
        compiled = lowered.compile(compiler_options=chosen)
        seconds = time.perf_counter() - start
        return {"images/s": family.rate(compiled), "seconds to compile": seconds}

    for name, batch in run.settings.scaled.items():
        family = Family(name, batch, run.settings)
        lowered = family.lower()
        for chosen in OPTIONS:
            text = ", ".join(f"{key}={value}" for key, value in chosen.items()) or "none"
            labels = {"family": name, "batch": batch, "option": text}
            yield attempt(labels, functools.partial(measure, family, lowered, chosen))


PARTS = {
    "rates": rates,
    "gradients": gradients,
    "loop": loop,
    "recipe": recipe,
    "deterministic": deterministic,
    "batch_sizes": batch_sizes,
    "options": options,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--cifar10", default="")
    parser.add_argument("--recipes", default="resnet_cifar10:20")
    parser.add_argument("--folder", type=Path, default=Path())
    arguments = parser.parse_args()
    deadline = time.perf_counter() + arguments.seconds
    # torch and other processes need a part of a GPU's memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    facts = models.setting(not why_no_torch(), models.use_cores(0))
    facts |= {"torch": facts.get("torch", why_no_torch()), "tiny": arguments.tiny}
    facts |= {"kind": jax.devices()[0].device_kind, "devices": jax.local_device_count()}
    print(FACTS + json.dumps(facts), flush=True)
    run = Run(
        TINY if arguments.tiny else FULL,
        arguments.cifar10,
        tuple(arguments.recipes.split(",")),
        arguments.folder,
        deadline,
    )
    for row in PARTS[arguments.part](run):
        print(ROW + json.dumps(row), flush=True)
        if run.seconds_left() <= 0:
            print(LIMIT, flush=True)
            break


if __name__ == "__main__":
    main()
