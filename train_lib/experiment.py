"""The parts that a config names, put together: what training, evaluation and prediction share."""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable, Iterator, Sequence

import flax.linen as nn
import jax
import numpy as np
from ml_collections import ConfigDict

from configs import schema
from errors import UserError
from input_pipeline import sources, stream, views
from input_pipeline import statistics as statistics_lib
from input_pipeline.split import Info
from input_pipeline.transform import make_transform, needs_statistics, output_shape
from models import registry
from train_lib import losses, schedules
from train_lib import workdir as folder
from train_lib.distributed import parallel, processes, workers
from train_lib.state import TrainState
from train_lib.steps import make_eval_step


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A checked config and what follows from it. input_shape: (height, width, channels).

    reading: how images are decoded and cut, where they are not arrays taken as they come.
    devices: of this process; `parallel` knows those of the others.
    What takes the training set is not made before it is asked for. workdir: the run's folder, if
    there is one. given_statistics: the training set's, of a net from a file.
    """

    config: ConfigDict
    info: Info
    reading: stream.Reading
    module: nn.Module
    input_shape: tuple[int, int, int]
    loss: losses.Loss
    devices: Sequence[jax.Device]
    workdir: pathlib.Path | None = None
    given_statistics: statistics_lib.Statistics | None = None

    @functools.cached_property
    def train_split(self):
        return sources.load(self.config.dataset, self.config.dataset.train_split)

    @functools.cached_property
    def statistics(self) -> statistics_lib.Statistics | None:
        """Of the training set, if the config asks for any: the run's own, or else the set's."""
        config = self.config
        if not needs_statistics(config.preprocess, config.augment):
            return None
        if self.given_statistics:
            return self.given_statistics

        def find() -> statistics_lib.Statistics:
            own = folder.statistics(self.workdir) if self.workdir else None
            return own or statistics_lib.find_or_compute(
                config.dataset, config.view, lambda: self.train_split, self.reading.workers
            )

        if processes.count() == 1:
            return find()
        found = processes.arrays_from_first(lambda: vars(find()))
        return statistics_lib.Statistics(**found | {"examples": int(found["examples"])})

    @functools.cached_property
    def transform(self) -> Callable:
        """Images and keys -> network input; see `input_pipeline.transform.make_transform`."""
        return make_transform(self.config.preprocess, self.config.augment, self.statistics)

    @functools.cached_property
    def drop_scale(self) -> Callable:
        """step -> factor on every drop rate, from the schedule's drop_anneal_epochs."""
        steps_per_epoch = 0.0
        if self.config.schedule.drop_anneal_epochs:  # only then is the set's size needed
            examples = self.info.train_examples or len(self.train_split)
            steps_per_epoch = examples / self.config.batch_size
        return schedules.make_drop_scale(self.config.schedule, steps_per_epoch)

    def eval_step(self) -> Callable:
        step = make_eval_step(
            self.module, self.loss, self.loss.probabilities, self.transform, self.drop_scale
        )
        return parallel.eval_step(step, self.devices)

    @property
    def eval_batch_size(self) -> int:
        """This process's share of config.evaluate.batch_size."""
        return -(-self.config.evaluate.batch_size // processes.count())

    def picture(self, split, i: int) -> np.ndarray:
        """Example i as the net sees it in evaluation, but uint8: [h, w, c]."""
        return views.cut(split.read(i)[0], self.reading.view)[0]

    def eval_batches(self, split) -> Iterator[dict]:
        """Batches of config.evaluate.batch_size; of a smaller split, one padded batch.

        split: where several processes evaluate together, this one's part.
        """
        count = len(self.devices)
        # Evaluation pads its last batch anyway, so its size may follow the device count.
        size = -(-min(self.eval_batch_size, len(split)) // count) * count
        return stream.eval_batches(split, self.reading, size, count)


def build(
    config: ConfigDict,
    workdir: pathlib.Path | None = None,
    statistics: statistics_lib.Statistics | None = None,
    info: Info | None = None,
) -> Experiment:
    """workdir, statistics: see `Experiment`. Compiles and reads nothing.

    info: of the data set, which then need not be there.
    Raises UserError for anything in the config that cannot be.
    """
    schema.validate(config)
    info = info or sources.dataset_info(config.dataset)
    module = registry.create(config.model, info.num_classes, parallel.AXIS)
    reading = stream.Reading.from_sections(
        config.dataset, config.view, workers.prefetch_in_processes(config.dataset.workers)
    )
    if info.copy:
        info.copy.check_view(reading.view)
    side = config.view.size
    image_shape = (side, side, info.image_shape[2]) if side else info.image_shape
    input_shape = output_shape(config.preprocess, image_shape)
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
        reading=reading,
        module=module,
        input_shape=input_shape,
        loss=losses.make_loss(config.loss),
        devices=parallel.local_devices(config.num_devices),
        workdir=workdir,
        given_statistics=statistics,
    )


def state_shapes(module: nn.Module, input_shape):
    """The module's variables as ShapeDtypeStructs; nothing is computed."""
    images = jax.ShapeDtypeStruct((1, *input_shape), jax.numpy.float32)
    return jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), images)


def check_memory(exp: Experiment) -> None:
    """Raises UserError if the devices cannot hold even parameters and updates, or a batch.

    Parameters, gradient, velocity and average, on each of them; a batch's images on all together.
    Asked before they are made: a machine that runs out of memory kills the process without a word.
    """
    leaves = jax.tree.leaves(state_shapes(exp.module, exp.input_shape))
    held = 4 if exp.config.optimizer.averaging else 3
    needed = held * sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    there = parallel.memory_bytes(exp.devices[0])
    copies = len(exp.devices) if exp.devices[0].platform == "cpu" else 1
    batch = exp.config.batch_size * math.prod(exp.input_shape) * 4 // processes.count()
    if there is not None and batch > there * len(exp.devices) // copies:
        raise UserError(
            f"config.batch_size={exp.config.batch_size}: such a batch has {batch / 1e9:,.0f} GB,"
            f" and a device has {there / 1e9:,.0f} GB: lower it"
        )
    if there is not None and needed * copies > there:
        raise UserError(
            f"{exp.config.model.name} needs {needed * copies / 1e9:,.0f} GB for its parameters"
            f" and their updates, and there are {there / 1e9:,.0f} GB: make it smaller"
        )


def count_parameters(state: TrainState) -> int:
    """The number of trainable values."""
    return sum(leaf.size for leaf in jax.tree.leaves(state.params))
