"""The config file of a run: `--config=train_lib/commands/stored_config.py:WORKDIR`.

The command line adds this flag if it has no --config and the workdir holds a run, so that
--config.NAME=VALUE changes fields of the stored config. Imports nothing heavy.
"""

import pathlib

from ml_collections import ConfigDict

from configs import compare
from configs.common import scale_with_size
from errors import one_line


def get_config(workdir: str) -> ConfigDict:
    """The config that the run in `workdir` stored. Raises ValueError if it cannot be read."""
    path = pathlib.Path(workdir) / "config.json"
    try:
        config = compare.from_json(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(
            f"cannot read {path} ({one_line(error)}): restore it, or choose another --workdir"
        ) from error
    scale_with_size(config.view)
    return config
