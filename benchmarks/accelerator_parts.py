"""The parts of `benchmarks.accelerator`: each is a generator of rows, one for each measurement."""

import contextlib
import dataclasses
import functools
import io
import json
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
from configs.load import load
from errors import one_line
from input_pipeline import sources
from train_lib import train
from train_lib.distributed import parallel
from train_lib.distributed.signals import StopRequest

# Dense bfloat16 operations per second: NVIDIA's data sheets of the H100 SXM and the H200.
PEAKS = {"NVIDIA H100 80GB HBM3": 989e12, "NVIDIA H200": 989e12}
# Images/s of one card that trains ResNet-50: MLPerf Training, closed division.
MLPERF = "MLPerf: 7,160 to 7,450 (H100), 7,950 (H200)"
# XLA's options, one at a time. The first row has none.
OPTIONS = (
    {},
    {"xla_gpu_force_conv_nhwc": True},
    {"xla_gpu_experimental_enable_conv_fusion": True},
    {"xla_gpu_autotune_level": 0},
    {"xla_gpu_enable_command_buffer": ""},
    {"xla_gpu_enable_latency_hiding_scheduler": True},
    {"optimization_level": "O1"},
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """How large a measurement is.

    batches: {family: batch sizes of `rates`}, the most valuable first.
    scaled: {family: batch size of `options`}. sizes: of `batch_sizes`, for the same families.
    rounds, seconds: number and length of the slices that are timed.
    k: steps in a call; 0 for the config's.
    layers: beginnings of the names of layers. gradient_batch: for the times of input gradients.
    examples, loop_recipes, loop_seconds: of `loop`.
    recipe_steps: 0 for the whole recipe.
    same_recipes, same_steps: of `deterministic`.
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
    same_recipes: tuple[str, ...]
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
    scaled={"resnet_cifar10_20": 128, "resnet_50_v1.5": 256},
    sizes=(1024, 32, 512, 64, 256, 128),
    rounds=5,
    seconds=0.3,
    k=0,
    layers=("",),
    gradient_batch=256,
    examples=50_000,
    loop_recipes=("resnet_cifar10:20", "cuda_convnet:26pct"),
    loop_seconds=3.0,
    recipe_steps=0,
    same_recipes=("resnet_cifar10:20", "cuda_convnet:26pct"),
    same_steps=100,
)
TINY = Settings(
    batches={"mlp_300": (4, 8), "lenet5": (4,)},
    scaled={"mlp_300": 4},
    sizes=(2, 4),
    rounds=2,
    seconds=0.01,
    k=1,
    layers=("max pooling 2/2", "maxout", "fully", "LRN across"),
    gradient_batch=1,
    examples=500,
    loop_recipes=("cuda_convnet:26pct",),
    loop_seconds=0.2,
    recipe_steps=3,
    same_recipes=("cuda_convnet:26pct",),
    same_steps=3,
)


@dataclasses.dataclass(frozen=True)
class Run:
    """What a part gets. deadline: of time.perf_counter, in seconds."""

    settings: Settings
    cifar10: str = ""
    recipe: str = "resnet_cifar10:20"
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
        k = settings.k or config.steps_per_dispatch
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
        """The rate of training, the cost of a step by XLA, and the fraction of the card's peak."""
        compiled = self.lower(version).compile()
        # One step with plain primitives, before optimisation: no hidden calls of libraries.
        flops = self.lower("linen").cost_analysis()["flops"]
        rate = self.rate(compiled, version)  # it puts the compiled step into the program's place
        row = {"images/s": rate, "GFLOP/step": flops / 1e9}
        if self.steps.steps[version] == 1:  # XLA counts the steps of a scan only once
            row["GB/step"] = compiled.cost_analysis().get("bytes accessed", 0.0) / 1e9
        if peak := PEAKS.get(jax.devices()[0].device_kind):
            row["of peak"] = flops / self.batch * rate / peak
        return row

    def infer(self, version: str) -> dict:
        """The rate of inference."""
        call = functools.partial(self.steps.infer, version)
        models.seconds_of(call, self.steps.wait, 1)
        return {"images/s": images_per_second(call, self.steps.wait, self.batch, self.settings)}


def torch_rate(name: str, batch: int, mode: str, settings: Settings) -> dict:
    """The rate of torch.compile in bfloat16 (autocast), channels last."""
    torch, family = models.torch, models.FAMILIES[name]
    config = models.load_config(family)
    loss = models.torch_nets.loss_of(config.loss.name, config.loss.get("j"))
    scale = (config.preprocess.low, config.preprocess.high, models.RATE, models.MOMENTUM)
    steps = models.torch_nets.Steps(name, *random_batch(family, batch), loss, *scale)
    steps.use("channels_last")
    steps.net.compile()
    call = getattr(steps, mode)
    with torch.autocast(steps.device.type, torch.bfloat16):
        for _ in range(3):  # the first calls compile, and choose kernels
            models.seconds_of(call, steps.wait, 1)
        return {"images/s": images_per_second(call, steps.wait, batch, settings)}


def rates(run: Run) -> Iterator[dict]:
    """Every family: ours, torch, linen; training before inference; then with larger batches."""
    settings, rows = run.settings, []
    families: dict = {}
    versions = ("ours", "linen") if why_no_torch() else ("ours", "torch", "linen")

    def measure(name, batch, mode, version):
        if version == "torch":
            return torch_rate(name, batch, mode, settings)
        if (name, batch) not in families:
            families[name, batch] = Family(name, batch, settings)
        return getattr(families[name, batch], mode)(version)

    for turn in range(max(map(len, settings.batches.values()))):
        for mode in ("train", "infer"):
            for version in versions:
                for name, sizes in settings.batches.items():
                    if turn < len(sizes) and run.seconds_left() > 0:
                        labels = {"family": name, "mode": mode, "version": version}
                        arguments = (name, sizes[turn], mode, version)
                        rows.append(
                            attempt(
                                labels | {"batch": sizes[turn]},
                                functools.partial(measure, *arguments),
                            )
                        )
                        yield rows[-1]
        families.clear()


def best(rows: list[dict]) -> list[dict]:
    """Of the rows of `rates`: a row for each family and mode, each version at its best batch."""
    found: dict = {}
    for row in rows:
        speeds = found.setdefault((row["family"], row["mode"]), {})
        speeds[row["version"]] = max(row.get("images/s", 0.0), speeds.get(row["version"], 0.0))
    summary = []
    for (family, mode), speeds in found.items():
        row = {"family": family, "mode": mode}
        row |= {version: speeds.get(version, 0.0) for version in models.VERSIONS}
        for version in models.VERSIONS[1:]:
            other = row[version]
            row[f"ours/{version}"] = row["ours"] / other if other else None
        is_resnet_50 = (family, mode) == ("resnet_50_v1.5", "train")
        summary.append(row | {"published": MLPERF if is_resnet_50 else ""})
    return summary


def gradients(run: Run) -> Iterator[dict]:
    """Each layer's gradients in float32 against float64, then the time of strided ones."""

    def differences(name):
        return {p: checks.gradient_difference(name, p) for p in ("default", "highest")}

    for name in checks.LAYERS:
        if name.startswith(run.settings.layers):
            yield attempt({"layer": name}, functools.partial(differences, name))
    batch, rounds = run.settings.gradient_batch, run.settings.rounds

    def milliseconds(size):
        plain, strided = (
            1e3 * checks.input_gradient_seconds(size, stride, batch, rounds) for stride in (1, 2)
        )
        return {"stride 1, ms": plain, "stride 2, ms": strided, "ratio": strided / plain}

    for size in (3, 1):
        labels = {"input gradient": f"conv {size}x{size}"}
        yield attempt(labels, functools.partial(milliseconds, size))


def loop(run: Run) -> Iterator[dict]:
    """The training loop against the bare step, with the recipe's own batch and precision."""
    settings = run.settings

    def measure(recipe):
        exp = checks.synthetic_experiment(recipe, settings.examples, epochs=10_000.0)
        pairs = list(loop_benchmark.compare(exp, settings.loop_seconds, settings.rounds))
        bare, whole = (statistics.median(values) for values in zip(*pairs, strict=True))
        ratio = statistics.median(m / b for b, m in pairs)
        return {"bare, images/s": bare, "loop, images/s": whole, "ratio": ratio}

    for recipe in settings.loop_recipes:
        yield attempt({"recipe": recipe}, functools.partial(measure, recipe))


class Cifar10Archive:
    """CIFAR-10 from an archive of images, SPLIT/LABEL/NAME, as a module of `sources.EMBEDDED`."""

    IMAGE_SHAPE, CLASS_NAMES = sources.KNOWN["cifar10"]

    def __init__(self, path: str):
        self.splits: dict = {"train": ([], []), "test": ([], [])}
        with tarfile.open(path) as archive:
            for member in filter(tarfile.TarInfo.isfile, archive):
                split, label, _ = member.name.split("/")
                images, labels = self.splits[split]
                images.append(
                    np.asarray(Image.open(io.BytesIO(archive.extractfile(member).read())))
                )
                labels.append(self.CLASS_NAMES.index(label))

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
    """Trains a recipe on CIFAR-10. The row has the test error after the last evaluation."""
    if not run.cifar10:
        yield {"recipe": run.recipe, "error": "--cifar10 is not given"}
        return
    start = time.perf_counter()
    sources.EMBEDDED["cifar10"] = Cifar10Archive(run.cifar10)
    yield {"recipe": run.recipe, "seconds to read the archive": time.perf_counter() - start}
    config = load(run.recipe)
    config.num_devices, config.steps = 1, run.settings.recipe_steps
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, StopAt(run) as stop:
        with contextlib.suppress(train.Stopped):
            train.train_and_evaluate(config, Path(folder, "run"), stop=stop)
        lines = Path(folder, "run", "metrics.jsonl").read_text().splitlines()
        evaluated = [row for row in map(json.loads, lines) if "test/top1_error" in row]
    last = evaluated[-1] if evaluated else {}
    error = last.get("test/top1_error")
    yield {
        "recipe": run.recipe,
        "step": last.get("step", 0),
        "test error, %": error if error is None else 100 * error,
        "seconds": time.perf_counter() - start,
    }


def deterministic(run: Run) -> Iterator[dict]:
    """See `accelerator_checks.determinism`."""
    with tempfile.TemporaryDirectory() as folder:
        for number, name in enumerate(run.settings.same_recipes):
            place = Path(folder, str(number))
            yield from checks.determinism(name, run.settings.same_steps, place)


def batch_sizes(run: Run) -> Iterator[dict]:
    """Training rates at several batch sizes, each compiled anew."""
    for size in run.settings.sizes:
        for name in run.settings.scaled:
            labels = {"family": name, "batch": size}
            yield attempt(labels, lambda n=name, s=size: Family(n, s, run.settings).train("ours"))


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


# {name: (function, limit in seconds)}, the most valuable first.
PARTS = {
    "rates": (rates, 170.0),
    "gradients": (gradients, 30.0),
    "loop": (loop, 20.0),
    "recipe": (recipe, 110.0),
    "deterministic": (deterministic, 50.0),
    "batch_sizes": (batch_sizes, 30.0),
    "options": (options, 30.0),
}
