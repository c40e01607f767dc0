"""The nets that a test asks: a run, or the members of an ensemble, runs and weight files."""

import dataclasses
import functools
import pathlib
import sys
from collections.abc import Callable, Collection, Sequence

import jax.numpy as jnp
from ml_collections import ConfigDict

from errors import UserError
from input_pipeline.split import Info
from train_lib import experiment, foreign, optimizers, rates
from train_lib import state as state_lib
from train_lib import workdir as folder
from train_lib.checkpoints import Checkpoints
from train_lib.distributed import parallel, processes
from train_lib.evaluation import exported, protocols

ENSEMBLE, INIT_FROM = "config.evaluate.ensemble", "config.init_from"


@dataclasses.dataclass(frozen=True)
class Member:
    """A net that can be asked.

    name: as the user wrote it. class_names: what it was trained on. load: gives (step, state),
        replicated on the experiment's devices; nothing is held before.
    """

    name: str
    exp: experiment.Experiment
    class_names: list[str]
    load: Callable[[], tuple[int, state_lib.TrainState]]


def find(
    config: ConfigDict,
    workdir: pathlib.Path,
    ensemble: bool = True,
    data: bool = True,
    given: Collection[str] = (),
) -> list[Member]:
    """The run of `workdir`, or the members of config.evaluate.ensemble (unless `ensemble` is off).

    Where the workdir has no run, the net of config.init_from.
    data: whether the data set must be there; what it looked like is known without. given: the
    config's fields that the user gave, see `foreign.settled`.
    A member of an ensemble keeps its own model, preprocessing and views; what is tested, and how,
    is in `config`. Raises UserError for what is no run or weight file, for a net that cannot be
    tested so, and for members of different classes.
    """
    names = [name.strip() for name in config.evaluate.ensemble.split(",") if name.strip()]
    if names and ensemble:
        found = [_member(config, name, ENSEMBLE, data, given) for name in names]
    elif names:
        raise UserError(f"{ENSEMBLE}={','.join(names)}: this mode takes one net: leave it out")
    elif config.init_from and not folder.has_checkpoints(workdir):
        said = f"there is no run in {workdir}: this is about config.init_from={config.init_from}"
        processes.print_once(said, file=sys.stderr)
        found = [_member(config, config.init_from, INIT_FROM, data, given)]
    else:
        found = [_run(str(workdir), config, workdir, data)]
    for member in found:
        protocols.check(member.exp)
        if len(member.class_names) != member.exp.info.num_classes:
            raise UserError(
                f"{member.name} names {len(member.class_names)} classes and"
                f" {member.exp.info.name} has {member.exp.info.num_classes}: give the data set that"
                " it was trained on"
            )
        if member.class_names != found[0].class_names:
            raise UserError(
                f"{member.name} and {found[0].name} know other classes: an ensemble's members must"
                " know the same ones, in the same order"
            )
    return found


def check_classes(found: Sequence[Member], info: Info) -> None:
    """Raises UserError if the data set has other classes than the members know."""
    names = found[0].class_names
    if list(names) != list(info.class_names):
        raise UserError(
            f"{found[0].name} was trained on other classes ({len(names)}:"
            f" {', '.join(names[:3])}, ...) than those of {info.name} ({info.num_classes}:"
            f" {', '.join(info.class_names[:3])}, ...): give the data set that it was trained on"
        )


def _member(config: ConfigDict, name: str, what: str, data: bool, given: Collection[str]) -> Member:
    """what: the field that names it, for errors."""
    path = pathlib.Path(name).expanduser()
    if foreign.is_foreign(name):
        exp, class_names = foreign.experiment_of(config, name, data=data, given=given)
        load = functools.partial(_from_foreign, exp)
        return Member(name, exp, class_names, load)
    if path.suffix.lower() == exported.SUFFIX:
        stored = exported.load(path, shapes_only=True)
        own = _asked(stored.config, config)
        info = None if data else stored.info
        exp = experiment.build(own, statistics=stored.statistics, info=info)
        exported.check_fits(stored, exp, path)
        return Member(name, exp, stored.class_names, functools.partial(_from_file, exp, path))
    foreign.check(name, what)
    folder.check_run(path, what)
    return _run(name, _asked(folder.read_config(path), config), path, data)


def _asked(own: ConfigDict, config: ConfigDict) -> ConfigDict:
    """A member's own config with what `config` says about the test."""
    for section in ("dataset", "evaluate", "predict"):
        own[section] = config[section].copy_and_resolve_references()
    own.evaluate.ensemble, own.num_devices = "", config.num_devices
    return own


def _run(name: str, config: ConfigDict, workdir: pathlib.Path, data: bool) -> Member:
    known = not data and (workdir / folder.DATASET).exists()
    exp = experiment.build(config, workdir, info=folder.info(workdir) if known else None)
    _check(exp, workdir, data)
    return Member(
        name, exp, folder.class_names(workdir), functools.partial(load_state, exp, workdir)
    )


def _from_file(exp: experiment.Experiment, path: pathlib.Path):
    stored = exported.load(path)
    return _state(exp, stored.step, stored.variables)


def _from_foreign(exp: experiment.Experiment):
    return _state(exp, 0, foreign.variables(exp.config, exp.module, exp.input_shape))


def _state(exp: experiment.Experiment, step: int, variables):
    """(step, replicated state) of a net that is only asked."""
    variables = dict(variables)
    state = state_lib.TrainState(
        step=jnp.int32(step),
        params=variables.pop("params"),
        model_state=variables,
        opt_state=(),
        window={},
    )
    return step, parallel.replicate(state, exp.devices)


def _check(exp: experiment.Experiment, workdir: pathlib.Path, data: bool = True) -> int | None:
    """The step that config.evaluate.checkpoint asks for, None for the latest; reads no state.

    Raises UserError if there is no such checkpoint, or the run is of another model.
    """
    if not (workdir / folder.CONFIG).exists() or not (workdir / "checkpoints").is_dir():
        raise UserError(f"no run in {workdir}: train one with --mode=train, or give its --workdir")
    sections = ("model.", "preprocess.", "loss.")
    different = [
        line
        for section in (*sections, *(() if data else ("view.", "dataset.name")))
        for line in folder.different_fields(workdir, exp.config, section)
    ]
    folder.refuse(workdir, different, "give the config that it was trained with")
    if not folder.has_checkpoints(workdir):
        raise UserError(f"no checkpoint in {workdir}: train first, with --mode=train")
    if exp.config.evaluate.checkpoint != "best":
        return None
    step = Checkpoints(workdir, read_only=True).best_step()
    if step is None:
        raise UserError(f"no evaluated checkpoint in {workdir}: use evaluate.checkpoint=latest")
    return step


def load_state(exp: experiment.Experiment, workdir: pathlib.Path):
    """(step, state) of a run's newest checkpoint, or of the best by config.evaluate.checkpoint.

    Raises UserError as `_check`, and for checkpoints that are all damaged.
    """
    step = _check(exp, workdir)
    config = exp.config
    # For the structure of its state alone, which durations do not change.
    optimizer = optimizers.make_optimizer(config.optimizer, rates.for_config(config, 1.0, 1))
    like = state_lib.shapes_for_config(exp, optimizer)
    restored = (0, like)
    if processes.is_first():
        restored = Checkpoints(workdir, read_only=True).restore(like, step)
        if restored is None:
            raise UserError(f"no checkpoint in {workdir}: train first, with --mode=train")
    state = processes.tree_from_first(restored[1])
    return int(state.step), parallel.replicate(state, exp.devices)
