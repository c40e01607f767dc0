"""The command line's flags, and its mistakes as one line that says what to do.

Imports nothing heavy: a mistake is refused before JAX is loaded.
"""

import contextlib
import difflib
import itertools
import os
import re
import sys

from absl import flags
from ml_collections import ConfigDict, config_flags

from command_line import expand
from configs import compare, schema
from configs.common import scale_with_size
from errors import UserError, one_line, printable

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
        config = flags.FLAGS["config"]
        config.parser = ConfigParser(config.parser)
        rest = flags.FLAGS(argv)
        _check(flags.FLAGS, rest, _is_stored(_flag(argv, "config")))
        return rest


class ConfigParser(flags.ArgumentParser):
    """Reads a config file with `of_files`, ml_collections' parser, or the config.json of a run."""

    def __init__(self, of_files: flags.ArgumentParser):
        super().__init__()
        self._of_files = of_files

    def parse(self, path: str) -> ConfigDict:
        """See `flags.ArgumentParser.parse`. Raises UserError for a run's config that is damaged."""
        is_stored = _is_stored(path)
        expanded = os.path.expanduser(path)
        config = compare.read(expand(path)) if is_stored else self._of_files.parse(expanded)
        scale_with_size(config.view)
        config.lock()  # as `of_files` does: overrides cannot add fields
        return config


def _is_stored(path: str) -> bool:
    """Whether the value of --config is the config of a run."""
    return path.endswith(".json")


def _stored_config(workdir: str) -> str:
    """The path of the config of the run in a folder; "" if it holds none.

    Raises UserError for a folder that cannot be read, as one without permission.
    """
    if not workdir:
        return ""
    path = expand(workdir) / "config.json"
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        raise UserError(
            f"cannot read {path} ({error.strerror}): choose another --workdir"
        ) from error
    return str(path)


def _check(values: flags.FlagValues, rest: list[str], is_stored: bool) -> None:
    """Raises UserError for flags that contradict each other, and for a wrong config."""
    if len(rest) > 1:
        raise UserError(f"{rest[1]} is not a flag: flags begin with --")
    uses_run = values.mode != "train" or values.config is None
    if uses_run and values.workdir and expand(values.workdir).is_file():
        raise UserError(
            f"--workdir={values.workdir} is a file: give a folder for the results, and the file"
            f" with --config=configs/NAME.py --config.init_from={values.workdir}"
        )
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
        return _not_loaded(path)
    if path and isinstance(error.__cause__, OSError):  # a folder, or a file without permission
        return _not_loaded(path, f" ({error.__cause__.strerror})")
    # The error may come from an override of a field: find it, and say which values it can have.
    fields = _fields(argv)
    for argument in argv[1:] if fields else ():
        name, _, value = argument.lstrip("-").partition("=")
        if not name.startswith("config."):
            continue
        field = name.removeprefix("config.")
        if field not in fields:
            return _unknown(name, fields)
        if fields[field] == {}:
            return f"--{name}={value}: must be a mapping in quotes, such as \"{{'conv1': 0.05}}\""
        if name in text:
            kind = type(fields[field]).__name__.replace("list", "tuple")
            return f"--{name}={value}: must be of type {kind}, such as {fields[field]!r}"
    return one_line(error)


def _not_loaded(path: str, reason: str = "") -> str:
    """The message for a --config that cannot be read."""
    return f"cannot load the config {path.partition(':')[0]}{reason}: check its path"


def _no_config(workdir: str | None) -> str:
    """The message for a command with neither --config nor a run."""
    problem = f"there is no run in {workdir}" if workdir else "--config is missing"
    return f"{problem}: give --config=configs/lenet5.py, for example, or the --workdir of a run"


def _unknown(name: str, fields: dict) -> str:
    """The message for an unknown flag: the known one that it stands for, or those of its section.

    fields: those of the config; none if it could not be loaded.
    """
    known = [flag for flag in flags.FLAGS if not flag.startswith("config.")]
    known += [f"config.{field}" for field in fields]
    is_section = any(key.startswith(f"{name}.") for key in known)
    near = f"{name}.name" if is_section else nearest(name, known)
    if near in known:
        return f"there is no --{name}: did you mean --{near}?"
    section = name if is_section else name.rpartition(".")[0]
    names = [key.rpartition(".")[2] for key in known if key.rpartition(".")[0] == section]
    if names and "." in section:
        return f"there is no --{name}: {section} has {', '.join(names)}"
    is_field = name.startswith("config.")
    page = "config.md lists the fields" if is_field else "commands.md lists the flags"
    return f"there is no --{name}: docs/{page}"


def nearest(name: str, known: list[str]) -> str:
    """The one that a wrong name stands for, "" if that is not clear.

    It is a similar name in the same section or, in any section, one whose words are all in the
    wrong name, as "size" in "image_size".
    """
    split = {key: key.rpartition(".")[::2] for key in known}
    section, last = name.rpartition(".")[::2]
    sections = {section for section, _ in split.values()}
    if section not in sections:
        section = next(iter(difflib.get_close_matches(section, sections, n=1, cutoff=0.8)), section)
    siblings = [key_last for key_section, key_last in split.values() if key_section == section]
    for near in difflib.get_close_matches(last, siblings, n=1, cutoff=0.7):
        return f"{section}.{near}".lstrip(".")
    words = {key: set(key_last.split("_")) for key, (_, key_last) in split.items()}
    inside = [key for key in known if words[key] <= set(last.split("_"))]
    most = max((len(words[key]) for key in inside), default=0)
    inside = sorted((key for key in inside if len(words[key]) == most), key=lambda k: k.count("."))
    is_clear = len(inside) == 1 or (inside and inside[0].count(".") < inside[1].count("."))
    return inside[0] if is_clear else ""


def _fields(argv: list[str]) -> dict:
    """The fields of the config file without overrides; none if it cannot be loaded."""
    try:
        config = flags.FLAGS["config"].parser.parse(_flag(argv, "config"))
        return schema.BY_LAYER | compare.flatten(config)
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
