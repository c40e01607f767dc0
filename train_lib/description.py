"""The mode that needs no run, and imports little, so that it answers at once: summary."""

import json

from ml_collections import ConfigDict

from models import summary
from train_lib import experiment


def summarise(config: ConfigDict, output: str) -> str:
    """The model's layers and totals, as a table or as JSON; nothing is computed."""
    exp = experiment.build(config)
    description = summary.describe(exp.module, config.model.name, exp.input_shape)
    if output == "json":
        return json.dumps(description)
    return summary.table(description)
