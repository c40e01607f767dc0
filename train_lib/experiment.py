"""The parts that a config names, put together: what training, evaluation and prediction share."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
from ml_collections import ConfigDict

from errors import UserError
from input_pipeline import sources
from input_pipeline.transform import make_transform, output_shape
from models import registry
from train_lib import config as config_lib
from train_lib import losses, parallel, schedules
from train_lib.state import TrainState
from train_lib.steps import make_eval_step


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A checked config and what follows from it alone. input_shape: (height, width, channels)."""

    config: ConfigDict
    info: sources.Info
    module: nn.Module
    input_shape: tuple[int, int, int]
    loss: Callable
    transform: Callable
    devices: Sequence[jax.Device]

    @functools.cached_property
    def drop_scale(self) -> Callable:
        """step -> factor on every drop rate, from the schedule's drop_anneal_epochs."""
        steps_per_epoch = 0.0
        if self.config.schedule.drop_anneal_epochs:  # only then is the set's size needed
            train_split = sources.load(self.config.dataset, self.config.dataset.train_split)
            steps_per_epoch = len(train_split) / self.config.batch_size
        return schedules.make_drop_scale(self.config.schedule, steps_per_epoch)

    def eval_step(self) -> Callable:
        def probabilities(logits):
            return losses.probabilities(self.config.loss, logits)

        step = make_eval_step(
            self.module, self.loss, probabilities, self.transform, self.drop_scale
        )
        return parallel.eval_step(step, self.devices)

    def eval_batch_size(self) -> int:
        count = len(self.devices)
        # Evaluation pads its last batch anyway, so its size may follow the device count.
        return -(-self.config.evaluate.batch_size // count) * count


def build(config: ConfigDict) -> Experiment:
    """Raises UserError for anything in the config that cannot be; compiles nothing."""
    config_lib.validate(config)
    info = sources.describe(config.dataset)
    module = registry.create(config.model, info.num_classes, parallel.AXIS)
    input_shape = output_shape(config.preprocess, info.image_shape)
    try:
        state_shapes(module, input_shape)
    except ValueError as error:  # the model's own checks
        shape = "x".join(map(str, input_shape))
        raise UserError(
            f"{config.model.name} with {shape} images of {config.dataset.name}: {error}"
        ) from error
    return Experiment(
        config=config,
        info=info,
        module=module,
        input_shape=input_shape,
        loss=losses.make_loss(config.loss),
        transform=make_transform(config.preprocess, config.augment),
        devices=parallel.devices(config.num_devices),
    )


def state_shapes(module: nn.Module, input_shape):
    """The module's variables as ShapeDtypeStructs; nothing is computed."""
    images = jax.ShapeDtypeStruct((1, *input_shape), jax.numpy.float32)
    return jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), images)


def check_memory(exp: Experiment) -> None:
    """Raises UserError if a device cannot hold even parameters, gradient, velocity and average.

    Asked before they are made: a machine that runs out of memory kills the process without a word.
    """
    leaves = jax.tree.leaves(state_shapes(exp.module, exp.input_shape))
    held = 4 if exp.config.optimizer.averaging else 3
    needed = held * sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    there = parallel.memory(exp.devices[0])
    copies = len(exp.devices) if exp.devices[0].platform == "cpu" else 1
    if there is not None and needed * copies > there:
        raise UserError(
            f"{exp.config.model.name} needs {needed * copies / 1e9:,.0f} GB for its parameters"
            f" and their updates, and there are {there / 1e9:,.0f} GB: make it smaller"
        )


def count_parameters(state: TrainState) -> int:
    """The number of trainable values."""
    return sum(leaf.size for leaf in jax.tree.leaves(state.params))
