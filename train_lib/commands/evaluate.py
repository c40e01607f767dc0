"""--mode=evaluate: the error of a run, or of an ensemble, on a split of the data set."""

import json
import pathlib
import sys
from collections.abc import Collection

from ml_collections import ConfigDict

from input_pipeline import sources
from train_lib.distributed import processes
from train_lib.evaluation import ensemble, protocols, result_files


def evaluate_run(config: ConfigDict, workdir: pathlib.Path, given: Collection[str] = ()) -> str:
    """Evaluates, writes the files of `result_files.write`, and returns the result as JSON.

    given: the config's fields that the user gave, see `experiment.resolve`.
    """
    members = ensemble.find(config, workdir, given)
    for member in members:
        protocols.of(member.exp).check_copy()
    section, dataset = config.evaluate, config.dataset
    name = dataset.train_split if section.split == "train" else dataset.test_split
    split_name = sources.split_name(dataset, name)
    split = sources.load(dataset, split_name)
    split = sources.with_classes(split, members[0].name, members[0].class_names)
    processes.check_same("data set", [len(split)])
    protocol = protocols.of(members[0].exp)
    settings = {
        "dataset": dataset.name,
        "split": split_name,
        "protocol": protocol.name,
        **protocol.settings(),
    }
    scales = [list(protocols.of(member.exp).scales) for member in members]
    if "scales" in settings and any(other != scales[0] for other in scales):
        settings["scales"] = scales  # of each member
    if section.checkpoint != "latest":
        settings["checkpoint"] = section.checkpoint
    if section.ensemble:
        settings["ensemble"] = [member.name for member in members]
    output = result_files.make_folder(workdir, settings) if processes.is_first() else None
    title = f"{dataset.name} {split_name}"
    result, steps, speed = ensemble.evaluate(members, split, title)
    line = settings | {"examples": result.examples} | result.metrics()
    line["mean_class_error"] = result.mean_class_error()
    line["step"] = steps[0] if len(steps) == 1 else steps
    line["images_per_second"] = round(speed, 1)
    if line["loss"] is None:
        message = f"{members[0].name}: the loss is {result.loss}, so the errors mean little"
        processes.print_once(message, file=sys.stderr)
    if processes.is_first():
        exp = members[0].exp
        result_files.write(output, line, result, split, lambda i: exp.picture(split, i))
    return json.dumps(line)
