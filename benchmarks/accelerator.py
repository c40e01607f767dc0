"""What can an accelerator do with Canon? One command, one table, one JSON file.

    python -m benchmarks.accelerator --out=FILE.json [--parts=rates:300,gradients:60]
        [--seconds_budget=480] [--tiny] [--cifar10=cifar10.tar.xz] [--recipes=resnet_cifar10:20]

Runs the parts of `benchmarks.accelerator_parts`, the most valuable first, each in a process of its
own and with a limit in seconds. A part ends after the measurement during which its limit passes; if
it has not ended 30 seconds later, its process is killed. The JSON file is written after every
measurement, so a part that crashes, hangs or is interrupted loses nothing that it has measured, and
the next one starts. FILE.log has what the processes write to standard error.

--tiny uses small networks, batches and few steps: a rehearsal of all parts on a CPU.
docs/performance.md says what each part measures, and what a machine needs.
"""

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

# {name: limit in seconds}, the most valuable first.
LIMITS = {
    "rates": 180.0,
    "gradients": 40.0,
    "loop": 25.0,
    "recipe": 130.0,
    "deterministic": 45.0,
    "batch_sizes": 30.0,
    "options": 30.0,
}
GRACE = 30.0  # seconds after its limit in which a part ends by itself
FACTS, ROW, LIMIT = "facts ", "row ", "limit"  # what the lines of a part begin with

Commands = Mapping[str, tuple[Sequence[str], float]]  # {name: (command, limit in seconds)}


def cell(value) -> str:
    """A value of a row, for people."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return "-" if value is None else str(value)


def table(document: dict) -> str:
    """All rows of the document. Rows of a part with the same keys share a heading."""
    lines = []
    for name, part in document["parts"].items():
        lines.append(f"\n{name}: {part['seconds']:.0f} s{part.get('note') or ''}")
        rows = part["rows"]
        shapes = dict.fromkeys(tuple(row) for row in rows)
        for keys in shapes:
            block = [list(keys)]
            block += [[cell(value) for value in row.values()] for row in rows if tuple(row) == keys]
            widths = [max(map(len, column)) for column in zip(*block, strict=True)]
            for cells in block:
                padded = (text.rjust(width) for text, width in zip(cells, widths, strict=True))
                lines.append("  " + "  ".join(padded))
    return "\n".join(lines)


def write(document: dict, path: Path) -> None:
    """Writes the JSON file. An interruption leaves the old one complete."""
    new = path.with_name(path.name + ".new")
    new.write_text(json.dumps(document, indent=1) + "\n")
    new.replace(path)


def run_part(name: str, command: Sequence[str], limit: float, document: dict, path: Path) -> None:
    """Adds the rows that a part prints to the document, one by one, until the part ends."""
    start = time.perf_counter()
    part = document["parts"][name] = {"seconds": 0.0, "rows": []}
    log = path.with_suffix(".log")
    with log.open("a") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
        )

    def kill():
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    watchdog = threading.Timer(limit + GRACE, kill)
    watchdog.start()
    try:
        for line in process.stdout:
            if line.startswith(FACTS):
                document.update(json.loads(line.removeprefix(FACTS)))
            elif line.startswith(ROW):
                row = json.loads(line.removeprefix(ROW))
                part["rows"].append(row)
                part["seconds"] = time.perf_counter() - start
                print(f"{name}: " + ", ".join(f"{k} {cell(v)}" for k, v in row.items()), flush=True)
                write(document, path)
            elif line.startswith(LIMIT):
                part["note"] = ", ended by its limit"
        if process.wait():
            last = (log.read_text(errors="replace").strip().splitlines() or [""])[-1]
            part["note"] = f", failed with status {process.returncode}: {last}"
            print(f"{name}{part['note']}", flush=True)
    finally:
        watchdog.cancel()
        kill()
    part["seconds"] = time.perf_counter() - start
    write(document, path)


def measure(commands: Commands, budget: float, path: Path) -> dict:
    """Runs the parts and returns the document. budget: seconds for all of them."""
    document: dict = {"started": time.strftime("%Y-%m-%d %H:%M:%S"), "parts": {}}
    end = time.perf_counter() + budget
    for name, (command, limit) in commands.items():
        limit = min(limit, end - time.perf_counter())
        if limit > 0:
            run_part(name, [*command, f"--seconds={limit}"], limit, document, path)
    rates = document["parts"].get("rates")
    if rates and rates["rows"]:
        heading = "rates, images/s at the best batch size"
        document["parts"][heading] = {
            "seconds": rates["seconds"],
            "rows": best(rates["rows"], document["kind"]),
        }
        write(document, path)
    return document


# Images/s of one card that trains ResNet-50: MLPerf Training, closed division; H100: to 7,450.
MLPERF = {"NVIDIA H100 80GB HBM3": 7160.0, "NVIDIA H200": 7950.0}
VERSIONS = ("ours", "linen", "torch")


def best(rows: list[dict], device: str = "") -> list[dict]:
    """Of the rows of `rates`: a row for each family and mode, each version at its best batch.

    A row for each mode follows, with the geometric means of the ratios over the families.
    device: its kind, as JAX names it. ResNet-50 is also compared with MLPerf's rate on it, if any.
    """
    found: dict = {}
    for row in rows:
        speeds = found.setdefault((row["mode"], row["family"]), dict.fromkeys(VERSIONS, 0.0))
        version = row["version"].partition(",")[0]  # "torch, CUDA graphs" is torch
        speeds[version] = max(speeds[version], row.get("images/s", 0.0))
    summary, ratios = [], {}
    for (mode, family), speeds in sorted(found.items(), reverse=True):
        row = {"mode": mode, "family": family, **speeds}
        for version in VERSIONS[1:]:
            ratio = speeds["ours"] / speeds[version] if speeds[version] else None
            row[f"ours/{version}"] = ratio
            ratios.setdefault((mode, f"ours/{version}"), []).extend([ratio] if ratio else [])
        is_published = (mode, family) == ("train", "resnet_50_v1.5") and device in MLPERF
        row["ours/MLPerf"] = row["ours"] / MLPERF[device] if is_published else None
        summary.append(row)
    for (mode, ratio), values in ratios.items():
        if values:
            labels = {"mode": mode, "ratio": ratio, "families": len(values)}
            summary.append(labels | {"geometric mean": statistics.geometric_mean(values)})
    return summary


def chosen(text: str) -> dict[str, float]:
    """The parts that --parts names, in its order. Raises ValueError for an unknown one."""
    if not text:
        return LIMITS
    limits = {}
    for word in text.split(","):
        name, _, limit = word.partition(":")
        if name not in LIMITS:
            raise ValueError(f"no part {name!r}: there are {', '.join(LIMITS)}")
        limits[name] = float(limit) if limit else LIMITS[name]
    return limits


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--parts", default="", help="names, each with :SECONDS if it has a limit")
    parser.add_argument("--seconds_budget", type=float, default=480.0, help="for all parts")
    parser.add_argument("--tiny", action="store_true", help="a rehearsal on a CPU")
    parser.add_argument("--cifar10", default="", help="archive of images, SPLIT/LABEL/NAME.jpg")
    parser.add_argument("--recipes", default="resnet_cifar10:20", help="for CIFAR-10, with commas")
    arguments = parser.parse_args()
    try:
        limits = chosen(arguments.parts)
    except ValueError as error:
        parser.error(f"--parts: {error}")
    flags = ["--tiny"] if arguments.tiny else []
    flags += [f"--cifar10={arguments.cifar10}", f"--recipes={arguments.recipes}"]
    flags.append(f"--folder={arguments.out.resolve().parent}")
    module = [sys.executable, "-m", "benchmarks.accelerator_parts"]
    commands = {name: ([*module, name, *flags], limit) for name, limit in limits.items()}
    print(table(measure(commands, arguments.seconds_budget, arguments.out)))


if __name__ == "__main__":
    main()
