"""Published claims, run again.

    python -m studies                           lists the studies and their verdicts
    python -m studies run NAME --scale=small    trains what is missing, and stores the result
    python -m studies report                    writes docs/studies from the stored results
    python -m studies sweep --config=lenet5 --set=model.activation=relu,tanh --seeds=3 --workdir=DIR
    python -m studies compare RUN RUN ...       a table and a plot of runs

Runs are kept in --workdir (runs/studies). A command that was interrupted continues where it was.
A run whose loss becomes infinite is done, too, without a value.
--set=FIELD=VALUE changes a field of all runs, such as --set=dataset.data_dir=DATA. Results of the
scale "smoke", and of a study with changed fields, are printed only.
"""

import argparse
import ast
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import command_line
from command_line import expand, split_names
from errors import TryAgain, UserError
from train_lib.distributed import shell
from train_lib.distributed.signals import StopRequest, handled_by


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
    vary.add_argument("--seeds", default="1", help="how many, or FIRST:END, which leaves out END")
    vary.add_argument("--workdir", required=True, help="folder of the runs")
    vary.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE,VALUE", dest="changes"
    )
    several = commands.add_parser("compare", help="a table and a plot of runs")
    several.add_argument("runs", nargs="+", help="folders of runs")
    several.add_argument("--plot", default="curves.png", help="PNG file to write")
    arguments = parser.parse_args(argv)
    shell.silence_libraries()
    try:
        if arguments.command == "run":
            if arguments.name == "all":
                return run_each(sys.argv[1:] if argv is None else argv)
            with StopRequest(owns_process=True) as stop:
                run_study(arguments, stop)
        elif arguments.command == "report":
            from studies import report

            print("\n".join(map(str, report.write())))
        elif arguments.command == "sweep":
            with StopRequest(owns_process=True) as stop:
                print(run_sweep(arguments, stop))
        elif arguments.command == "compare":
            from studies import sweep

            print(sweep.compare_runs(list(map(expand, arguments.runs)), expand(arguments.plot)))
        else:
            print(overview())
    except UserError as error:
        print(f"studies: {error}".replace("--config.", "--set="), file=sys.stderr)
        return error.exit_code
    return 0


def overview() -> str:
    """A table of all studies: verdict, hours of each scale (measured, or planned), claim."""
    from studies import engine, report

    lines = []
    for name in engine.names():
        study, stored = engine.find(name), report.load(name)
        planned = {scale: s.hours for scale, s in study.scales.items()}
        measured = {stored["scale"]: round(stored["seconds"] / 3600, 2)} if stored else {}
        hours = ", ".join(f"{scale} {h:g} h" for scale, h in (planned | measured).items())
        verdict = f"{stored['verdict']} ({stored['scale']})" if stored else "not run"
        lines.append(f"{name:<20} {verdict:<32} {hours}\n    {study.claim} {study.source}")
    return "\n".join(lines)


def run_each(flags: Sequence[str]) -> int:
    """Runs all studies, each in a process of its own, which gets the signals of this one.

    flags: of the command. A study that cannot run does not keep the others from running. Returns
    the exit status.
    """
    from studies import engine

    child, stopped, failed = None, [], 0

    def stop(number, _) -> None:
        stopped.append(number)
        if child:
            child.send_signal(number)

    with handled_by(stop):
        for name in engine.names():
            of_study = [name if flag == "all" else flag for flag in flags]
            child = subprocess.Popen([sys.executable, "-m", "studies", *of_study])
            status = child.wait()
            if stopped or status not in (0, UserError.exit_code):
                return status or TryAgain.exit_code
            failed = failed or status
    return failed


def run_study(arguments, stop: StopRequest) -> None:
    """Trains a study, prints its table, and stores the result unless it is a smoke test."""
    from studies import engine, report
    from train_lib.distributed import parallel
    from train_lib.workdir import write_bytes

    name, changes = arguments.name, dict(map(_change, arguments.changes))
    study = engine.find(name)
    scale = engine.scale_of(study, arguments.scale)
    if study.devices > 1:
        engine.simulate_devices(study.devices)
    todo = engine.jobs(scale, expand(arguments.workdir) / name / arguments.scale)
    is_changed = any(job.is_changed(changes) for job in todo)
    with parallel.explain_device_errors():
        done = list(engine.run_all(todo, changes, stop))
    stored = engine.stored(name, arguments.scale, done)
    stored |= {"command": _command(arguments), "note": arguments.note}
    print(report.table(study, stored) + f"{name}: {stored['verdict']}")
    if arguments.scale == "smoke":
        print("not stored: this scale only shows that the runs work")
    elif is_changed:
        print("not stored: --set changes the study")
    else:
        engine.RESULTS.mkdir(exist_ok=True)
        path = engine.RESULTS / f"{name}.json"
        lines = (f"{json.dumps(key)}: {json.dumps(value)}" for key, value in stored.items())
        write_bytes(path, ("{\n" + ",\n".join(lines) + "\n}\n").encode())
        print(f"written to {path}: python -m studies report makes pages of it")


def _command(arguments) -> str:
    """The command that repeats a study, without the folders of this machine."""
    data = " --set=dataset.data_dir=DATA" if arguments.changes else ""
    return f"python -m studies run {arguments.name} --scale={arguments.scale}{data}"


def run_sweep(arguments, stop: StopRequest) -> str:
    """Trains all combinations of values. Returns their table."""
    from studies import sweep
    from train_lib.distributed import parallel

    values = {}
    for text in arguments.changes:
        name, several = _assignment(text)
        values[name] = _values(several)
    folder = expand(arguments.workdir)
    config = arguments.config.removeprefix("configs/").replace(".py", "")  # as main.py has it
    with parallel.explain_device_errors():
        return sweep.sweep(config, values, _seeds(arguments.seeds), folder, stop)


def _seeds(text: str) -> range:
    """ "5" as 0 to 4, "2:5" as 2 to 4."""
    first, _, end = text.rpartition(":")
    try:
        seeds = range(int(first or 0), int(end))
    except ValueError:
        seeds = range(0)
    if not seeds or seeds.start < 0:
        raise UserError(f"--seeds={text}: give their number, or the first and the end, as in 0:5")
    return seeds


def _change(text: str) -> tuple[str, Any]:
    """ "a.b=1" of --set as ("a.b", 1)."""
    name, value = _assignment(text)
    return name, _value(value)


def _assignment(text: str) -> tuple[str, str]:
    """The two sides of "=". Raises UserError for a text without them."""
    name, _, value = text.partition("=")
    if not name or not value:
        raise UserError(f"--set={text}: give FIELD=VALUE")
    return name, value


def _values(text: str) -> list[Any]:
    """The different values in a text, which separates them by commas.

    They are Python literals, such as tuples, or else words. A word with a comma needs quotes.
    """
    try:
        values = list(ast.literal_eval(f"[{text}]"))
    except _NO_LITERAL:
        values = list(map(_value, split_names(text)))
    return [value for i, value in enumerate(values) if value not in values[:i]]


def _value(text: str) -> Any:
    """A Python literal, or else the text itself."""
    try:
        return ast.literal_eval(text)
    except _NO_LITERAL:
        return text


_NO_LITERAL = (ValueError, SyntaxError, TypeError, MemoryError, RecursionError)  # of ast


if __name__ == "__main__":
    command_line.begin()
    os.environ["MPLBACKEND"] = "agg"  # as in `launch.environment`
    with shell.errors_as_one_line():
        sys.exit(main())
