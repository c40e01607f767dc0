"""Config files by their short names, "resnet:50-v1.5", for Python and for studies."""

import importlib
import pathlib

from ml_collections import ConfigDict

from configs.rules import choice
from errors import UserError


def load(name: str) -> ConfigDict:
    """The config of a file and its argument. Raises UserError if one of them is unknown."""
    file, _, argument = name.partition(":")
    paths = sorted(pathlib.Path(__file__).parent.glob("*.py"))
    files = [path.stem for path in paths if "\ndef get_config(" in path.read_text("utf-8")]
    choice(*files).check("model", file)
    get_config = importlib.import_module(f"configs.{file}").get_config
    try:
        return get_config(argument) if argument else get_config()
    except ValueError as error:
        raise UserError(f"model={name}: {error}") from error
