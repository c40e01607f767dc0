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

WHICH_CONFIG = (
    "which experiment? Give --config=configs/lenet5.py, for example, or the --workdir of a run"
)


FORMATS = {"summary": ("table", "json"), "export": ("canon", "torchvision", "jax")}
# Flags of some modes only.
MODES_OF = {
    "images": ("predict", "inspect"),
    "output": ("export",),
    "allow_config_change": ("train",),
    "layer": ("inspect",),
    "compare": ("inspect",),
}
OF_A_GROUP = ("train", "evaluate", "predict")  # modes that several processes can share


def _unknown(name: str, config) -> str:
    """What to say of a flag that does not exist; names the nearest that does."""
    if name.startswith("config.") and config is not None:
        known = [f"config.{key}" for key in compare.flatten(config)]
    else:
        known = list(flags.FLAGS)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if not near and "." in name:  # the right field in the wrong section
        near = [key for key in known if key.rsplit(".")[-1] == name.rsplit(".")[-1]][:1]
    hint = f"did you mean --{near[0]}?" if near else "docs/commands.md lists the flags"
    return f"there is no --{name}: {hint}"


def _config(argv: list[str]):
    """The config as its file gives it, without overrides; None if it cannot be had."""
    path, _, argument = _flag(argv, "config").partition(":")
    try:
        return runpy.run_path(path)["get_config"](*([argument] if argument else []))
    except Exception:  # the error in hand says why
        return None


def _flag(argv: list[str], name: str) -> str:
    """The value of --name=VALUE or --name VALUE, "" if there is none."""
    value = ""
    for argument, following in itertools.pairwise([*argv, ""]):
        key, equals, given = argument.partition("=")
        if argument.startswith("-") and key.lstrip("-") == name:
            value = given if equals else following
    return value


def _explain(error: Exception, argv: list[str]) -> str:
    if isinstance(error, flags.UnrecognizedFlagError):
        if error.flagname.startswith("config.") and not _flag(argv, "config"):
            return WHICH_CONFIG
        return _unknown(error.flagname, _config(argv))
    text = str(error)
    path = _flag(argv, "config")
    if path and ("Failed loading config" in text or "Error whilst parsing config" in text):
        raised = re.findall(r"^(?:\w+\.)*(\w+Error): (.*)$", text, flags=re.MULTILINE)
        if raised:  # what the config file itself said
            return raised[-1][1] if raised[-1][0] == "ValueError" else ": ".join(raised[-1])
        return f"cannot load the config {path.partition(':')[0]}: is there such a file?"
    # A config override: find the flag at fault, for a line that says what would fit.
    config = _config(argv)
    flat = compare.flatten(config) if config is not None else {}
    for argument in argv[1:] if flat else ():
        name, _, value = argument.lstrip("-").partition("=")
        key = name.removeprefix("config.")
        if not name.startswith("config."):
            continue
        if key not in flat:
            return _unknown(name, config)
        if name in text:
            kind = type(flat[key]).__name__.replace("list", "tuple")
            return f"--{name}={value}: must be of type {kind}, as {flat[key]!r}"
    return one_line(error)


@contextlib.contextmanager
def as_one_line(argv: list[str]):
    """Turns any mistake in flags into one line on standard error and exit status 2."""
    try:
        yield
    except SystemExit:
        raise
    except Exception as error:
        text = str(error) if isinstance(error, UserError) else _explain(error, argv)
        print(f"{argv[0].rsplit('/', 1)[-1]}: {printable(text)}", file=sys.stderr)
        sys.exit(2)


def parse(argv: list[str]) -> list[str]:
    """Parses the flags, and returns the arguments that are no flags.

    A mistake is one line on standard error, and ends the process with status 2. Without --config,
    the config is that of the run in --workdir.
    """
    is_stored = not _flag(argv, "config") and _stored_config(_flag(argv, "workdir"))
    if is_stored:
        argv = [argv[0], f"--config={is_stored}", *argv[1:]]
    with as_one_line(argv):
        rest = flags.FLAGS(argv)
        _check(flags.FLAGS, rest, bool(is_stored))
        return rest


def _stored_config(workdir: str) -> str:
    """The --config of the run in a folder; "" if it holds none."""
    if not workdir or not (pathlib.Path(workdir) / "config.json").is_file():
        return ""
    return f"{os.path.relpath(stored_config.__file__)}:{workdir}"


def _check(values: flags.FlagValues, rest: list[str], is_stored: bool) -> None:
    """Raises UserError for flags that do not go together, and for a wrong config."""
    if len(rest) > 1:
        raise UserError(f"{rest[1]} is not a flag: flags begin with --")
    if values.config is None:
        raise UserError(WHICH_CONFIG)
    list(values.config.items())  # a config that failed to load says so here
    mode = values.mode
    if mode != "summary" and not values.workdir:
        raise UserError("which folder? Give --workdir=DIR")
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
    if (values.distributed or any(has_place)) and mode not in OF_A_GROUP:
        raise UserError(f"--mode={mode} is one process's work: leave out --coordinator")
    # A stored config may hold values that change nothing.
    given = config_flags.get_override_values(values["config"])
    schema.validate(values.config, None if is_stored else given)
