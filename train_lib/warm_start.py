"""Weights that a net begins with: another run's, or those of another framework's file.

Simonyan 2015, sec. 3.1.1, trains VGG's deep nets from the layers of net A. docs/weights.md lists
the files of other frameworks that `models.pretrained` reads.
"""

import contextlib
import dataclasses
import fnmatch
import functools
import json
import pathlib
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from configs import compare
from errors import UserError, one_line
from models import pretrained
from train_lib.checkpoints import Checkpoints
from train_lib.distributed import processes
from train_lib.evaluation import exported
from train_lib.state import TrainState
from train_lib.workdir import CONFIG, check_run, has_checkpoints, read_config

AUTO = "auto"  # config.init_settings: set the fields that belong to the weights


def is_pretrained_file(name: str) -> bool:
    """Whether config.init_from, or a member of an ensemble, names a file of another framework."""
    return name.startswith(pretrained.HUB) or pretrained.is_pretrained(
        pathlib.Path(name).expanduser()
    )


def check_name(name: str, field: str) -> None:
    """Raises UserError for a file whose suffix is not that of a weight file.

    field: where the name was given, for the message.
    """
    path = pathlib.Path(name).expanduser()
    if path.suffix and not path.is_dir() and path.suffix.lower() not in pretrained.SUFFIXES:
        raise UserError(
            f"{field}={name}: give a run's folder, or a file of {', '.join(pretrained.SUFFIXES)}"
        )


def check_source(name: str) -> None:
    """Raises UserError unless config.init_from names a run with a checkpoint, or a weight file."""
    if is_pretrained_file(name):
        return  # `settle` has read it
    check_name(name, "config.init_from")
    path = pathlib.Path(name).expanduser()
    if path.suffix.lower() != exported.SUFFIX:
        check_run(path, "config.init_from")
    elif not path.is_file():
        raise UserError(f"config.init_from={name}: there is no such file")


# Reading files of other frameworks


def read(init_from: str, init_names: str) -> pretrained.WeightFile:
    """The weight file `init_from`; init_names: a JSON file that names its tensors, or "".

    Raises UserError for a file that is missing, damaged or of an unknown kind.
    """
    names = pathlib.Path(init_names).expanduser() if init_names else None
    path = _locate(init_from).expanduser()
    return _read(path, names, _version(path), _version(names))


_locate = functools.cache(pretrained.locate)  # a name of the hub is looked up once


def _version(path: pathlib.Path | None) -> tuple[int, int]:
    """Two numbers that change with a file's content."""
    if path is None or not path.is_file():
        return 0, 0
    status = path.stat()
    return status.st_mtime_ns, status.st_size


@functools.lru_cache(maxsize=1)  # read for its settings, then for its values
def _read(path, names, *versions) -> pretrained.WeightFile:
    return pretrained.read(path, names)


@contextlib.contextmanager
def file_in_memory():
    """Forgets the file that was read inside: VGG's weights are half a gigabyte."""
    try:
        yield
    finally:
        _read.cache_clear()


def load_variables(exp, fit_classes: bool = False) -> Mapping[str, Any]:
    """The variables of the `Experiment`'s module from the file of config.init_from, NumPy arrays.

    fit_classes: True if the file's net may know another number of classes than the module.
    Raises UserError, one line that names some, for tensors that do not fit.
    """
    config, module = exp.config, exp.module
    with file_in_memory():
        file = read(config.init_from, config.init_names)
        if fit_classes:
            module = module.clone(num_classes=file.num_classes(module, exp.input_shape))
        try:
            return file.variables(module, exp.input_shape)
        except UserError as error:
            raise UserError(f"{config.init_from}: {error}") from error


def class_names_of(exp, class_names: Sequence[str] | None) -> tuple[str, ...]:
    """Names of the classes that the file of config.init_from knows.

    class_names: the user's, or None; then the data set's or the file's, if their number is right,
    or else "0", "1", ... Raises UserError for another number of names than the file has classes.
    """
    file = read(exp.config.init_from, exp.config.init_names)
    count = file.num_classes(exp.module, exp.input_shape)
    if class_names and len(class_names) != count:
        raise UserError(
            f"{exp.config.init_from} knows {count} classes, not {len(class_names)}: name them all"
        )
    for names in (class_names, file.class_names, exp.info.class_names):
        if names and len(names) == count:
            return tuple(names)
    return tuple(map(str, range(count)))


# The settings that belong to weights


def settle(
    config: ConfigDict,
    workdir: pathlib.Path | None = None,
    given: Collection[str] = (),
    read_only: bool = False,
) -> ConfigDict:
    """The config, with the fields that belong to the weights of config.init_from.

    They are the preprocessing that the weights were trained with, and options of the model. The
    result is a copy whose init_settings lists the fields, or the config itself if init_from names
    no file of another framework. Prints on standard error which fields it sets.

    workdir: if it holds a run, the fields are those that the run stored, and the file is not read.
    given: names of fields that stay as they are.
    read_only: True when the command does not train; then init_from need not be given again.
    Raises UserError as `read`, and for a model that the file's source lacks.
    """
    if not config.init_from and not read_only:
        return config
    fields = json.loads(
        processes.bytes_from_first(lambda: json.dumps(_fields(config, workdir, read_only)).encode())
    )
    if fields is None:
        return config
    settled, fields = config.copy_and_resolve_references(), _without(fields, config, given)
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()}
    try:
        unknown = sorted(values.keys() - compare.flatten(settled).keys())
        if unknown:
            raise ValueError(f"{unknown[0]} is no field")
        settled.update_from_flattened_dict(values)
    except (TypeError, ValueError) as error:  # the file was tampered with
        raise UserError(
            f"{settled.init_from} comes with settings that are none ({one_line(error)}): set them"
            " yourself, with --config.init_settings="
        ) from error
    settled.init_settings = ",".join(name for name in fields if name != "init_from")
    if fields:
        said = ", ".join(f"{name}={value}" for name, value in fields.items())
        processes.print_once(f"{settled.init_from} comes with {said}", file=sys.stderr)
    return settled


def _without(fields: dict[str, Any], config: ConfigDict, given: Collection[str]) -> dict[str, Any]:
    """The fields that are not given; without all of the preprocessing if another mean is given."""
    mean = config.preprocess.mean
    other_mean = "preprocess.mean" in given and mean != fields.get("preprocess.mean", mean)
    return {
        name: value
        for name, value in fields.items()
        if name not in given and not (other_mean and name.startswith("preprocess."))
    }


def _fields(
    config: ConfigDict, workdir: pathlib.Path | None, read_only: bool
) -> dict[str, Any] | None:
    """The fields that `settle` sets; None if init_from names no file of another framework."""
    if config.init_settings != AUTO or not (config.init_from or read_only):
        return None
    if workdir and (workdir / CONFIG).exists():
        stored = compare.flatten(read_config(workdir))
        has_settings = stored["init_settings"] not in (AUTO, "")
        names = stored["init_settings"].split(",") if has_settings else []
        if read_only and has_checkpoints(workdir):
            names = ["init_from", *names] if has_settings else []
            return {name: stored[name] for name in names if name in stored} or None
        if has_settings and stored["init_from"] == config.init_from:
            return {name: stored[name] for name in names if name in stored}
    if not config.init_from:
        return None
    if is_pretrained_file(config.init_from):
        file = read(config.init_from, config.init_names)
        try:
            return file.settings(config.model)
        except UserError as error:
            raise UserError(f"the weight file {config.init_from}: {error}") from error
    if config.init_names:
        raise UserError(
            f"config.init_names={config.init_names}: {config.init_from} is no file of another"
            " framework, and has our names"
        )
    return None


# The state that a run begins with


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a state's values come from: names like "conv1/kernel", or "conv1" for a whole layer.

    source, step: config.init_from and the step of its weights, 0 for another framework's file.
    loaded: values of this state that come from the source. drawn: values of this state that do not.
    unused: values of the source that this state does not have.
    """

    source: str
    step: int
    loaded: list[str]
    drawn: list[str]
    unused: list[str]

    def rows(self) -> dict[str, str]:
        """Lines of the opening block."""
        step = f", step {self.step}" if self.step else ""
        return {
            "weights": f"{self.source}{step}: {', '.join(self.loaded)}",
            "drawn": ", ".join(self.drawn) or "none",
            "unused": ", ".join(self.unused) or "none",
        }


def warm_start(exp, state: TrainState) -> tuple[TrainState, Origin]:
    """The `Experiment`'s new state, with weights from config.init_from; see `load_into`."""
    name, weights = exp.config.init_from, None
    if is_pretrained_file(name):
        weights = (0, load_variables(exp, fit_classes=True))
    return load_into(state, name, exp.config.init_layers, weights)


def load_into(
    state: TrainState, source: str, patterns: Sequence[str], weights: tuple[int, Any] | None = None
) -> tuple[TrainState, Origin]:
    """`state` with parameters and BatchNorm statistics of a source, those that it evaluates with.

    source: a run's folder, of which the newest checkpoint is read, or a file of --mode=export.
    patterns: of names like "conv1/kernel" (fnmatch). A value is loaded if it matches a pattern and
        none that begins with "!"; without patterns of the first kind every value matches. A value
        that the source does not have stays as it is.
    weights: (step, variables) if they have been read already.

    Raises UserError for a value of another shape, a pattern that matches nothing in `state`, a run
    without a checkpoint, and a source that has no value that is wanted.
    """
    step, variables = weights or _read_own(source)
    theirs = _by_name(variables)
    ours = _by_name({"params": state.params, **state.model_state})
    wanted = _matching(list(ours), patterns)
    loaded = [name for name in wanted if name in theirs]
    if not loaded:
        raise UserError(f"config.init_from={source}: it has none of {', '.join(wanted[:3])}, ...")
    for name in loaded:
        if theirs[name][1].shape != ours[name][1].shape:
            layer = name.rsplit("/", 1)[0]
            raise UserError(
                f"config.init_from={source}: {name} is {list(theirs[name][1].shape)} there and"
                f" {list(ours[name][1].shape)} here: leave the layer out, by"
                f" --config.init_layers=\"('!{layer}/*',)\" for example"
            )
    leaves = {path: leaf for path, leaf in ours.values()} | {
        ours[name][0]: jnp.asarray(theirs[name][1], ours[name][1].dtype) for name in loaded
    }
    variables = unflatten_dict(leaves)
    params = variables.pop("params")
    average = None if state.average is None else jax.tree.map(jnp.copy, params)
    state = state.replace(
        params=params, model_state={**state.model_state, **variables}, average=average
    )
    return state, Origin(
        source=source,
        step=step,
        loaded=_by_layer(list(ours), set(loaded)),
        drawn=_by_layer(list(ours), ours.keys() - set(loaded)),
        unused=_by_layer(list(theirs), theirs.keys() - set(loaded)),
    )


def _read_own(source: str) -> tuple[int, Any]:
    """(step, variables) of a run's folder, or of a file of --mode=export."""
    path = pathlib.Path(source).expanduser()
    if path.suffix.lower() == exported.SUFFIX:
        stored = exported.load(path)
        return stored.step, stored.variables
    restored = Checkpoints(path, read_only=True).restore_variables()
    if restored is None:
        raise UserError(f"config.init_from={source}: there is no checkpoint: train it first")
    return restored


def _by_name(variables) -> dict[str, tuple[tuple[str, ...], Any]]:
    """{"conv1/kernel": (path with its collection, leaf)}."""
    return {"/".join(path[1:]): (path, leaf) for path, leaf in flatten_dict(variables).items()}


def _matching(names: list[str], patterns: Sequence[str]) -> list[str]:
    """The names that the patterns choose, see `load_into`."""

    def matches(name, patterns):
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)

    for pattern in patterns:
        if not any(matches(name, [pattern.removeprefix("!")]) for name in names):
            raise UserError(
                f"config.init_layers: {pattern} fits no parameter of this net: they are called"
                f" {', '.join(names[:3])}, ..."
            )
    included = [p for p in patterns if not p.startswith("!")] or ["*"]
    excluded = [p[1:] for p in patterns if p.startswith("!")]
    return [name for name in names if matches(name, included) and not matches(name, excluded)]


def _by_layer(names: list[str], chosen: Collection[str]) -> list[str]:
    """The chosen names in order; a layer's name in place of all its values."""
    layers: dict[str, list[str]] = {}
    for name in names:
        layers.setdefault(name.rsplit("/", 1)[0], []).append(name)
    result = []
    for layer, members in layers.items():
        chosen_members = [name for name in members if name in chosen]
        result += [layer] if chosen_members == members else chosen_members
    return result
