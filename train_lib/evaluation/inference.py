"""A trained network: from pictures to class probabilities. `trained` opens one."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from errors import UserError, printable, reported
from input_pipeline import decode, imagenet
from input_pipeline import images as image_files
from input_pipeline.statistics import Statistics
from models import inspection
from models.layers import backend
from train_lib import experiment
from train_lib import state as state_lib
from train_lib.distributed import parallel


@dataclasses.dataclass(frozen=True)
class Trained:
    """A network, its weights, and everything that turns pictures into class probabilities.

    class_names: the names of the classes that the network was trained on.
    read: () -> (step, variables). The weights are read when they are first used.
    name: the run or file, as the user wrote it.
    """

    exp: experiment.Experiment
    class_names: Sequence[str]
    read: Callable[[], tuple[int, Mapping[str, Any]]]
    name: str = ""

    @functools.cached_property
    def _weights(self) -> tuple[int, Mapping[str, Any]]:
        return self.read()

    def open(self) -> "Trained":
        """Reads the weights now, and returns the network. Raises UserError if it cannot."""
        _ = self._weights
        return self

    @functools.cached_property
    def readable_names(self) -> list[str]:
        """The class names, with English names in place of ImageNet's WordNet ids."""
        return list(map(imagenet.readable, self.class_names))

    @property
    def step(self) -> int:
        """The number of updates that the network has had."""
        return self._weights[0]

    @property
    def variables(self) -> Mapping[str, Any]:
        """{"params": ..., "batch_stats": ...}, NumPy arrays under the papers' layer names.

        For a run that averages its parameters, the averages.
        """
        return self._weights[1]

    @property
    def module(self) -> nn.Module:
        """The linen module: module.apply(variables, network_input) gives logits.

        With annealed dropout, `drop_scale` is another argument.
        """
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
        """The training set's mean and colours, if the preprocessing needs them."""
        return self.exp.statistics

    @property
    def view_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of a view of an image."""
        return self.exp.view_shape

    def views(self, pictures) -> np.ndarray:
        """Pictures as an evaluation shows them to the network: uint8 [n, height, width, channels].

        pictures: one picture or a sequence of them, each a path, a PIL image or a uint8 array
            [height, width] or [height, width, channels]; or an array [n, height, width, channels].
            A network that takes views of photographs (config.view.size) takes the central crop of
            a picture of any size. For other networks a file of another size is fitted in whole
            (`input_pipeline.images.read`), and an array must have the size of the data set.

        Raises UserError for anything that is not a picture or has another shape.
        """
        is_batch = isinstance(pictures, list | tuple) or getattr(pictures, "ndim", 0) == 4
        pictures = list(pictures) if is_batch else [pictures]
        if not pictures:
            raise UserError("there are no images: give at least one")
        return np.stack([self._view(picture) for picture in pictures])

    def preprocess(self, pictures) -> jax.Array:
        """Pictures (see `views`) to network input, float32 [n, *input_shape]."""
        return self._transform(self.views(pictures))

    def predict(self, pictures) -> np.ndarray:
        """Class probabilities of pictures (see `views`), float32 [n, classes].

        From one view of each picture; other protocols of --mode=evaluate use more. Compiled once
        for each n. Under LeNet-5's MAP criterion, 1 - sum of a row is the probability of "no
        character".
        """
        return np.asarray(self.probabilities(self.on_device, self.views(pictures)))

    def top(self, pictures, count: int = 5) -> list[list[tuple[str, float]]]:
        """The most probable classes (`readable_names`) and their probabilities, best first.

        The result has one list for each picture.
        """
        names = self.readable_names
        return [
            [(names[i], float(row[i])) for i in np.argsort(-row, kind="stable")[:count]]
            for row in self.predict(pictures)
        ]

    def activations(self, pictures, train: bool = False, seed: int = 0) -> dict[str, jax.Array]:
        """Every layer's output for pictures (see `views`), as `models.inspection.activations`."""
        images = self.preprocess(pictures)
        return inspection.activations(
            self.module, self.on_device, images, train, seed, self.drop_scale
        )

    @property
    def drop_scale(self) -> float:
        """The factor on the drop rates at this step: 1 unless they are annealed."""
        is_annealed = self.config.schedule.drop_anneal_epochs
        return float(self.exp.drop_scale(self.step)) if is_annealed else 1.0

    def state(self) -> state_lib.TrainState:
        """The step and the variables on all devices. Reads the weights, and does not keep them."""
        step, variables = self.read()
        model_state = dict(variables)
        params = model_state.pop("params")
        state = state_lib.TrainState(jnp.int32(step), params, model_state, opt_state=(), window={})
        return parallel.replicate(state, self.exp.devices)

    @functools.cached_property
    def on_device(self) -> Mapping[str, Any]:
        """`variables` on the device, copied once: those of VGG are 550 MB."""
        return jax.device_put(self.variables)

    @functools.cached_property
    def probabilities(self) -> Callable:
        """The jitted (variables, views uint8) -> class probabilities float32, a pure function."""
        return backend.jit(self.inference())

    def inference(self) -> Callable:
        """`probabilities` before it is jitted."""
        exp, scale = self.exp, self.drop_scale

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
        name = printable(str(picture)) if is_file else "a picture"
        if is_file and not (exp.reading.view.size and exp.info.image_shape[2] == 3):
            return exp.read_picture(str(picture))[0]
        if is_file:
            picture = image_files.content(str(picture))
        elif not isinstance(picture, bytes):
            picture = _as_pixels(picture, exp.info.image_shape[2])
        with reported(f"cannot read {name}", "give an image file", decode.BadImage):
            view = exp.reading.view.cut(picture)[0]
        if view.shape != self.view_shape:
            raise UserError(
                f"the image has the shape {list(view.shape)}, and the network takes"
                f" {list(self.view_shape)}: give it in this shape, or as a file"
            )
        return view


def _as_pixels(picture, channels: int) -> np.ndarray:
    """A PIL image or an array as uint8 [height, width, channels]. Raises UserError for others.

    A PIL image of any mode is converted to so many channels.
    """
    if isinstance(picture, Image.Image):
        with reported("cannot read a picture", "give 8 bits", decode.BadImage):
            picture = decode.flatten(picture).convert("L" if channels == 1 else "RGB")
    pixels = np.asarray(picture)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.dtype != np.uint8 or pixels.shape[2] not in (1, 3):
        raise UserError(
            f"an array of {pixels.dtype} {list(pixels.shape)} is not an image: give uint8"
            " [height, width, 1 or 3], values of 0..255"
        )
    return pixels
