"""Nets with the weights of another framework: what belongs to them in a config, and their values.

`models.pretrained` reads the files; docs/weights.md says which.
"""

import dataclasses
import functools
import json
import pathlib
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from configs import compare
from errors import UserError, one_line
from models import pretrained
from train_lib import experiment
from train_lib import workdir as folder
from train_lib.distributed import processes

AUTO = "auto"  # config.init_settings: take over what belongs to the weights


def is_foreign(name: str) -> bool:
    """Whether config.init_from, or a member of an ensemble, names a file of another framework."""
    return name.startswith(pretrained.HUB) or pretrained.is_pretrained(
        pathlib.Path(name).expanduser()
    )


def check(name: str, what: str) -> None:
    """Raises UserError for what looks like a weight file and is none. what: the field, for it."""
    path = pathlib.Path(name).expanduser()
    if path.suffix and not path.is_dir() and path.suffix.lower() not in pretrained.SUFFIXES:
        raise UserError(
            f"{what}={name}: give a run's folder, or a file of {', '.join(pretrained.SUFFIXES)}"
        )


def read(config: ConfigDict) -> pretrained.WeightFile:
    """The file of config.init_from, by the names in config.init_names if there are any.

    Raises UserError for one that is missing, damaged or of no kind that is known.
    """
    names = pathlib.Path(config.init_names).expanduser() if config.init_names else None
    path = _locate(config.init_from).expanduser()
    return _read(path, names, _state(path), _state(names))


_locate = functools.cache(pretrained.locate)  # a name of the hub is looked up once


def _state(path: pathlib.Path | None) -> tuple[int, int]:
    """What changes with a file's content."""
    if path is None or not path.is_file():
        return 0, 0
    found = path.stat()
    return found.st_mtime_ns, found.st_size


@functools.lru_cache(maxsize=1)  # asked for its settings, then once for its values
def _read(path, names, *states) -> pretrained.WeightFile:
    return pretrained.read(path, names)


def settled(
    config: ConfigDict,
    workdir: pathlib.Path | None = None,
    given: Collection[str] = (),
    asks: bool = False,
) -> ConfigDict:
    """The config, with the fields that belong to the weights of config.init_from.

    The preprocessing that they were trained with, and options of the model: a copy in which
    init_settings lists them; the config itself if init_from names no file of another framework.
    given: fields that stay as they are. workdir: of a run that has begun: they are its own then,
    and the file need not be there. asks: whether a run is only asked, which goes before the file,
    and need not be told init_from again. Says on standard error what it sets.
    Raises UserError as `read`, and for a model that the file's source lacks.
    """
    if not config.init_from and not asks:
        return config
    fields = json.loads(
        processes.bytes_from_first(lambda: json.dumps(_fields(config, workdir, asks)).encode())
    )
    if fields is None:
        return config
    own, fields = config.copy_and_resolve_references(), _without(fields, config, given)
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()}
    try:
        unknown = sorted(values.keys() - compare.flatten(own).keys())
        if unknown:
            raise ValueError(f"{unknown[0]} is no field")
        own.update_from_flattened_dict(values)
    except (TypeError, ValueError) as error:  # of a file that was tampered with
        raise UserError(
            f"{own.init_from} comes with settings that are none ({one_line(error)}): set them"
            " yourself, with --config.init_settings="
        ) from error
    own.init_settings = ",".join(name for name in fields if name != "init_from")
    if fields:
        said = ", ".join(f"{name}={value}" for name, value in fields.items())
        processes.print_once(f"{own.init_from} comes with {said}", file=sys.stderr)
    return own


def _without(fields: dict[str, Any], config: ConfigDict, given: Collection[str]) -> dict[str, Any]:
    """The fields that are not given; without all of the preprocessing if its mean is another."""
    mean = config.preprocess.mean
    other = "preprocess.mean" in given and mean != fields.get("preprocess.mean", mean)
    return {
        name: value
        for name, value in fields.items()
        if name not in given and not (other and name.startswith("preprocess."))
    }


def _fields(config: ConfigDict, workdir: pathlib.Path | None, asks: bool) -> dict[str, Any] | None:
    """What `settled` sets; None if init_from names no file of another framework."""
    if config.init_settings != AUTO or not (config.init_from or asks):
        return None
    if workdir and (workdir / folder.CONFIG).exists():
        stored = compare.flatten(folder.read_config(workdir))
        began_so = stored["init_settings"] != AUTO and stored["init_settings"]
        if asks and folder.has_checkpoints(workdir):
            names = ("init_from", *stored["init_settings"].split(",")) if began_so else ()
            return {name: stored[name] for name in names if name in stored} or None
        if stored["init_from"] == config.init_from and began_so:
            return {n: stored[n] for n in stored["init_settings"].split(",") if n in stored}
    if not config.init_from:
        return None
    if is_foreign(config.init_from):
        found = read(config)
        try:
            return found.settings(config.model)
        except UserError as error:
            raise UserError(f"the weight file {config.init_from}: {error}") from error
    if config.init_names:
        raise UserError(
            f"config.init_names={config.init_names}: {config.init_from} is no file of another"
            " framework, and has our names"
        )
    return None


def variables(config: ConfigDict, module, input_shape) -> Mapping[str, Any]:
    """`module`'s variables from the file of config.init_from, NumPy arrays; strict.

    Raises UserError, one line that names some, for tensors that do not fit.
    """
    try:
        return read(config).variables(module, input_shape)
    except UserError as error:
        raise UserError(f"{config.init_from}: {error}") from error
    finally:
        _read.cache_clear()  # VGG's are half a gigabyte


def fitting(config: ConfigDict, module, input_shape) -> Mapping[str, Any]:
    """`variables`, of a net that may know another number of classes than `module`."""
    count = read(config).num_classes(module, input_shape)
    return variables(config, module.clone(num_classes=count), input_shape)


def experiment_of(
    config: ConfigDict,
    name: str,
    class_names: Sequence[str] | None = None,
    data: bool = True,
    given: Collection[str] = (),
) -> tuple[experiment.Experiment, list[str]]:
    """The experiment of a net that is only asked, with the weights of file `name`, and its classes.

    class_names: by default the data set's. data: False: where the file's net knows another number
    of classes, they are called as the file says, or by their numbers. given: see `settled`.
    Raises UserError as that.
    """
    own = config.copy_and_resolve_references()
    if own.init_from != name:
        own.init_from = name
        own.init_settings = own.init_settings and AUTO
    try:
        own = settled(own, given=given)
        own.evaluate.ensemble = ""
        own.augment.lighting = "none"  # only training has it, and would need the set's colours
        exp = experiment.build(own)
        names = class_names or exp.info.class_names
        if not data:
            file = read(own)
            count = file.num_classes(exp.module, exp.input_shape)
            if class_names and len(class_names) != count:
                raise UserError(
                    f"{name} knows {count} classes, not {len(class_names)}: name them all"
                )
            if not class_names and len(file.class_names) == count:
                names = file.class_names
            names = names if len(names) == count else tuple(map(str, range(count)))
    finally:
        _read.cache_clear()
    info = dataclasses.replace(exp.info, class_names=tuple(names))
    return experiment.build(own, info=info), list(names)
