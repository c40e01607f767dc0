"""Weight files of other frameworks: their values, their classes, and the settings they need.

docs/weights.md lists the files that `models.pretrained` reads.
"""

import contextlib
import functools
import json
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from command_line import console, expand
from configs import compare
from errors import UserError, one_line
from input_pipeline import imagenet, split
from models import pretrained
from models.pretrained.entries import class_bias
from train_lib.distributed import processes
from train_lib.workdir import CONFIG, has_checkpoints, read_config

AUTO = "auto"  # value of config.init_settings: set the fields that belong to the weights


def is_pretrained_file(name: str) -> bool:
    """Whether config.init_from, or a member of an ensemble, names a file of another framework."""
    return name.startswith(pretrained.HUB) or pretrained.is_pretrained(expand(name))


# Reading files of other frameworks


def read(init_from: str, init_names: str) -> pretrained.WeightFile:
    """Reads the weight file `init_from`.

    init_names: a JSON file that maps Canon's names to those in the weight file, or "".
    Raises UserError for a file that is missing, damaged or of an unknown kind.
    """
    files = [expand(_locate(init_from))]
    if init_names:
        files.append(expand(init_names))
    return _read(*files, versions=tuple(map(_version, files)))


_locate = functools.cache(pretrained.locate)  # a name on the hub is looked up once


def _version(path: pathlib.Path) -> tuple[int, int] | None:
    """Modification time and size of a file, which change with its content."""
    status = path.stat() if path.is_file() else None
    return status and (status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=1)  # needed twice: for its settings, then for its values
def _read(path: pathlib.Path, names=None, *, versions) -> pretrained.WeightFile:
    return pretrained.read(path, names)


@contextlib.contextmanager
def file_in_memory():
    """Frees the memory of the file that was read in this context (VGG: half a gigabyte)."""
    try:
        yield
    finally:
        _read.cache_clear()


def load_variables(exp, fit_classes: bool = False) -> Mapping[str, Any]:
    """Reads the variables of the experiment's module from config.init_from, as NumPy arrays.

    fit_classes: True if the file may have another number of classes than the module.
    Raises UserError for tensors that do not fit. The message names some of them.
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


def class_names_of(
    exp, class_names: Sequence[str] | None = None, needs_data: bool = False
) -> tuple[str, ...]:
    """The names of the classes of the weight file config.init_from, in the file's order.

    class_names: names that the user gave, or None. Then the names are those in the file or those of
        the data set, if their number is right. Otherwise they are ImageNet's WordNet ids if there
        are 1,000 classes, and "0", "1", ... if not.
    needs_data: True if they are those of the data set wherever the file has no names.
    Raises UserError if class_names has another number of names than the file has classes, and for
    a data set whose classes may be in another order.
    """
    file = read(exp.config.init_from, exp.config.init_names)
    if needs_data:
        return file.class_names or _in_order_of(file, exp)
    count = file.num_classes(exp.module, exp.input_shape)
    if class_names and len(class_names) != count:
        raise UserError(
            f"{exp.config.init_from} has {count} classes, not {len(class_names)}: name all of them"
        )
    for names in (class_names, file.class_names):
        if names and len(names) == count:
            return tuple(names)
    if len(exp.info.class_names) == count:
        return _in_order_of(file, exp)
    is_imagenet = count == len(imagenet.class_names())
    return tuple(imagenet.class_names()) if is_imagenet else tuple(map(str, range(count)))


def _in_order_of(file: pretrained.WeightFile, exp) -> tuple[str, ...]:
    """The classes of the data set in the order of a weight file that has no names.

    Weights of 1,000 classes have the order of published networks for ImageNet. Raises UserError for
    another number of classes, for 1,000 classes that are not recognisably ImageNet's, and for
    folders with numbers in their names in the order of text (0, 1, 10, 2), because other networks
    may have been trained on such folders.
    """
    names, count = exp.info.class_names, file.num_classes(exp.module, exp.input_shape)
    if count != len(names):
        problem = (
            f"{file.path} has {count} classes and {exp.info.name} has {len(names)}: give a data set"
            " with a folder for each class of the weights"
        )
    elif count == len(imagenet.class_names()):
        try:
            return imagenet.in_published_order(names)
        except ValueError as error:
            problem = (
                f"{file.path} does not say in which order its {count} classes are, and {error}:"
                " name the folders by WordNet ids (n01440764), by English names, or by numbers in"
                " that order"
            )
    elif names == split.by_number(names):
        return names
    else:
        renamed = ", ".join(f"{i:02}_{name}" for i, name in enumerate(names[:3]))
        problem = (
            f"the folders {', '.join(names[:4])}, ... are in the order of text, and {file.path}"
            " does not say in which order its classes are: if it is the order of the numbers,"
            " rename the folders with zeros before the numbers (00, 01, ...); if it is the order of"
            " the text, as in weights that torchvision's ImageFolder trained on these folders,"
            f" rename them to {renamed}, ..."
        )
    raise UserError(
        f"{problem}. In training you can also leave the last layer out, with"
        f" {without_last_layer(exp)}"
    )


def without_last_layer(exp) -> str:
    """The flag that loads all layers but the one with one value for each class."""
    bias = class_bias(exp.module, exp.input_shape)
    layer = "/".join(bias[1:-1]) if bias else "LAYER"
    return f"--config.init_layers=\"('!{layer}/*',)\""


# The settings that belong to weights


def settle(
    config: ConfigDict,
    workdir: pathlib.Path | None = None,
    given: Collection[str] = (),
    read_only: bool = False,
) -> ConfigDict:
    """Sets the fields that belong to the weights of config.init_from.

    These fields are the preprocessing that the weights were trained with, and options of the model.
    Returns a copy of the config, whose init_settings lists the fields. If init_from does not name a
    file of another framework, returns the config itself. Prints the fields on standard error.

    workdir: if it holds a run, the fields are taken from the run, and the file is not read.
    given: names of fields that stay unchanged.
    read_only: True when the command does not train. Then init_from is also taken from the run.
    Raises UserError as `read`, and for a model that the file's source does not have.
    """
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
            raise ValueError(f"there is no field {unknown[0]}")
        settled.update_from_flattened_dict(values)
    except (TypeError, ValueError) as error:  # the file was changed by hand
        raise UserError(
            f"the settings in {settled.init_from} do not fit the config ({one_line(error)}): give"
            " --config.init_settings= and set the fields yourself"
        ) from error
    fields.pop("init_from", None)  # it names the source of the other fields
    settled.init_settings = ",".join(fields)
    if fields:
        assignments = ", ".join(f"{name}={value}" for name, value in fields.items())
        processes.print_once(f"{settled.init_from} sets {assignments}", file=console())
    elif config.init_names:
        processes.print_once(_choices_not_shown(config), file=console())
    return settled


# What changes the results of a network, but not its tensors. docs/weights.md has the whole list.
NOT_SHOWN = (
    *("preprocess.mean", "preprocess.given_mean", "preprocess.deviation"),
    *("preprocess.low", "preprocess.high"),
    *("model.activation", "model.dropout_scaling", "model.lrn", "model.pooling"),
    *("model.stride", "model.pool1_padding", "model.shortcut", "model.shortcut_padding"),
)


def _choices_not_shown(config: ConfigDict) -> str:
    """A line about the fields that the user of a list of names must set."""
    values = compare.flatten(config)
    fields = ", ".join(f"{name}={values[name]}" for name in NOT_SHOWN if name in values)
    return (
        f"{config.init_from} does not show these settings. They must be as in its training"
        f" (docs/weights.md): {fields}"
    )


def _without(fields: dict[str, Any], config: ConfigDict, given: Collection[str]) -> dict[str, Any]:
    """The fields that are not given. If another mean is given, no preprocessing field is set.

    A size that is given has its own `test_scale`, see `configs.common.scale_with_size`.
    """
    mean = config.preprocess.mean
    other_mean = "preprocess.mean" in given and mean != fields.get("preprocess.mean", mean)
    given = {*given, "view.test_scale"} if "view.size" in given else given
    return {
        name: value
        for name, value in fields.items()
        if name not in given and not (other_mean and name.startswith("preprocess."))
    }


def _fields(
    config: ConfigDict, workdir: pathlib.Path | None, read_only: bool
) -> dict[str, Any] | None:
    """The fields that `settle` sets; None if init_from does not name another framework's file."""
    if config.init_settings != AUTO:
        return None
    if workdir and (workdir / CONFIG).exists():
        stored = compare.flatten(read_config(workdir))
        # Neither AUTO nor "" is the name of a field.
        settings = {n: stored[n] for n in stored["init_settings"].split(",") if n in stored}
        if read_only and has_checkpoints(workdir):
            return {"init_from": stored["init_from"], **settings} if settings else None
        if stored["init_settings"] != AUTO and stored["init_from"] == config.init_from:
            return settings
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
            f"config.init_names={config.init_names}: {config.init_from} is not a file of another"
            " framework: leave init_names out"
        )
    return None
