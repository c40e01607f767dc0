"""Lets calls that change or read files fail, one after the other, as full and broken disks do.

    python -m tests.stress.faults [--reading] [--every=N] [--errors=ENOSPC,...] [--first=I]
        [--last=J]

Runs a small training in this process (with `interpose.c`; needs a C compiler, Linux) and lets the
N-th call that changes a file below its workdir fail, for N = 1, 2, ... to the last: with ENOSPC,
EDQUOT and EFBIG all behind it too, as a full disk does, with EIO, EACCES and EMFILE it alone. The
run must end by itself with one line that names a file or folder of the run, or do without the call
and end as if undisturbed; in either case, once the fault is over, it must go on to the state and
records of the undisturbed run, to the bit.

With --reading a run goes on from its checkpoints, and calls that read fail. What cannot be read for
a while must not be taken for damaged: nothing is moved, and no older checkpoint taken. (But for the
last one, which was saved meanwhile: Orbax may leave out what it cannot read of its own parts, and
such a one is damaged indeed.)
"""

import argparse
import collections
import contextlib
import ctypes
import dataclasses
import errno
import io
import os
import pathlib
import shutil
import sys
import tempfile
import time

from errors import UserError
from tests.stress import runs
from train_lib import recorder
from train_lib.checkpoints import DAMAGED
from train_lib.train import Stopped

EVERY = "ENOSPC,EIO,EACCES,EMFILE"
LASTING = ("ENOSPC", "EDQUOT", "EFBIG")


def with_interposer(folder: pathlib.Path) -> None:
    """Starts this program again with the library loaded, if it is not yet."""
    if "FAULT_BELOW" in os.environ:
        return
    library = runs.build_interposer(pathlib.Path(tempfile.mkdtemp(prefix="canon-faults-")))
    extra = {"LD_PRELOAD": str(library), "FAULT_BELOW": str(folder)}
    command = [sys.executable, "-m", "tests.stress.faults", *sys.argv[1:]]
    os.execve(sys.executable, command, runs.environment(**extra))


def attempt(workdir: pathlib.Path, error: str, at: int, armed: pathlib.Path) -> str:
    """Runs with the fault: "completed", "refused", or what is wrong."""
    os.environ["FAULT_ERRNO"] = str(getattr(errno, error))
    os.environ["FAULT_FROM"] = str(int(error in LASTING))
    os.environ["FAULT_AT"] = str(at)

    @contextlib.contextmanager
    def arm():
        ctypes.CDLL(None).interpose_reset()
        armed.write_text("")
        try:
            yield
        finally:
            armed.unlink(missing_ok=True)

    try:
        wrong = runs.finish(workdir, arm).wrong
    except UserError as refusal:
        line = str(refusal)
        if "\n" in line or str(workdir) not in line:
            return f"no clear line: {line}"
        return "refused"
    except BaseException as broken:
        return f"{type(broken).__name__}: {broken}"
    return "; ".join(wrong) or "completed"


def begun(folder: pathlib.Path) -> pathlib.Path:
    """A run that stopped in its middle, with three checkpoints."""
    between = recorder.Recorder.between_steps

    def stopping(run, state, step):
        found = between(run, state, step)
        if step == 15:
            run.stop.signal_name = "a test"
        return found

    recorder.Recorder.between_steps = stopping
    with contextlib.suppress(Stopped):
        runs.finish(folder)
    recorder.Recorder.between_steps = between
    assert 15 < runs.newest(folder) < runs.STEPS
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--reading", action="store_true")
    parser.add_argument("--errors", default="", help="by default all that make sense")
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--last", type=int, default=0, help="0: the last there is")
    arguments = parser.parse_args()
    folder = pathlib.Path(os.environ.get("FAULT_BELOW") or tempfile.mkdtemp(prefix="canon-"))
    with_interposer(folder)
    runs.use_compilation_cache()
    workdir, armed, log = folder / "run", folder.with_name(folder.name + "-armed"), None
    os.environ["FAULT_ARMED"] = str(armed)
    os.environ["FAULT_READS"] = str(int(arguments.reading))
    errors = arguments.errors or ("EIO,EACCES,EMFILE" if arguments.reading else EVERY)
    with contextlib.redirect_stderr(io.StringIO()):
        expected = runs.finish(workdir)
        shutil.rmtree(workdir)
        start = begun(folder.with_name(folder.name + "-begun")) if arguments.reading else None
        if start:
            shutil.copytree(start, workdir)
        log = folder.with_name(folder.name + "-calls")
        os.environ["FAULT_LOG"] = str(log)
        counted = attempt(workdir, "EIO", 0, armed)
    os.environ["FAULT_LOG"] = ""
    calls = [line.split(" ", 2) for line in log.read_text().splitlines()]
    what = "read a file of a run that goes on" if start else "change a file in a run"
    print(f"{len(calls)} calls that {what} ({counted})")
    print(dict(collections.Counter(name for _, name, _ in calls)), flush=True)
    counts, failures, started = collections.Counter(), [], time.monotonic()
    last = arguments.last or len(calls)
    for error in errors.split(","):
        for at in range(arguments.first, last + 1, arguments.every):
            shutil.rmtree(workdir, ignore_errors=True)
            if start:
                shutil.copytree(start, workdir)
            said = io.StringIO()
            with contextlib.redirect_stderr(said):
                found = attempt(workdir, error, at, armed)
                try:
                    end = runs.finish(workdir)
                    damaged = {path.name for path in (workdir / DAMAGED).glob("*")}
                    if start and damaged == {str(runs.STEPS)}:
                        end = dataclasses.replace(end, wrong=())  # see above
                    wrong = end.differences(expected)
                except BaseException as broken:
                    wrong = [f"afterwards {type(broken).__name__}: {broken}"]
            if found not in ("completed", "refused"):
                wrong = [found, *wrong]
            counts[error, "WRONG" if wrong else found] += 1
            if wrong:
                _, name, path = calls[at - 1]
                failures.append(f"{error} at {at} ({name} {path}): {'; '.join(wrong[:3])}"[:600])
                print(failures[-1], flush=True)
    for (error, found), count in sorted(counts.items()):
        print(f"{error:>8}  {found:<10} {count:>6,}")
    print(f"{sum(counts.values()):,} cases in {time.monotonic() - started:.0f} s")
    print(f"{len(failures)} failures")
    shutil.rmtree(folder, ignore_errors=True)
    if start:
        shutil.rmtree(start, ignore_errors=True)
    return len(failures)


if __name__ == "__main__":
    sys.exit(bool(main()))
