"""Damages a small checkpoint in every way, and looks at what restoring makes of it.

    python -m tests.stress.corruption [--every=N]

One bit flipped in every N-th byte of every file (which bit changes from byte to byte), every N-th
length to which a file can be cut, and each file gone, empty, zeroed or another checkpoint's. Each
time the newest checkpoint must come back as it was, or the one before it, with a line that says
so; anything else is a failure. All that again for a checkpoint that is the only one: it must come
back as it was, or be refused, however often it is tried. A child process does the work, so that a
crash or a hang counts.
"""

import argparse
import collections
import contextlib
import io
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import numpy as np

from errors import UserError
from train_lib.checkpoints import METRIC, Checkpoints


def state(step: int) -> dict:
    # More than 100 bytes: smaller values stand in the index, which has a checksum of its own.
    values = np.random.default_rng(step).standard_normal((8, 8)).astype(np.float32)
    return {"params": {"w": values, "b": np.float32([step])}, "step": np.int32(step)}


def prepare(folder: pathlib.Path) -> None:
    """Two checkpoints, of steps 3 and 10."""
    checkpoints = Checkpoints(folder)
    for step, error in ((3, 0.25), (10, 0.125)):
        checkpoints.save(step, state(step), {METRIC: error})
    checkpoints.close()


def damages(folder: pathlib.Path, every: int):
    """(what, file, content or None to remove it) for the newest checkpoint of a folder."""
    newest = folder / "checkpoints" / "10"
    for path in sorted(p for p in newest.rglob("*") if p.is_file()):
        content = path.read_bytes()
        name = path.relative_to(folder)
        for i in range(0, len(content), every):
            changed = bytearray(content)
            changed[i] ^= 1 << (i // every) % 8
            yield "flip", name, bytes(changed)
        for length in range(0, len(content), every):
            yield "truncate", name, content[:length]
        yield "missing", name, None
        yield "zeroed", name, bytes(len(content))
        other = folder / "checkpoints" / "3" / path.relative_to(newest)
        # Data files have random names: the one beside it is as good.
        others = [other] if other.exists() else sorted(p for p in other.parent.glob("*"))
        for found in others[:1]:
            if found.is_file() and found.read_bytes() != content:
                yield "swapped", name, found.read_bytes()


def alone(folder: pathlib.Path) -> str:
    """What restoring the only checkpoint gives: newest, refused, or what is wrong."""
    for _ in range(2):
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                checkpoints = Checkpoints(folder)
                found = checkpoints.restore(state(0))
                checkpoints.close()
        except UserError:
            continue
        if found is None:
            return "WRONG: a start from scratch"
        step, restored = found
        same = all(np.array_equal(restored["params"][n], v) for n, v in state(10)["params"].items())
        return "newest" if step == restored["step"] == 10 and same else "WRONG: other values"
    return "refused"


def outcome(folder: pathlib.Path) -> str:
    """What restoring gives: newest, older, or what is wrong."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        checkpoints = Checkpoints(folder)
        best = checkpoints.best_step()
        found = checkpoints.restore(state(0))
        checkpoints.close()
    if found is None:
        return "WRONG: nothing restored"
    step, restored = found
    for name, leaf in state(step)["params"].items():
        if not np.array_equal(restored["params"][name], leaf):
            return f"WRONG: another {name}"
    if int(restored["step"]) != step:
        return "WRONG: another step"
    if step == 3 and "checkpoints/10 is damaged" not in said.getvalue():
        return "WRONG: nothing said"
    if best not in (3, 10) or (step == 10 and best != 10):
        return f"WRONG: best step {best}"
    return "newest" if step == 10 else "older"


def twice(original: pathlib.Path, every: int):
    """`damages`, with whether the checkpoint is the only one."""
    for what, name, content in damages(original, every):
        yield what, name, content, False
    for what, name, content in damages(original, every):
        yield f"only one, {what}", name, content, True


def try_out(original: pathlib.Path, every: int, start: int) -> None:
    """Prints a line of JSON for each damage from number `start` on, before and after it."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch) / "run"
        for number, (what, name, content, only) in enumerate(twice(original, every)):
            if number < start:
                continue
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(original, folder)
            if only:
                shutil.rmtree(folder / "checkpoints" / "3")
            if content is None:
                (folder / name).unlink()
            else:
                (folder / name).write_bytes(content)
            print(json.dumps([number, what, str(name)]), flush=True)
            try:
                found = alone(folder) if only else outcome(folder)
            except Exception as error:
                found = f"WRONG: {type(error).__name__}: {str(error)[:200]}"
            print(json.dumps(found), flush=True)


def main() -> int:
    """The number of failures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        original, start = arguments.child
        try_out(pathlib.Path(original), arguments.every, int(start))
        return 0
    counts, failures, started = collections.Counter(), [], time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        original = pathlib.Path(scratch) / "original"
        prepare(original)
        total = sum(1 for _ in twice(original, arguments.every))
        start = 0
        while start < total:
            child = subprocess.Popen(
                [
                    *(sys.executable, "-m", "tests.stress.corruption"),
                    *(f"--every={arguments.every}", "--child", str(original), str(start)),
                ],
                stdout=subprocess.PIPE,
                text=True,
            )
            current = None
            for line in child.stdout:
                said = json.loads(line)
                if isinstance(said, list):
                    current = said
                    continue
                number, what, name = current
                counts[what, said if said in ("newest", "older", "refused") else "WRONG"] += 1
                if said.startswith("WRONG"):
                    failures.append(f"{what} {number} of {name}: {said}")
                start = number + 1
            code = child.wait()
            if start < total:
                failures.append(f"{current}: the process ended with {code}")
                counts[current[1], "WRONG"] += 1
                start = current[0] + 1
    for (what, found), count in sorted(counts.items()):
        print(f"{what:>20}  {found:<7} {count:>7,}")
    print(f"{sum(counts.values()):,} cases in {time.monotonic() - started:.0f} s")
    print(f"{len(failures)} failures", *failures[:40], sep="\n")
    return len(failures)


if __name__ == "__main__":
    sys.exit(bool(main()))
