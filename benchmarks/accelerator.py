"""What can an accelerator do with Canon? One command, one table, one JSON file.

    python -m benchmarks.accelerator --out=FILE.json [--parts=rates:300,gradients:60]
        [--seconds_budget=440] [--tiny] [--cifar10=cifar10.tar.xz] [--recipe=resnet_cifar10:20]

Runs the parts of `benchmarks.accelerator_parts`, the most valuable first, each with an optional
limit in seconds. A part ends after the measurement during which its limit passes. The JSON file is
written after every measurement, so an interrupted run loses nothing that it has measured. If a
measurement or a part fails, its error is recorded, and the next one starts.

--tiny uses small networks, batches and few steps: a rehearsal of all parts on a CPU.
docs/performance.md says what each part measures.
"""

import argparse
import dataclasses
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import jax

from benchmarks import accelerator_parts, models
from benchmarks.accelerator_parts import FULL, PARTS, TINY, Run
from errors import one_line
from train_lib.distributed import memory

Parts = Mapping[str, tuple[Callable, float]]  # {name: (function, limit in seconds)}


def cell(value) -> str:
    """A value of a row, for people."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)


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


def run_part(name: str, function: Callable, run: Run, document: dict, path: Path) -> None:
    """Adds the rows of a part to the document, one by one, until run.deadline has passed."""
    start = time.perf_counter()
    part = document["parts"][name] = {"seconds": 0.0, "rows": []}
    try:
        rows = function(run)
        while run.seconds_left() > 0 and (row := next(rows, None)):
            part["rows"].append(row)
            part["seconds"] = time.perf_counter() - start
            print(f"{name}: " + ", ".join(f"{k} {cell(v)}" for k, v in row.items()), flush=True)
            write(document, path)
        if run.seconds_left() <= 0:
            part["note"] = ", ended by its limit"
    except Exception as error:
        part["note"] = f", failed: {type(error).__name__}: {one_line(error)}"
        print(f"{name}{part['note']}", flush=True)
    part["seconds"] = time.perf_counter() - start
    write(document, path)


def measure(parts: Parts, run: Run, budget: float, facts: dict, path: Path) -> dict:
    """Runs the parts and returns the document. budget: seconds for all of them."""
    document: dict = {**facts, "parts": {}}
    end = time.perf_counter() + budget
    for name, (function, limit) in parts.items():
        deadline = min(end, time.perf_counter() + limit)
        run_part(name, function, dataclasses.replace(run, deadline=deadline), document, path)
    if "rates" in document["parts"]:
        rates = document["parts"]["rates"]
        summary = {"seconds": rates["seconds"], "rows": accelerator_parts.best(rates["rows"])}
        document["parts"]["rates, images/s at the best batch size"] = summary
        write(document, path)
    return document


def chosen(text: str) -> Parts:
    """The parts that --parts names, in its order. Raises ValueError for an unknown one."""
    if not text:
        return PARTS
    parts = {}
    for word in text.split(","):
        name, _, limit = word.partition(":")
        if name not in PARTS:
            raise ValueError(f"no part {name!r}: there are {', '.join(PARTS)}")
        parts[name] = (PARTS[name][0], float(limit) if limit else PARTS[name][1])
    return parts


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--parts", default="", help="names, each with :SECONDS if it has a limit")
    parser.add_argument("--seconds_budget", type=float, default=440.0, help="for all parts")
    parser.add_argument("--tiny", action="store_true", help="a rehearsal on a CPU")
    parser.add_argument("--cifar10", default="", help="archive of images, SPLIT/LABEL/NAME.jpg")
    parser.add_argument("--recipe", default="resnet_cifar10:20", help="a recipe for CIFAR-10")
    arguments = parser.parse_args()
    try:
        parts = chosen(arguments.parts)
    except ValueError as error:
        parser.error(f"--parts: {error}")

    memory.keep_freed_memory()
    # torch and other processes need a part of a GPU's memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    why_no_torch = accelerator_parts.why_no_torch()
    facts = models.setting(not why_no_torch, models.use_cores(0))
    facts |= {"torch": facts.get("torch", why_no_torch), "tiny": arguments.tiny}
    facts |= {"devices": jax.local_device_count(), "started": time.strftime("%Y-%m-%d %H:%M:%S")}
    print(", ".join(f"{key} {value}" for key, value in facts.items()), flush=True)
    run = Run(TINY if arguments.tiny else FULL, arguments.cifar10, arguments.recipe)
    print(table(measure(parts, run, arguments.seconds_budget, facts, arguments.out)))


if __name__ == "__main__":
    main()
