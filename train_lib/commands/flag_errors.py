"""The command line's mistakes as one line that says what to do."""

import contextlib
import difflib
import re
import runpy
import sys

from absl import flags

from configs import compare
from errors import UserError, one_line, printable


def _unknown(name: str, config) -> str:
    """What to say of a flag that does not exist; names the nearest that does."""
    if name.startswith("config.") and config is not None:
        known = [f"config.{key}" for key in compare.flatten(config)]
    else:
        known = list(flags.FLAGS)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if not near and "." in name:  # the right field in the wrong section
        near = [key for key in known if key.rsplit(".")[-1] == name.rsplit(".")[-1]][:1]
    hint = f"did you mean --{near[0]}?" if near else "see the README for what there is"
    return f"there is no --{name}: {hint}"


def _config(argv: list[str]):
    """The config as its file gives it, without overrides; None if it cannot be had."""
    path, _, argument = _flag(argv, "config").partition(":")
    try:
        return runpy.run_path(path)["get_config"](*([argument] if argument else []))
    except Exception:  # the error in hand says why
        return None


def _flag(argv: list[str], name: str) -> str:
    values = [arg.split("=", 1)[1] for arg in argv if arg.lstrip("-").startswith(f"{name}=")]
    return values[-1] if values else ""


def _explain(error: Exception, argv: list[str]) -> str:
    if isinstance(error, flags.UnrecognizedFlagError):
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
    """Turns whatever goes wrong while flags are read into one line and exit status 2."""
    try:
        yield
    except SystemExit:
        raise
    except Exception as error:
        text = str(error) if isinstance(error, UserError) else _explain(error, argv)
        print(f"{argv[0].rsplit('/', 1)[-1]}: {printable(text)}", file=sys.stderr)
        sys.exit(2)
