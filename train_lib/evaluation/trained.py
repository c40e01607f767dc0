"""Opens trained networks: a run, an exported file or pretrained weights.

    from train_lib.evaluation.trained import load_run

    network = load_run("runs/lenet5")
    network.params["c3"]["kernel"].shape                   # (5, 5, 60)
    network.top(["docs/images/seven.png"])                 # [[("7", 0.49), ("0", 0.0), ...]]
    network.activations(["docs/images/seven.png"])["s4"]   # an array [1, 5, 5, 16]

Only the run's folder or the file is needed: no flags and no data set.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from command_line import expand
from configs.load import load
from errors import UserError
from input_pipeline import sources
from input_pipeline.split import check_classes
from models import pretrained
from train_lib import experiment
from train_lib import state as state_lib
from train_lib.checkpoints import Checkpoints
from train_lib.distributed import processes
from train_lib.evaluation.inference import Trained
from train_lib.weights import exported, foreign, warm_start
from train_lib.workdir import CONFIG, check_run, read_config, read_info


def load_run(
    path: str | pathlib.Path, checkpoint: str | int = "latest", source: str = "load_run"
) -> Trained:
    """The network of a run's folder, or of a file that --mode=export wrote.

    checkpoint: "latest", "best" (the lowest test error), or a step; a file has only one.
    source: the flag or function that names the path, for messages.
    Raises UserError for a folder without a run, and for a missing or damaged checkpoint.
    """
    path = expand(path)
    if foreign.is_pretrained_file(str(path)):
        raise UserError(
            f"{source}={path}: this is a weight file of another framework: give a run's folder, or"
            " a file of --mode=export (in Python, load_pretrained opens it)"
        )
    if path.suffix.lower() == exported.SUFFIX:
        return from_export(path).open()
    check_run(path, source)
    if checkpoint not in ("latest", "best") and not isinstance(checkpoint, int):
        raise UserError(f"checkpoint={checkpoint}: give latest, best, or a step")
    config = read_config(path)
    config.num_devices = 1  # however many devices trained it
    return from_run(path, config, checkpoint=checkpoint).open()


def from_run(
    workdir: pathlib.Path,
    config: ConfigDict,
    given: Collection[str] = (),
    needs_data: bool = False,
    checkpoint: str | int = "",
) -> Trained:
    """The network of a run.

    given: see `experiment.resolve`.
    needs_data: whether the data set is read, and not only what the run stored about it.
    checkpoint: see `load_run`; by default config.evaluate.checkpoint.
    """
    info = read_info(workdir) if (workdir / CONFIG).exists() else None  # `resolve` reports None
    if info and needs_data:
        check_classes(str(workdir), info.class_names, sources.dataset_info(config.dataset))
    known = experiment.KnownData(None if needs_data else info)
    exp = experiment.resolve(config, workdir, given=given, read_only=True, known=known)
    step = checkpoint_step(workdir, checkpoint or exp.config.evaluate.checkpoint)
    read = functools.partial(read_run, exp, step)
    return Trained(exp, list(info.class_names), read, str(workdir))


def from_export(
    path: pathlib.Path, config: ConfigDict | None = None, needs_data: bool = False
) -> Trained:
    """The network in a file that --mode=export wrote.

    config: its data set, evaluation and devices are used; by default those of the file, and one
        device.
    needs_data: whether the data set is read, and not only what the file stores about it.
    """
    stored = exported.load(path, shapes_only=True)
    if config:
        use_evaluation_of(config, stored.config, needs_data)
        if needs_data:
            check_classes(str(path), stored.class_names, sources.dataset_info(config.dataset))
    else:
        stored.config.num_devices = 1
    known = experiment.KnownData(None if needs_data else stored.info, stored.statistics)
    exp = experiment.resolve(stored.config, read_only=True, known=known)
    exported.check_fits(stored, exp, path)
    read = functools.partial(warm_start.read_weights, path)
    return Trained(exp, stored.class_names, read, str(path))


def from_weight_file(
    config: ConfigDict,
    file: str,
    *,
    given: Collection[str] = (),
    class_names: Sequence[str] | None = None,
    needs_data: bool = False,
) -> Trained:
    """The network of a config with the weights in a file of another framework.

    given: see `experiment.resolve`.
    class_names: by default as in `foreign.class_names_of`.
    needs_data: whether the classes must be those of the data set.

    Raises UserError as `experiment.resolve`, and for class names that do not fit the file.
    """
    config = config.copy_and_resolve_references()
    if config.init_from != file:
        config.init_from = file
        config.init_settings = config.init_settings and foreign.AUTO
    config.evaluate.ensemble = ""
    config.augment.lighting = "none"  # unused without training, and it needs the training set
    with foreign.file_in_memory():
        exp = experiment.resolve(config, given=given, read_only=True)
        names = foreign.class_names_of(exp, class_names, needs_data)
    exp = dataclasses.replace(
        exp,
        info=dataclasses.replace(exp.info, class_names=names),
        module=exp.module.clone(num_classes=len(names)),
    )
    return Trained(exp, list(names), lambda: (0, foreign.load_variables(exp)), file)


def use_evaluation_of(config: ConfigDict, stored: ConfigDict, needs_data: bool) -> ConfigDict:
    """Sets the data set, the evaluation and the devices in `stored` to those of `config`.

    needs_data: False: the data set is not read, and `stored` keeps its name.
    """
    name = stored.dataset.name
    for section in ("dataset", "evaluate", "predict"):
        stored[section] = config[section].copy_and_resolve_references()
    if not needs_data:
        stored.dataset.name = name
    stored.evaluate.ensemble, stored.num_devices = "", config.num_devices
    return stored


def checkpoint_step(workdir: pathlib.Path, checkpoint: str | int) -> int | None:
    """The step of "latest" (None) or "best", or the step itself.

    Raises UserError if there is no best checkpoint.
    """
    if checkpoint != "best":
        return None if checkpoint == "latest" else checkpoint
    step = Checkpoints(workdir, read_only=True).best_step()
    if step is None:
        raise UserError(f"no checkpoint in {workdir} was evaluated: use the latest checkpoint")
    return step


def read_run(exp: experiment.Experiment, step: int | None = None) -> tuple[int, Mapping[str, Any]]:
    """(step, variables) of a checkpoint in exp.workdir, by default the newest undamaged one.

    Of several processes the first reads. Raises UserError for a missing or damaged checkpoint, and
    for variables that are not those of the experiment's module.
    """
    content = np.int64(0), state_lib.variable_shapes(exp.module, exp.input_shape)
    if processes.is_first():
        restored = Checkpoints(exp.workdir, read_only=True).restore_variables(step)
        if restored is None:
            number = "" if step is None else f" {step}"
            raise UserError(f"there is no checkpoint{number} in {exp.workdir}: train first")
        if exported.shapes_of(restored[1]) != exported.shapes_of(content[1]):
            raise UserError(
                f"checkpoint {restored[0]} in {exp.workdir} is of another model: use the config"
                " that it was made with"
            )
        content = np.int64(restored[0]), restored[1]
    step, variables = processes.tree_from_first(content)
    return int(step), variables


def load_pretrained(
    model: str | ConfigDict,
    file: str | pathlib.Path,
    names: str | pathlib.Path = "",
    class_names: Sequence[str] | None = None,
    given: Collection[str] = (),
) -> Trained:
    """A network with pretrained weights from another framework, and their preprocessing.

        network = load_pretrained("resnet:18", "resnet18-f37072fd.pth")

    model: a config, or its file and argument as --config has them: "resnet:50-v1.5", "vgg:D".
    file: of torchvision, timm, Caffe or Keras, or "hub:ORG/NAME" (docs/weights.md).
    names: a JSON file of tensors' names, for weights that Canon does not know.
    class_names: by default those in the file or of the config's data set, if their number is right.
        Otherwise ImageNet's if the file has 1,000 classes, and numbers if not.
    given: names of the config's fields that stay as they are, such as "view.test_scale". Other
        fields of the preprocessing are set to what belongs to the file.

    Raises UserError, one line, for a model, file or list of names that does not fit.
    """
    config = load(model) if isinstance(model, str) else model.copy_and_resolve_references()
    config.update({"init_from": str(file), "init_names": str(names)})
    if not foreign.is_pretrained_file(config.init_from):
        if not expand(file).exists():
            raise UserError(f"no weight file {file}: check the path")
        if expand(file).is_file():
            pretrained.files.read(expand(file))  # reports a damaged file
        raise UserError(
            f"{file} is not a weight file of another framework: open a run, or a file of"
            " --mode=export, with load_run"
        )
    network = from_weight_file(config, config.init_from, given=given, class_names=class_names)
    return network.open()
