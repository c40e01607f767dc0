"""Several processes on the loopback interface, one of which may be killed or stopped.

    python -m tests.stress.together [--count=2] [--moments=A,B]
        [--peer_timeout=30] [--start_timeout=50]

runs a training of COUNT processes for each combination of victim, signal (SIGKILL or SIGSTOP) and
moment (see run_process.py), and harms the victim at that moment. The other processes must end with
status 75 and a last line that names the victim, or with 0 if all was done before. Prints the time
from the signal to the end of the last process.
"""

import argparse
import contextlib
import itertools
import json
import os
import pathlib
import random
import socket
import subprocess
import sys
import tempfile
import time

TESTS = pathlib.Path(__file__).parents[1]
SCRIPT = TESTS / "train_lib" / "distributed" / "run_process.py"
MOMENTS = {  # and the step where there is one
    "starting": 0,
    "connecting": 0,
    "restoring": 0,
    "compiling": 0,
    "dispatch": 7,
    "between": 10,
    "saving": 10,
    "evaluating": 15,
    "parting": 0,
    "leaving": 0,
}


def free_port():
    """A free port, of which each worker of pytest-xdist has others."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    for port in random.sample(range(20_000 + 500 * worker, 20_500 + 500 * worker), 100):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise OSError("no free port")


def run_together(workdir, count, harm=None, victim=None, seconds=150, starts=None, **options):
    """[(exit status or None if left alone, standard output and error, time of its end)] of each.

    harm: [SIGNAL, MOMENT, STEP] for process `victim`; options: see run_process.py.
    """
    port, options = free_port(), {"devices": 4 // count, **options}
    if harm:
        options |= {"harm": harm, "victim": victim}
    environment = {**os.environ, "PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}"}
    started = []
    for index in range(count) if starts is None else starts:
        arguments = [port, count, index, workdir, json.dumps(options)]
        started.append(
            subprocess.Popen(
                [sys.executable, SCRIPT, *map(str, arguments)],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    ends = []
    try:
        for index, process in enumerate(started):
            if harm and harm[0] == "SIGSTOP" and index == victim:
                ends.append((None, "", "", 0))
                continue
            out, err = process.communicate(timeout=seconds)
            ends.append((process.returncode, out, err, time.time()))
    finally:
        for process in started:
            process.kill()
            process.communicate()
    return ends


def main() -> int:
    """The number of cases that did not end as they should."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=2)
    parser.add_argument("--peer_timeout", type=float, default=30)
    parser.add_argument("--start_timeout", type=float, default=50)
    parser.add_argument("--moments", default=",".join(MOMENTS))
    arguments = parser.parse_args()
    failures, longest = 0, 0.0
    for name, moment, victim in itertools.product(
        ("SIGKILL", "SIGSTOP"), arguments.moments.split(","), range(arguments.count)
    ):
        with tempfile.TemporaryDirectory() as folder:
            ends = run_together(
                pathlib.Path(folder) / "run",
                arguments.count,
                harm=(name, moment, MOMENTS[moment]),
                victim=victim,
                net="mlp",
                devices=1,
                peer_timeout=arguments.peer_timeout,
                start_timeout=arguments.start_timeout,
                time_file=str(pathlib.Path(folder) / "time"),
            )
            harmed = float((pathlib.Path(folder) / "time").read_text())
        others = [end for i, end in enumerate(ends) if i != victim]
        # One that never came is missing; without process 0 nobody is there to say who.
        names = (f"process {victim} of", f"processes {victim} of", "process 0 cannot")
        well = all(
            "Traceback" not in err
            and (
                (code == 75 and any(n in (err.splitlines() or [""])[-1] for n in names))
                or (code == 0 and moment == "leaving")
            )
            for code, _, err, _ in others
        )
        seconds = max(ended for *_, ended in others) - harmed
        longest, failures = max(longest, seconds), failures + (not well)
        print(
            f"{name} {victim} {moment:>10}: {seconds:5.1f} s{'' if well else '  WRONG'}",
            *([] if well else [(code, err[-300:]) for code, _, err, _ in others]),
            flush=True,
        )
    print(f"{failures} failures; the longest took {longest:.1f} s")
    return failures


if __name__ == "__main__":
    sys.exit(bool(main()))
