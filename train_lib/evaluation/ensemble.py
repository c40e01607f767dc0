"""The networks that a command works on: one run or weight file, or the members of an ensemble."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Collection, Sequence

import numpy as np
from ml_collections import ConfigDict

from command_line import console, expand, split_names
from errors import UserError
from input_pipeline.split import Split, part_of
from train_lib import progress
from train_lib import workdir as workdir_lib
from train_lib.distributed import processes
from train_lib.evaluation import metrics, passes, protocols, trained
from train_lib.evaluation.trained import Trained
from train_lib.weights import exported, foreign, warm_start

ENSEMBLE, INIT_FROM = "config.evaluate.ensemble", "config.init_from"


def find(
    config: ConfigDict, workdir: pathlib.Path, given: Collection[str] = (), needs_data: bool = True
) -> list[Trained]:
    """Finds the networks to work on: the first of these that exists.

    1. the members of config.evaluate.ensemble,
    2. the run in `workdir`,
    3. the network of config.init_from.

    given: names of the config's fields that the user set, see `experiment.resolve`.
    needs_data: False if the data set may be missing.

    Members keep their model, preprocessing and views. The data set and the evaluation come from
    `config`. Raises UserError for a name that is neither a run nor a weight file, for a protocol
    that a network does not support, and for members with different classes.
    """
    names = split_names(config.evaluate.ensemble)
    if names:
        members = [_member(config, name, ENSEMBLE, given, needs_data) for name in names]
    elif config.init_from and not workdir_lib.has_checkpoints(workdir):
        message = f"there is no run in {workdir}: using config.init_from={config.init_from}"
        processes.print_once(message, file=console())
        members = [_member(config, config.init_from, INIT_FROM, given, needs_data)]
    else:
        members = [trained.from_run(workdir, config, given, needs_data)]
    for member in members:
        protocols.of(member.exp).check()
        info = member.exp.info
        if len(member.class_names) != info.num_classes:
            raise UserError(
                f"{member.name} has {len(member.class_names)} classes and {info.name} has"
                f" {info.num_classes}: give the data set that it was trained on"
            )
        if member.class_names != members[0].class_names:
            raise UserError(
                f"{member.name} and {members[0].name} have different classes: the members of an"
                " ensemble must have the same classes, in the same order"
            )
    return members


def find_one(config: ConfigDict, workdir: pathlib.Path, given: Collection[str] = ()) -> Trained:
    """Finds the network of a command that works on a single one."""
    if config.evaluate.ensemble:
        raise UserError(
            f"{ENSEMBLE}={config.evaluate.ensemble}: this mode works with one network: leave the"
            " field out"
        )
    return find(config, workdir, given, needs_data=False)[0]


def _member(
    config: ConfigDict, name: str, field: str, given: Collection[str], needs_data: bool
) -> Trained:
    """The network `name`. field: the config field that holds the name, for messages."""
    path = expand(name)
    if foreign.is_pretrained_file(name):
        return trained.from_weight_file(config, name, given=given, needs_data=needs_data)
    if path.suffix.lower() == exported.SUFFIX:
        network = trained.from_export(path, config, needs_data)
    else:
        warm_start.check_source(name, field)
        stored = trained.use_evaluation_of(config, workdir_lib.read_config(path), needs_data)
        network = trained.from_run(path, stored, needs_data=needs_data)
    return dataclasses.replace(network, name=name)


def evaluate(members: Sequence[Trained], split: Split, title: str):
    """Returns (result, steps of the members, images per second) on a split.

    title: text of the progress bar.
    """
    exp = members[0].exp
    if len(members) > 1 or not protocols.of(exp).is_single_view:
        probabilities, labels, steps, speed = predict(members, [split] * len(members), title)
        return metrics.from_probabilities(probabilities, labels), steps, speed
    state = members[0].state()
    with contextlib.closing(_meter(split, title)) as meter:
        result = metrics.evaluate(exp, state, split, meter=meter)
    return result, [int(state.step)], _speed(meter)


def predict(members: Sequence[Trained], splits: Sequence[Split], title: str):
    """Returns (mean probabilities, labels, steps of the members, images per second).

    splits: the examples, as each member reads them. title: text of the progress bar.

    Probabilities are float32 [n, classes]. A label is -1 if a member could not read the image.
    Only one member's weights are in memory at a time.
    """
    steps, total, labels = [], 0.0, np.iinfo(np.int32).max
    all_passes = [protocols.of(member.exp).passes() for member in members]
    with contextlib.closing(_meter(splits[0], title, sum(map(len, all_passes)))) as meter:
        for member, member_passes, split in zip(members, all_passes, splits, strict=True):
            with meter.excluded():
                state = member.state()
            share, member_labels = passes.predict(member_passes, state, split, meter)
            steps.append(int(state.step))
            del state
            total = total + share / len(members)
            labels = np.minimum(labels, member_labels)  # -1 stays
    return total, labels, steps, _speed(meter)


def _meter(split: Split, title: str, num_passes: int = 1) -> progress.Meter:
    """Counts the examples of this process's part of the split."""
    part = part_of(split, processes.index(), processes.count())
    return progress.Meter(len(part), title, num_passes, quiet=not processes.is_first())


def _speed(meter: progress.Meter) -> float:
    """Images per second of all processes together."""
    return meter.rate() * processes.count()
