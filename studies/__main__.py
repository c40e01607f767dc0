"""Published claims, run again.

    python -m studies                           lists the studies and their verdicts
    python -m studies run NAME --scale=small    trains what is missing, and stores the result
    python -m studies report                    writes docs/studies from the stored results
    python -m studies sweep --config=lenet5 --seeds=3 --vary=model.activation=relu,tanh
    python -m studies compare RUN RUN ...       a table and a plot of runs

Runs are kept in --workdir (runs/studies). A command that was interrupted continues where it was.
--set=FIELD=VALUE changes a field of all runs, such as --set=dataset.data_dir=DATA. Results of the
scale "smoke" are printed only.
"""

import argparse
import ast
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import command_line
from command_line import expand
from errors import UserError
from train_lib.distributed import shell


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command. Returns the exit status, after one line on standard error if not 0."""
    parser = argparse.ArgumentParser(
        prog="python -m studies",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command")
    run = commands.add_parser("run", help="train the runs of a study")
    run.add_argument("name", help="a study, or all")
    run.add_argument("--scale", default="small", help="smoke, small or paper")
    run.add_argument("--workdir", default="runs/studies", help="folder of the runs")
    run.add_argument("--note", default="", help="a sentence for the page, about data or machine")
    run.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", dest="changes")
    commands.add_parser("report", help="write docs/studies")
    vary = commands.add_parser("sweep", help="train a config with several values and seeds")
    vary.add_argument("--config", required=True, help="file and argument, such as lenet5:mnist")
    vary.add_argument("--seeds", type=int, default=1, help="how many")
    vary.add_argument("--vary", action="append", default=[], metavar="FIELD=VALUE,VALUE")
    vary.add_argument("--workdir", required=True, help="folder of the runs")
    vary.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", dest="changes")
    several = commands.add_parser("compare", help="a table and a plot of runs")
    several.add_argument("runs", nargs="+", help="folders of runs")
    several.add_argument("--plot", default="curves.png", help="PNG file to write")
    arguments = parser.parse_args(argv)
    shell.silence_libraries()
    try:
        if arguments.command == "run":
            return run_studies(arguments, list(argv or sys.argv[1:]))
        elif arguments.command == "report":
            from studies import report

            print("\n".join(map(str, report.write())))
        elif arguments.command == "sweep":
            print(run_sweep(arguments))
        elif arguments.command == "compare":
            from studies import sweep

            print(sweep.compare_runs(list(map(expand, arguments.runs)), expand(arguments.plot)))
        else:
            print(overview())
    except UserError as error:
        print(f"studies: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def overview() -> str:
    """A table of all studies: the hours of each scale, the verdict, the claim."""
    from studies import engine, report

    lines = []
    for name in engine.names():
        study, stored = engine.find(name), report.load(name)
        hours = ", ".join(f"{scale} {s.hours:g} h" for scale, s in study.scales.items())
        verdict = f"{stored['verdict']} ({stored['scale']})" if stored else "not run"
        lines.append(f"{name:<20} {verdict:<32} {hours}\n    {study.claim} {study.source}")
    return "\n".join(lines)


def run_studies(arguments, flags: Sequence[str]) -> int:
    """Runs one study here, or all of them, each in a process of its own. Returns the exit status.

    flags: of the command.
    """
    from studies import engine

    if arguments.name != "all":
        run_study(arguments)
        return 0
    for name in engine.names():
        of_study = [name if flag == "all" else flag for flag in flags]
        status = subprocess.run([sys.executable, "-m", "studies", *of_study]).returncode
        if status:
            return status
    return 0


def run_study(arguments) -> None:
    """Trains a study, prints its table, and stores the result unless it is a smoke test."""
    from studies import engine, report

    name, changes = arguments.name, dict(map(_change, arguments.changes))
    study = engine.find(name)
    scale = engine.scale_of(study, arguments.scale)
    if study.devices > 1:
        engine.simulate_devices(study.devices)
    folder = expand(arguments.workdir) / name / arguments.scale
    done = list(engine.run_all(engine.jobs(scale, folder), changes))
    stored = engine.stored(name, arguments.scale, done)
    stored |= {"command": _command(arguments), "note": arguments.note}
    print(report.table(study, stored) + f"{name}: {stored['verdict']}")
    if arguments.scale != "smoke":
        engine.RESULTS.mkdir(exist_ok=True)
        path = engine.RESULTS / f"{name}.json"
        lines = (f"{json.dumps(key)}: {json.dumps(value)}" for key, value in stored.items())
        path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
        print(f"written to {path}: python -m studies report makes pages of it")


def _command(arguments) -> str:
    """The command that repeats a study, without the folders of this machine."""
    changes = [change for change in arguments.changes if not change.startswith("dataset.")]
    flags = [f"--scale={arguments.scale}", *(f"--set={change}" for change in changes)]
    if len(changes) < len(arguments.changes):
        flags.append("--set=dataset.data_dir=DATA")
    return shlex.join(["python", "-m", "studies", "run", arguments.name, *flags])


def run_sweep(arguments) -> str:
    """Trains all combinations of values. Returns their table."""
    from studies import sweep

    vary = {}
    for text in arguments.vary:
        name, values = _assignment("--vary", text)
        vary[name] = [_value(value) for value in values.split(",")]
    folder, changes = expand(arguments.workdir), dict(map(_change, arguments.changes))
    return sweep.sweep(arguments.config, vary, arguments.seeds, folder, changes)


def _change(text: str) -> tuple[str, Any]:
    """ "a.b=1" of --set as ("a.b", 1)."""
    name, value = _assignment("--set", text)
    return name, _value(value)


def _assignment(flag: str, text: str) -> tuple[str, str]:
    """The two sides of "=". Raises UserError for a text without it."""
    name, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"{flag}={text}: give FIELD=VALUE")
    return name, value


def _value(text: str) -> Any:
    """A Python literal, or else the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


if __name__ == "__main__":
    command_line.begin()
    os.environ["MPLBACKEND"] = "agg"  # as in `launch.environment`
    with shell.errors_as_one_line():
        sys.exit(main())
