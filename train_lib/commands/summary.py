"""--mode=summary: the layers of a model. It needs no run and imports little."""

import json
from collections.abc import Collection

from ml_collections import ConfigDict

from models import summary
from train_lib import experiment


def summarise(config: ConfigDict, form: str, given: Collection[str] = ()) -> str:
    """The model's layers and totals, without computing anything. form: "table" or "json".

    With the settings that belong to the weights of config.init_from, except for `given` fields.
    """
    exp = experiment.resolve(config, given=given, read_only=True)
    description = summary.describe(exp.module, exp.config.model.name, exp.input_shape)
    return json.dumps(description) if form == "json" else summary.table(description)
