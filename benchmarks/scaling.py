"""How would a recipe scale? Reads what its compiled step sends between devices, and predicts.

    python -m benchmarks.scaling [--only=resnet:50,vgg:D,...] [--numbers=8,32,128,1024] [--out=FILE]

Read: the train step of each config is compiled for eight simulated CPU devices, and its collective
operations are read from its HLO. Nothing is run, and no data set is needed. The script checks that
they are one sum over devices of the gradient, of BatchNorm's statistics and of four numbers. For
AlexNet it also reads, before compilation, what two devices exchange that share the network.

Predicted, never measured: everything else. It follows from the bytes, from the multiply-adds of
`models.summary` and from the ASSUMED hardware below. docs/scaling.md gives the formulas.
"""

import argparse
import collections
import dataclasses
import importlib
import json
import math
import re
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from input_pipeline import sources
from input_pipeline.statistics import Statistics
from models import summary
from train_lib import experiment
from train_lib import state as state_lib
from train_lib.distributed import parallel
from train_lib.steps import make_train_step, several, sharing_stop

DEVICES = 8
RECIPES = (
    *("lenet5:digits", "lenet5:mnist", "mlp:300", "connectivity:local", "connectivity:shared"),
    *("maxout:mnist_dense", "maxout:mnist_conv", "maxout:cifar10"),
    *("cuda_convnet:18pct", "cuda_convnet:26pct", "cuda_convnet:13pct", "cuda_convnet:11pct"),
    *("resnet_cifar10:20", "resnet_cifar10:56", "resnet_cifar10:110"),
    *("alexnet:two_tower", "alexnet:one_tower", "googlenet:lrn", "googlenet:batch_norm"),
    *("vgg:A", "vgg:A-LRN", "vgg:B", "vgg:C", "vgg:D", "vgg:E"),
    *("resnet:18", "resnet:34", "resnet:50", "resnet:101", "resnet:152"),
)
SCALARS = {"loss": 4, "errors": 4, "examples": 4, "stop": 4}  # bytes; sums for the log, and to stop

# --- What the compiled step sends ---

_OPERATIONS = "all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all"
_COLLECTIVE = re.compile(rf"^\s*(?:ROOT )?%?[\w.-]+ = (.+?) ({_OPERATIONS})(-start)?\(", re.M)
_TENSOR = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\]")
# In StableHLO the type of the result follows the arrow, perhaps some lines below, after a region.
_REQUESTED = re.compile(
    rf'"?stablehlo\.({_OPERATIONS.replace("-", "_")}|collective_broadcast)"?\(.*?-> ([^\n]+)', re.S
)
_REQUESTED_TENSOR = re.compile(r"tensor<((?:\d+x)*)(\w+)>")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective operation. tensors: (dtype, shape) of each of its results."""

    operation: str
    tensors: tuple[tuple[str, tuple[int, ...]], ...]

    @property
    def sizes(self) -> list[int]:
        """Bytes of each tensor."""
        return [math.prod(shape) * _bits(dtype) // 8 for dtype, shape in self.tensors]

    @property
    def bytes(self) -> int:
        return sum(self.sizes)


def _bits(dtype: str) -> int:
    return 8 if dtype == "pred" else int(re.search(r"\d+", dtype)[0])


def collectives(hlo: str) -> list[Collective]:
    """The collectives in the text of a compiled module.

    A collective inside the body of a loop over steps counts once: it happens once per step.
    """
    operations = []
    for result, operation, start in _COLLECTIVE.findall(hlo):
        # Those in two halves give their operands first, then their results; all-reduce does not.
        if start and operation != "all-reduce":
            result = _elements(result)[1]
        tensors = tuple(
            (dtype, tuple(int(size) for size in sizes.split(",") if size))
            for dtype, sizes in _TENSOR.findall(result)
        )
        operations.append(Collective(operation, tensors))
    return operations


def requested(lowered) -> list[Collective]:
    """The collectives in a lowered step, before the compiler merges them.

    The step is written for one device (`pmap`), so that a compiler has no reason to add others.
    """
    operations = []
    for operation, result in _REQUESTED.findall(lowered.as_text()):
        tensors = tuple(
            ({"i1": "pred"}.get(dtype, dtype), tuple(map(int, sizes.split("x")[:-1])))
            for sizes, dtype in _REQUESTED_TENSOR.findall(result)
        )
        operations.append(Collective(operation.replace("_", "-"), tensors))
    return operations


def sent(lowered) -> list[Collective]:
    """The collectives of a lowered step after compilation, without optimal machine code."""
    options = {"xla_backend_optimization_level": 0}  # which would take as long again
    return collectives(lowered.compile(compiler_options=options).as_text())


def _elements(text: str) -> list[str]:
    """The elements of a tuple type, "(f32[4]{0}, (u8[2], u8[3]))", without its own brackets."""
    depth, parts = 0, [""]
    for letter in text[1:-1]:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def load(recipe: str):
    """The config of a recipe, FILE:ARGUMENT."""
    file, _, argument = recipe.partition(":")
    return importlib.import_module(f"configs.{file}").get_config(*filter(None, [argument]))


def prepare(config) -> experiment.Experiment:
    """The experiment, with statistics of the training set that are all 0: only shapes matter."""
    height, width, channels = sources.dataset_info(config.dataset).image_shape
    view = config.view
    if view.size:
        height = width = view.test_scale if view.square else view.size
    colour = np.zeros(channels)
    image = np.zeros((height, width, channels), np.float32)
    axes = np.zeros((channels, channels))
    known = experiment.KnownData(
        # The number of examples moves constants only.
        dataclasses.replace(sources.dataset_info(config.dataset), train_examples=100_000),
        Statistics(image, colour, colour, axes, 1),
    )
    return experiment.resolve(config, known=known)


def lower(exp: experiment.Experiment, share: int):
    """The train step for all devices, lowered, and the shapes of its state.

    share: images a device. As in a run of several processes, which agree on when to stop.
    """
    config, devices, steps = exp.config, len(exp.devices), exp.config.steps_per_dispatch
    averaged = config.optimizer.averaging > 0
    state = jax.eval_shape(
        lambda: state_lib.draw(0, exp.module, exp.optimizer, exp.input_shape, averaged)
    )
    batch = {
        "image": jax.ShapeDtypeStruct((devices, steps, share, *image_shape(exp)), jnp.uint8),
        "label": jax.ShapeDtypeStruct((devices, steps, share), jnp.int32),
    }
    if config.view.size:
        batch["offset"] = jax.ShapeDtypeStruct((devices, steps, share, 2), jnp.int32)
    stop = jax.ShapeDtypeStruct((devices,), jnp.int32)
    train_steps = sharing_stop(several(make_train_step(exp.recipe)))
    return parallel.train_step(train_steps, exp.devices).lower(state, (batch, stop)), state


def image_shape(exp: experiment.Experiment) -> tuple[int, int, int]:
    """(height, width, channels) of the uint8 images that the host sends to the devices."""
    side = exp.config.view.size
    return (side, side, exp.info.image_shape[2]) if side else exp.info.image_shape


def reduced(state) -> dict[str, list[int]]:
    """The tensors that a step should sum over devices, in bytes."""

    def sizes(tree):
        return [leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)]

    return {
        "gradient": sizes(state.params),
        "statistics": sizes(state.model_state),
        "scalars": list(SCALARS.values()),
    }


def read(recipe: str) -> dict:
    """The row of a recipe in the tables, without running it.

    Raises AssertionError if its step sends other tensors than `reduced` lists. Up to a thousandth
    of the bytes may be missing: XLA sums two equal tensors only once.
    """
    start = time.perf_counter()
    exp = prepare(load(recipe))
    config = exp.config
    share = max(1, round(config.batch_size / DEVICES))  # a batch of 100 becomes one of 96
    lowered, state = lower(exp, share)
    operations = sent(lowered)
    expected = reduced(state)
    row = {
        "recipe": recipe,
        "batch": config.batch_size,
        "share": share,
        **{name: sum(sizes) for name, sizes in expected.items()},
        "sums": len(requested(lowered)),
        "reductions": len(operations),
        "bytes": sum(one.bytes for one in operations),
        "macs": _macs(exp),
        "image": math.prod(image_shape(exp)),
        "view": _view(config.view),
        "seconds": time.perf_counter() - start,
    }
    summed = collections.Counter(size for one in operations for size in one.sizes)
    expected_sizes = collections.Counter(size for sizes in expected.values() for size in sizes)
    row["merged"] = sum((expected_sizes - summed).elements())
    assert {one.operation for one in operations} == {"all-reduce"}, operations
    unexpected = summed - expected_sizes
    assert not unexpected and row["merged"] < row["bytes"] / 1000, (row, unexpected)
    return row


def _view(view) -> str | None:
    """How the host cuts images, as a key of `DECODED`; None where it holds arrays."""
    if not view.size:
        return None
    larger = view.train == "scale" and max(view.train_scale) > 256
    return "larger scale" if larger else view.train


def _macs(exp: experiment.Experiment) -> int:
    """Multiply-adds of the forward pass of one image in training."""
    description = summary.describe(exp.module, exp.config.model.name, exp.input_shape)
    parts = [description, description.get("training_only")]
    return sum(part["total"]["macs"] for part in parts if part)


# --- Predictions ---


@dataclasses.dataclass(frozen=True)
class Cluster:
    """ASSUMED hardware: makers' figures and guesses, no measurements.

    peak: FLOP/s of one accelerator. on_host: accelerators a host. inside: bytes/s that each sends
    to its neighbour within a host. between: bytes/s that a host sends to the next one. latency:
    seconds for a message between hosts; within one it is INSIDE_LATENCY.
    """

    peak: float
    on_host: int
    inside: float
    between: float
    latency: float


# ASSUMED: the share of the peak at which networks compute. A guess, too high for most of them. A
# network that computes more slowly needs less data per second, and waits less for its links.
UTILISATION = 0.3
SHORT = 1e-3  # seconds of computing: shorter steps take longer, for what is left out here
INSIDE_LATENCY = 3e-6
TF32, NVLINK, GBIT = 495e12, 450e9, 1e9 / 8
CLUSTERS = {
    "8x400": Cluster(TF32, 8, NVLINK, 8 * 400 * GBIT, 10e-6),  # H100, InfiniBand, one card each
    "400": Cluster(TF32, 8, NVLINK, 400 * GBIT, 10e-6),  # H100, InfiniBand, one card a host
    "100": Cluster(TF32, 8, NVLINK, 100 * GBIT, 30e-6),  # H100, Ethernet, one card a host
    # TPU v4. A ring along one axis of the torus: two of a chip's six links of 50 GB/s.
    "ICI": Cluster(275e12, 4, 100e9, 100e9, 3e-6),
}
# Images that one core decodes a second: measured, the tables of `benchmarks/README.md` for one
# core. A scale above 256 takes longer, and no copy of 256 pixels has enough of them.
DECODED = {
    "area": {"JPEG": 478, "copy": 780, "raw": 1253},
    "scale": {"JPEG": 400, "copy": 1137, "raw": 3281},
    "larger scale": {"JPEG": 400},
}


def compute_seconds(macs: int, share: float, cluster: Cluster) -> float:
    """Forward and backward of `share` images: three times the forward's 2 FLOPs a multiply-add."""
    return 3 * 2 * macs * share / (cluster.peak * UTILISATION)


def reduce_seconds(size: int, reductions: int, number: int, cluster: Cluster) -> float:
    """The sum of `size` bytes over `number` accelerators, in so many reductions.

    A ring sends 2 (n - 1) / n of the bytes over its slowest link; as latency, a tree's
    2 log2 n messages for each reduction.
    """
    alone = number <= cluster.on_host
    bandwidth = cluster.inside if alone else min(cluster.inside, cluster.between)
    latency = INSIDE_LATENCY if alone else cluster.latency
    messages = 2 * math.ceil(math.log2(number)) * reductions
    return 2 * (number - 1) / number * size / bandwidth + messages * latency


def efficiencies(row: dict, share: float, number: int, cluster: Cluster) -> tuple[float, float]:
    """The shares of the time in which `number` accelerators compute, `share` images each.

    (without overlap, with the reduction hidden behind the backward pass, two thirds of the work).
    """
    compute = compute_seconds(row["macs"], share, cluster)
    reduce = reduce_seconds(row["bytes"], row["reductions"], number, cluster)
    hidden = compute / 3 + max(compute * 2 / 3, reduce)
    return compute / (compute + reduce), compute / hidden


def host_rate(row: dict, cluster: Cluster) -> float:
    """Images per second that a host must deliver if its accelerators never wait."""
    return cluster.on_host / compute_seconds(row["macs"], 1, cluster)


# --- Two devices that share AlexNet ---

MEETINGS = ("conv3", "fc6", "fc7", "fc8", "loss")  # what sees both towers
SHARED = {"num_devices": 2, "devices_per_network": 2, "model.lrn_over": "tower"}
# ASSUMED: bytes/s in one direction, makers' figures.
LINKS = {"PCIe 2.0 x16": 8e9, "PCIe 5.0 x16": 63e9, "NVLink": NVLINK}


def exchanged() -> dict[str, tuple[int, int]]:
    """The bytes that a device sends for an image, forward and backward, where the towers meet."""
    config = load("alexnet:two_tower")
    config.update_from_flattened_dict(SHARED)
    operations = requested(lower(prepare(config), 1)[0])
    # A device sends the half that it has, and backward the gradient of the other half.
    forward = [one.bytes // 2 for one in operations if one.operation == "all-gather"]
    backward = [one.bytes for one in operations if one.operation == "reduce-scatter"]
    pairs = zip(forward, [*reversed(backward), 0], strict=True)
    return dict(zip(MEETINGS, pairs, strict=True))


def table_of_exchange(row: dict, sizes: dict[str, tuple[int, int]]) -> str:
    """What the devices send, and the milliseconds of a step of the recipe's batch on each link.

    row: of AlexNet. data-parallel: each device has the whole network, and half of the batch.
    """
    lines = [("bytes for an image", "forward", "backward")]
    lines += [(name, *(f"{size:,}" for size in pair)) for name, pair in sizes.items()]
    total = sum(map(sum, sizes.values()))
    lines.append(("total", *(f"{sum(column):,}" for column in zip(*sizes.values(), strict=True))))
    links = [("ms for a step", *LINKS)]
    for name, size in (("towers", total * row["batch"]), ("data-parallel", row["bytes"])):
        links.append((name, *(f"{1e3 * size / speed:.2f}" for speed in LINKS.values())))
    compute = 1e3 * compute_seconds(row["macs"], row["batch"] / 2, CLUSTERS["8x400"])
    return f"{table(lines)}\n\n{table(links)}\n\ncomputing on H100: {compute:.2f} ms"


# --- Tables ---


def table(rows: list[tuple]) -> str:
    """Aligned columns: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def table_of_collectives(rows: list[dict]) -> str:
    names = ("gradient", "statistics", "scalars", "merged", "bytes", "sums", "reductions")
    lines = [("", *names)]
    lines += [(row["recipe"], *(f"{row[name]:,}" for name in names)) for row in rows]
    return table(lines)


def table_of_data(rows: list[dict], cluster: Cluster) -> str:
    kinds = ("JPEG", "copy", "raw")
    lines = [
        ("", "GMAC", "bytes", "a host:", "", "cores:", "", ""),
        ("", "/image", "/image", "images/s", "MB/s", *kinds),
    ]
    for row in rows:
        rate, decoded = host_rate(row, cluster), DECODED.get(row["view"], {})
        cores = (f"{rate / decoded[kind]:,.0f}" if kind in decoded else "-" for kind in kinds)
        rate = round(rate, 2 - int(math.log10(rate)))  # three digits
        megabytes = f"{rate * row['image'] / 1e6:,.0f}"
        macs, image = f"{row['macs'] / 1e9:.4f}", f"{row['image']:,}"
        lines.append((marked(row, cluster), macs, image, f"{rate:,.0f}", megabytes, *cores))
    return table(lines)


def table_of_predictions(rows: list[dict], numbers: list[int], divided: bool) -> str:
    """divided: the recipe's batch over all accelerators; else an eighth of it on each of them."""
    columns = [(name, number) for name in CLUSTERS for number in numbers]
    lines = [
        ("", *(name if number == numbers[0] else "" for name, number in columns)),
        ("", *(str(number) for _, number in columns)),
    ]
    for row in rows:
        cells = [marked(row, CLUSTERS["8x400"])]
        for name, number in columns:
            if divided and row["batch"] % number:
                cells.append("-")
                continue
            share = row["batch"] / number if divided else row["share"]
            low, high = (f"{100 * e:.0f}" for e in efficiencies(row, share, number, CLUSTERS[name]))
            cells.append(low if low == high else f"{low}-{high}")
        lines.append(tuple(cells))
    return table(lines)


def marked(row: dict, cluster: Cluster) -> str:
    """The recipe, with a star where its step is so short that a prediction says little."""
    short = compute_seconds(row["macs"], row["share"], cluster) < SHORT
    return row["recipe"] + (" *" if short else "")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="FILE:ARGUMENT of configs, commas between")
    parser.add_argument("--numbers", default="8,32,128,1024", help="of accelerators")
    parser.add_argument("--out", default="", help="JSON file to write")
    arguments = parser.parse_args()
    numbers = [int(number) for number in arguments.numbers.split(",")]
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", DEVICES)

    rows = []
    for recipe in arguments.only.split(",") if arguments.only else RECIPES:
        try:
            rows.append(read(recipe))
        except (ModuleNotFoundError, ValueError) as error:
            parser.error(f"--only={recipe}: {error}")
        print(f"{recipe}: {rows[-1]['seconds']:.1f} s", flush=True)
        jax.clear_caches()
    if arguments.out:
        facts = {"jax": jax.__version__, "devices": DEVICES, "rows": rows}
        Path(arguments.out).write_text(json.dumps(facts, indent=2) + "\n")
    print(f"\nRead from the steps that JAX {jax.__version__} compiles for {DEVICES} CPU devices\n")
    print(table_of_collectives(rows))
    print(f"\nPREDICTED at {UTILISATION:.0%} of the peak, hosts of 8 H100: data to hand over")
    print(f"(* less than {SHORT * 1e3:g} ms of computing a step)\n")
    print(table_of_data(rows, CLUSTERS["8x400"]))
    words = "an eighth of the recipe's batch on each", "the recipe's batch divided"
    for divided in (False, True):
        print(f"\nPREDICTED efficiency, %, {words[divided]}: without overlap - with full overlap\n")
        print(table_of_predictions(rows, numbers, divided))

    shared = [row for row in rows if row["recipe"] == "alexnet:two_tower"]
    if shared:
        print("\nalexnet:two_tower on two devices: bytes read from its step, PREDICTED times\n")
        print(table_of_exchange(*shared, exchanged()))


if __name__ == "__main__":
    main()
