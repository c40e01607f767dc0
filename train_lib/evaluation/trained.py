"""A trained net in the hand: what a notebook or another program opens a run or a file with.

    from train_lib.evaluation.trained import load_run

    net = load_run("runs/lenet5")
    net.params["c3"]["kernel"].shape          # (5, 5, 60)
    net.top(["seven.png"])                    # [[("7", 0.98), ("1", 0.01), ...]]
    net.activations(["seven.png"])["s4"]      # an array [1, 5, 5, 16]

No flags, no workdir of its own, no data set: any machine with the folder or the file will do.
"""

import dataclasses
import functools
import importlib
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from ml_collections import ConfigDict

import configs
from errors import UserError, printable
from input_pipeline import decode, views
from input_pipeline import images as image_files
from input_pipeline.statistics import Statistics
from models import inspection, registry
from models.layers import backend
from train_lib import experiment, foreign
from train_lib import workdir as folder
from train_lib.checkpoints import Checkpoints
from train_lib.evaluation import exported


@dataclasses.dataclass(frozen=True)
class Trained:
    """A net, its weights, and all that makes class probabilities of pictures.

    variables: {"params": ..., "batch_stats": ...} of natural shapes, NumPy arrays, by the papers'
        names of layers; of a run that averages its parameters, the averages.
    class_names: one for each class. step: the number of updates that it has had.
    """

    exp: experiment.Experiment
    variables: Mapping[str, Any]
    class_names: Sequence[str]
    step: int

    @property
    def module(self) -> nn.Module:
        """The linen module: module.apply(variables, network_input) gives logits."""
        return self.exp.module

    @property
    def params(self) -> Mapping[str, Any]:
        return self.variables["params"]

    @property
    def config(self) -> ConfigDict:
        return self.exp.config

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of the network's input."""
        return self.exp.input_shape

    @property
    def statistics(self) -> Statistics | None:
        """The training set's mean and colours, where the preprocessing needs them."""
        return self.exp.statistics

    def views(self, pictures) -> np.ndarray:
        """Pictures as the net looks at them in a test, uint8 [n, height, width, channels].

        pictures: one or a sequence of paths of image files, PIL images, or uint8 arrays
            [height, width] or [height, width, channels]; or an array [n, height, width, channels].
            A net that takes views of photographs (config.view.size) takes the central crop of
            any size; for the others, a file of another size is fitted in whole, as
            `input_pipeline.images.read` says, and an array must have the data set's size.

        Raises UserError for what is no picture, or has another shape.
        """
        if isinstance(pictures, np.ndarray | jax.Array):
            pictures = np.asarray(pictures)
            several = list(pictures) if pictures.ndim == 4 else [pictures]
        elif isinstance(pictures, list | tuple):
            several = list(pictures)
        else:
            several = [pictures]
        if not several:
            raise UserError("there are no pictures to look at")
        return np.stack([self._view(picture) for picture in several])

    def preprocess(self, pictures) -> jax.Array:
        """Pictures (see `views`) to network input, float32 [n, *input_shape]."""
        return self._transform(self.views(pictures))

    def predict(self, pictures) -> np.ndarray:
        """Class probabilities of pictures (see `views`), float32 [n, classes]; compiled once a n.

        One view of each; the protocols of `--mode=evaluate` look at more. Under LeNet-5's MAP
        criterion what is missing to 1 is "no character".
        """
        return np.asarray(self.probabilities(self.on_device, self.views(pictures)))

    def top(self, pictures, count: int = 5) -> list[list[tuple[str, float]]]:
        """The most probable classes of each picture and their probabilities, best first."""
        found = []
        for row in self.predict(pictures):
            best = np.argsort(-row, kind="stable")[:count]
            found.append([(self.class_names[i], float(row[i])) for i in best])
        return found

    def activations(self, pictures, train: bool = False, seed: int = 0) -> dict[str, jax.Array]:
        """What every layer gives for pictures (see `views`): `models.inspection.activations`."""
        images = self.preprocess(pictures)
        return inspection.activations(self.module, self.on_device, images, train, seed)

    @functools.cached_property
    def on_device(self) -> Mapping[str, Any]:
        """`variables` where the net computes: VGG's 550 MB go there once, not at every call."""
        return jax.device_put(self.variables)

    @functools.cached_property
    def probabilities(self) -> Callable:
        """The jitted (variables, views uint8) -> probabilities float32, a pure function."""
        return backend.jit(self.inference())

    def inference(self) -> Callable:
        """`probabilities` before it is jitted."""
        exp, scale = self.exp, 1.0
        if self.config.schedule.drop_anneal_epochs:
            scale = float(exp.drop_scale(self.step))

        def infer(variables, images):
            inputs = exp.transform(images)
            logits = exp.module.apply(variables, inputs, train=False, drop_scale=scale)
            return exp.loss.probabilities(logits)

        return infer

    @functools.cached_property
    def _transform(self) -> Callable:
        return jax.jit(self.exp.transform)

    def _view(self, picture) -> np.ndarray:
        exp, is_file = self.exp, isinstance(picture, str | pathlib.Path)
        shape, name = exp.info.image_shape, printable(str(picture)) if is_file else "a picture"
        if is_file and not (exp.reading.view.size and shape[2] == 3):
            return image_files.read(str(picture), shape, exp.config.predict.invert)[0]
        if is_file:
            picture = image_files.content(str(picture))
        elif not isinstance(picture, bytes):
            picture = np.asarray(picture)
            if picture.ndim == 2:
                picture = picture[..., None]
            if picture.ndim != 3 or picture.dtype != np.uint8 or picture.shape[2] not in (1, 3):
                raise UserError(
                    f"an array of {picture.dtype} {list(picture.shape)} is no picture: give uint8"
                    " [height, width, 1 or 3], values of 0..255"
                )
        try:
            found = views.cut(picture, exp.reading.view)[0]
        except decode.BadImage as error:
            raise UserError(f"cannot read {name} ({error}): give an image file") from error
        wanted = (exp.reading.view.size,) * 2 if exp.reading.view.size else shape[:2]
        if found.shape != (*wanted, shape[2]):
            raise UserError(
                f"the picture has {list(found.shape)}, and the net takes {[*wanted, shape[2]]}:"
                " give it so, or as a file"
            )
        return found


def load_run(path: str | pathlib.Path, checkpoint: str | int = "latest") -> Trained:
    """The net of a run's folder, or of a file that --mode=export made of one.

    checkpoint: "latest", "best" (the lowest test error), or a step; a file has one only.
    Raises UserError for a folder without a run, a checkpoint that is not there, and damaged ones.
    """
    path = pathlib.Path(path).expanduser()
    if foreign.is_foreign(str(path)):
        raise UserError(f"{path} is of another framework: open it by load_pretrained(model, file)")
    if path.suffix.lower() == exported.SUFFIX:
        return _from_file(path)
    folder.check_run(path, "load_run")
    exp = experiment.build(_on_one_device(folder.read_config(path)), path, info=folder.info(path))
    saved = Checkpoints(path, read_only=True)
    step = checkpoint if isinstance(checkpoint, int) else None
    if checkpoint == "best":
        step = saved.best_step()
        if step is None:
            raise UserError(f"no checkpoint in {path} was evaluated: take the latest")
    elif checkpoint != "latest" and step is None:
        raise UserError(f"checkpoint={checkpoint}: give latest, best, or a step")
    restored = saved.restore_variables(step)
    if restored is None:
        raise UserError(f"there is no checkpoint {checkpoint} in {path}")
    step, variables = restored
    return Trained(exp, variables, folder.class_names(path), step)


def load_pretrained(
    model: str | ConfigDict,
    file: str | pathlib.Path,
    names: str | pathlib.Path = "",
    class_names: Sequence[str] | None = None,
) -> Trained:
    """A net with the weights of another framework's file, and the preprocessing they belong to.

        net = load_pretrained("resnet:50-v1.5", "resnet50.pth")

    model: a config, or its file and argument as --config has them, "resnet:50-v1.5" or "vgg:D".
    file: of torchvision, timm, Caffe or Keras, or "hub:ORG/NAME" (docs/weights.md). names: a JSON
    file of tensors' names, for weights that Canon does not know. class_names: by default those of
    the config's data set if it is there, else numbers.

    Raises UserError, one line, for a model, file or list of names that does not fit.
    """
    config = _config_of(model) if isinstance(model, str) else model.copy_and_resolve_references()
    config.update({"init_from": str(file), "init_names": str(names)})
    if not foreign.is_foreign(config.init_from):
        if not pathlib.Path(file).expanduser().exists():
            raise UserError(f"no weight file {file}: give an existing one")
        raise UserError(
            f"{file} is no weight file of another framework: open a run, or a file of"
            " --mode=export, by load_run"
        )
    exp, known = foreign.experiment_of(config, config.init_from, class_names, data=False)
    return Trained(exp, foreign.variables(exp.config, exp.module, exp.input_shape), known, 0)


def _config_of(model: str) -> ConfigDict:
    """The config of "resnet:50-v1.5". Raises UserError for a name or an argument that is none."""
    name, _, argument = model.partition(":")
    folder = pathlib.Path(configs.__file__).parent
    every = sorted(path.stem for path in folder.glob("*.py") if path.stem not in _NO_CONFIGS)
    registry.choose("model", name, every)
    get_config = importlib.import_module(f"configs.{name}").get_config
    try:
        return get_config(argument) if argument else get_config()
    except ValueError as error:
        raise UserError(f"model={model}: {error}") from error


_NO_CONFIGS = ("__init__", "common")


def _on_one_device(config: ConfigDict) -> ConfigDict:
    """The config of a run, however many devices trained it."""
    config.num_devices = 1
    return config


def _from_file(path: pathlib.Path) -> Trained:
    stored = exported.load(path)
    config = _on_one_device(stored.config)
    exp = experiment.build(config, statistics=stored.statistics, info=stored.info)
    exported.check_fits(stored, exp, path)
    return Trained(exp, stored.variables, stored.class_names, stored.step)
