"""The command line's flags, and its mistakes as one line that says what to do.

Imports nothing heavy: a mistake is refused before JAX is loaded.
"""

import contextlib
import difflib
import itertools
import os
import pathlib
import re
import runpy
import sys

from absl import flags
from ml_collections import config_flags

from configs import compare, schema
from errors import UserError, one_line, printable
from train_lib.commands import stored_config

FORMATS = {"summary": ("table", "json"), "export": ("canon", "torchvision", "jax")}
# The flags that only some modes have.
MODES_OF = {
    "images": ("predict", "inspect"),
    "output": ("export",),
    "allow_config_change": ("train",),
    "layer": ("inspect",),
    "compare": ("inspect",),
}
GROUP_MODES = ("train", "evaluate", "predict")  # several processes can share their work


def parse(argv: list[str]) -> list[str]:
    """Parses the flags, and returns the arguments that are not flags.

    A mistake is one line on standard error, and ends the process with status 2. Without --config,
    the config is that of the run in --workdir.
    """
    with as_one_line(argv):
        stored = "" if _flag(argv, "config") else _stored_config(_flag(argv, "workdir"))
    if stored:
        argv = [argv[0], f"--config={stored}", *argv[1:]]
    with as_one_line(argv):
        rest = flags.FLAGS(argv)
        _check(flags.FLAGS, rest, bool(stored))
        return rest


def _stored_config(workdir: str) -> str:
    """The --config of the run in a folder; "" if it holds none.

    Raises UserError for a folder that cannot be read, as one without permission.
    """
    if not workdir:
        return ""
    path = pathlib.Path(workdir) / "config.json"
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        raise UserError(
            f"cannot read {path} ({error.strerror}): choose another --workdir"
        ) from error
    return f"{os.path.relpath(stored_config.__file__)}:{workdir}"


def _check(values: flags.FlagValues, rest: list[str], is_stored: bool) -> None:
    """Raises UserError for flags that contradict each other, and for a wrong config."""
    if len(rest) > 1:
        raise UserError(f"{rest[1]} is not a flag: flags begin with --")
    if values.config is None:
        raise UserError(_no_config(values.workdir))
    list(values.config.items())  # raises the error of a config that failed to load
    mode = values.mode
    if mode != "summary" and not values.workdir:
        raise UserError("--workdir is missing: give the folder of the run, --workdir=DIR")
    formats = FORMATS.get(mode, ())
    if values.format and values.format not in formats:
        choice = f"choose one of {', '.join(formats)}" if formats else "leave it out"
        raise UserError(f"--format={values.format} with --mode={mode}: {choice}")
    for flag, modes in MODES_OF.items():
        if values[flag].value and mode not in modes:
            raise UserError(f"--{flag} is for --mode={' or '.join(modes)}: leave it out")
    has_place = (values.coordinator != "", values.num_processes > 0, values.process_id >= 0)
    if any(has_place) and (not all(has_place) or values.distributed):
        raise UserError(
            "give --coordinator, --num_processes and --process_id together, or --distributed"
        )
    if (values.distributed or any(has_place)) and mode not in GROUP_MODES:
        raise UserError(
            f"--mode={mode} runs in one process: leave out --coordinator and --distributed"
        )
    given = config_flags.get_override_values(values["config"])
    schema.validate(values.config, given, is_stored)


@contextlib.contextmanager
def as_one_line(argv: list[str]):
    """Turns every mistake in flags into one line on standard error and exit status 2."""
    try:
        yield
    except SystemExit:
        raise
    except Exception as error:
        text = str(error) if isinstance(error, UserError) else _explain(error, argv)
        print(f"{argv[0].rsplit('/', 1)[-1]}: {printable(text)}", file=sys.stderr)
        sys.exit(2)


def _explain(error: Exception, argv: list[str]) -> str:
    """One line for an error of absl or ml_collections."""
    text, path = str(error), _flag(argv, "config")
    if isinstance(error, flags.UnrecognizedFlagError):
        if error.flagname.startswith("config.") and not path:
            return _no_config(_flag(argv, "workdir"))
        return _unknown(error.flagname, _fields(argv))
    if "in argv before a value for --config" in text:  # ml_collections' FlagOrderError
        return "put --config=FILE before all --config.FIELD=VALUE"
    if path and ("Failed loading config" in text or "Error whilst parsing config" in text):
        raised = re.findall(r"^(?:\w+\.)*(\w+Error): (.*)$", text, flags=re.MULTILINE)
        if raised:  # the config file's own error
            return raised[-1][1] if raised[-1][0] == "ValueError" else ": ".join(raised[-1])
        return f"cannot load the config {path.partition(':')[0]}: check its path"
    # The error may come from an override of a field: find it, and say which values it can have.
    fields = _fields(argv)
    for argument in argv[1:] if fields else ():
        name, _, value = argument.lstrip("-").partition("=")
        if not name.startswith("config."):
            continue
        field = name.removeprefix("config.")
        if field not in fields:
            return _unknown(name, fields)
        if name in text:
            kind = type(fields[field]).__name__.replace("list", "tuple")
            return f"--{name}={value}: must be of type {kind}, such as {fields[field]!r}"
    return one_line(error)


def _no_config(workdir: str | None) -> str:
    """The message for a command with neither --config nor a run."""
    problem = f"there is no run in {workdir}" if workdir else "--config is missing"
    return f"{problem}: give --config=configs/lenet5.py, for example, or the --workdir of a run"


def _unknown(name: str, fields: dict) -> str:
    """The message for an unknown flag, with the nearest known one."""
    known = list(flags.FLAGS)
    if name.startswith("config.") and fields:
        known = [f"config.{field}" for field in fields]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if not near and "." in name:  # the right field in the wrong section
        near = [key for key in known if key.rsplit(".")[-1] == name.rsplit(".")[-1]][:1]
    hint = f"did you mean --{near[0]}?" if near else "docs/commands.md lists the flags"
    return f"there is no --{name}: {hint}"


def _fields(argv: list[str]) -> dict:
    """The fields of the config file without overrides; none if it cannot be loaded."""
    path, _, argument = _flag(argv, "config").partition(":")
    try:
        config = runpy.run_path(path)["get_config"](*([argument] if argument else []))
        return compare.flatten(config)
    except Exception:  # the error that is being explained says why
        return {}


def _flag(argv: list[str], name: str) -> str:
    """The value of --name=VALUE or --name VALUE, "" if there is none."""
    value = ""
    for argument, following in itertools.pairwise([*argv, ""]):
        key, equals, given = argument.partition("=")
        if argument.startswith("-") and key.lstrip("-") == name:
            value = given if equals else following
    return value
