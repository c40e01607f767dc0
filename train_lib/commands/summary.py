"""--mode=summary: the layers of a model. It needs no run and imports little."""

import json
import pathlib
from collections.abc import Collection

from ml_collections import ConfigDict

from models import summary
from train_lib import experiment
from train_lib.workdir import DATASET, read_config, read_info


def summarise(
    config: ConfigDict, form: str, given: Collection[str] = (), workdir: pathlib.Path | None = None
) -> str:
    """The model's layers and totals, without computing anything. form: "table" or "json".

    With the settings that belong to the weights of config.init_from, except for `given` fields.
    workdir: of a run, if there is one: what it says about its data set is used, unless a field of
        the set is given.
    """
    has_info = workdir and (workdir / DATASET).exists()
    is_given = any(field.startswith("dataset.") for field in given)
    same_name = has_info and read_config(workdir).dataset.name == config.dataset.name
    is_same = same_name and not is_given
    known = experiment.KnownData(read_info(workdir) if is_same else None)
    exp = experiment.resolve(config, given=given, read_only=True, known=known)
    description = summary.describe(exp.module, exp.config.model.name, exp.input_shape)
    return json.dumps(description) if form == "json" else summary.table(description)
