"""The mode that needs no run, and imports little, so that it answers at once: summary."""

import json
from collections.abc import Collection

from ml_collections import ConfigDict

from models import summary
from train_lib import experiment


def summarise(config: ConfigDict, output: str, given: Collection[str] = ()) -> str:
    """The model's layers and totals, as a table or as JSON; nothing is computed.

    With what belongs to the weights of config.init_from, but for the `given` fields.
    """
    if config.init_from:
        from train_lib import foreign  # readers of five formats

        config = foreign.settled(config, given=given)
    exp = experiment.build(config)
    description = summary.describe(exp.module, config.model.name, exp.input_shape)
    if output == "json":
        return json.dumps(description)
    return summary.table(description)
