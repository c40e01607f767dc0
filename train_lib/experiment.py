"""`resolve` turns a config into an `Experiment`, which is complete and frozen.

Code that runs after `resolve` takes the experiment, one of its parts, or plain values. It does not
take a whole config.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Collection, Iterator, Sequence

import flax.linen as nn
import jax
import numpy as np
import optax
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict, FrozenConfigDict

from command_line import expand
from configs import schema
from configs.patterns import matching
from errors import UserError
from input_pipeline import batches, images, sources, stream
from input_pipeline import statistics as statistics_lib
from input_pipeline.reading import Reading
from input_pipeline.split import Info, Split, random_examples
from input_pipeline.transform import make_transform, needs_statistics, output_shape
from input_pipeline.views import View
from models import curvature, registry
from train_lib import losses, optimizers, schedules
from train_lib import state as state_lib
from train_lib.distributed import parallel, processes, workers
from train_lib.plan import ONE_STEP, Plan, make_plan
from train_lib.steps import Recipe, make_curvature_step, make_eval_step
from train_lib.workdir import (
    check_readable,
    check_same_config,
    has_checkpoints,
    read_config,
    read_statistics,
)

# Bytes of a training set that accelerators keep: a small part of their memory, and enough for
# CIFAR (150 MB) or MNIST (47 MB).
_MOST_RESIDENT = 2**30


@dataclasses.dataclass(frozen=True)
class KnownData:
    """Facts about a data set that a weight file or a run stores. The data set may then be missing.

    info: used if its image_shape is known.
    statistics: of the training split, if the network needs them.
    """

    info: Info | None = None
    statistics: statistics_lib.Statistics | None = None


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A run, or a network that is only read, with everything that follows from its config.

    config: complete and validated, as config.json stores it.
    workdir: the run's folder, if it has one.
    reading: how images are decoded and cut, if they are not arrays in memory.
    input_shape: (height, width, channels) of the network's input.
    loss: (logits, labels) -> float32 [batch], with the matching class probabilities.
    devices: this process's devices; pairs if two devices share a network.
    frozen: names of the parameters and statistics of config.optimizer.frozen.
    known: facts about the data set that are known without reading it.

    Parts that need the training set are computed when they are first used.
    """

    config: FrozenConfigDict
    workdir: pathlib.Path | None
    info: Info
    reading: Reading
    module: nn.Module
    input_shape: tuple[int, int, int]
    loss: losses.Loss
    devices: Sequence[jax.Device]
    frozen: frozenset[str] = frozenset()
    known: KnownData = KnownData()

    @functools.cached_property
    def train_split(self) -> Split:
        return sources.load(self.config.dataset, self.config.dataset.train_split)

    @functools.cached_property
    def test_split(self) -> Split:
        return sources.load(self.config.dataset, self.config.dataset.test_split)

    @property
    def train_examples(self) -> int:
        """The size of the training split. The split is loaded only if its size is not known."""
        return self.info.train_examples or len(self.train_split)

    @property
    def is_fitted(self) -> bool:
        """Whether the model is fitted to the whole training set at once, in one step."""
        return self.config.model.name in registry.FITTED

    @functools.cached_property
    def plan(self) -> Plan:
        """When the run evaluates, saves and ends."""
        return ONE_STEP if self.is_fitted else make_plan(self.config, self.train_examples)

    @functools.cached_property
    def statistics(self) -> statistics_lib.Statistics | None:
        """The training set's mean and colours, or None if the config does not need them.

        A run or a weight file stores them. Otherwise they are computed from the training set.
        With several processes, all of them must read this property at the same time.
        """
        config = self.config
        if not needs_statistics(config.preprocess, config.augment):
            return None
        if self.known.statistics:
            return self.known.statistics

        def read_or_compute() -> statistics_lib.Statistics:
            has_begun = self.workdir and has_checkpoints(self.workdir)
            stored = read_statistics(self.workdir) if has_begun else None
            return stored or statistics_lib.find_or_compute(
                config.dataset, config.view, lambda: self.train_split, self.reading.workers
            )

        if processes.count() == 1:
            return read_or_compute()
        arrays = processes.arrays_from_first(lambda: vars(read_or_compute()))
        return statistics_lib.Statistics(**arrays | {"examples": int(arrays["examples"])})

    @functools.cached_property
    def transform(self) -> Callable:
        """Images and keys -> network input; see `input_pipeline.transform.make_transform`."""
        return make_transform(self.config.preprocess, self.config.augment, self.statistics)

    def check_transform(self) -> None:
        """Raises UserError if the statistics do not fit the images, for example after a change."""
        images = jax.ShapeDtypeStruct((1, *self.view_shape), np.uint8)
        jax.eval_shape(self.transform, images)

    @property
    def view_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of the images that the preprocessing gets."""
        return _view_shape(self.config, self.info)

    @functools.cached_property
    def drop_scale(self) -> Callable:
        """step -> factor on every drop rate, from config.schedule.drop_anneal_epochs."""
        steps_per_epoch = 0.0
        if self.config.schedule.drop_anneal_epochs:  # only then is the training set needed
            steps_per_epoch = self.train_examples / self.config.batch_size
        return schedules.make_drop_scale(self.config.schedule, steps_per_epoch)

    @functools.cached_property
    def rate(self) -> schedules.Rate:
        """The learning rate as a function of the step, with its rules."""
        return schedules.make_rate(
            self.config.schedule,
            self.plan.steps_per_epoch,
            self.plan.total_steps,
            self.rate_scale,
            self.config.not_finite.rate_factor,
        )

    @property
    def rate_scale(self) -> float:
        """The factor on all learning rates, from config.schedule.for_batch."""
        reference = self.config.schedule.for_batch
        return self.config.batch_size / reference if reference else 1.0

    @functools.cached_property
    def optimizer(self) -> optax.GradientTransformationExtraArgs:
        return optimizers.make_optimizer(
            self.config.optimizer, self.rate, self.plan.steps_per_epoch
        )

    def new_state(self) -> state_lib.TrainState:
        """The state at step 0. Its parameters are drawn with config.seed."""
        averaged = self.config.optimizer.averaging > 0
        return state_lib.create(
            self.module, self.optimizer, self.config.seed, self.input_shape, averaged
        )

    @property
    def recipe(self) -> Recipe:
        """The parts of the training step."""
        config = self.config
        return Recipe(
            module=self.module,
            loss=self.loss,
            optimizer=self.optimizer,
            transform=self.transform,
            seed=config.seed,
            log_every_steps=config.log_every_steps,
            drop_scale=self.drop_scale,
            auxiliary_weight=config.loss.auxiliary_weight,
            averaging=config.optimizer.averaging,
            frozen=self.frozen,
            skip_not_finite=config.not_finite.action == "skip",
        )

    @functools.cached_property
    def eval_step(self) -> Callable:
        """(state, batch) -> (sums, examples) on all devices, see `steps.make_eval_step`."""
        step = make_eval_step(self.module, self.loss, self.transform, self.drop_scale)
        return parallel.eval_step(step, self.devices)

    @functools.cached_property
    def curvature_step(self) -> Callable:
        """(state, batch) -> (sums, {}) on all devices, see `steps.make_curvature_step`."""
        step = make_curvature_step(self.module, self.loss, self.transform)
        return parallel.eval_step(step, self.devices)

    def with_curvature(self, state: state_lib.TrainState) -> state_lib.TrainState:
        """The state with the mean second derivatives over some training examples.

        They depend only on the parameters and the seed. Every process computes all of them.
        """
        count, seed = self.config.optimizer.curvature_examples, self.config.seed
        examples = random_examples(self.train_split, count, seed)
        sums = [self.curvature_step(state, batch)[0] for batch in self.eval_batches(examples)]
        diagonal = jax.tree.map(lambda *leaves: sum(leaves) / len(examples), *sums)
        opt_state = optimizers.with_curvature(state.opt_state, diagonal)
        return state.replace(opt_state=parallel.replicate(opt_state, self.devices))

    @property
    def eval_batch_size(self) -> int:
        """This process's share of config.evaluate.batch_size."""
        return -(-self.config.evaluate.batch_size // processes.count())

    def picture(self, split, i: int) -> np.ndarray:
        """Example i as it is cut for evaluation, before preprocessing: uint8 [h, w, c]."""
        return self.reading.view.cut(split.read(i)[0])[0]

    def read_picture(self, path: str) -> tuple[np.ndarray, bool]:
        """A user's image file in the shape of the set's images, see `images.read`."""
        section = self.config.predict
        ink = images.INK.get(self.info.name) if section.crop_to_ink else None
        return images.read(path, self.info.image_shape, section.invert, ink)

    def train_batches(self, first: int) -> stream.TrainBatches:
        """This process's batches, starting at step `first`, one dispatch at a time."""
        order = batches.Order(
            self.config.seed,
            self.config.batch_size,
            len(self.devices),
            processes.index(),
            processes.count(),
            fixed=self.config.dataset.order == "fixed",
        )
        steps, resident = range(first, self.plan.total_steps), bool(self.resident_data)
        return stream.TrainBatches(
            self.train_split, self.reading, order, steps, self.plan.dispatch, resident
        )

    @functools.cached_property
    def resident_data(self) -> tuple[dict, ...]:
        """The training set in the memory of each device: image and label.

        () on CPUs, if images are cut, for sets larger than `_MOST_RESIDENT`, and for fitted models.
        """
        if self.is_fitted or not parallel.have_own_memory(self.devices):
            return ()
        if not self.reading.in_memory(self.train_split):
            return ()
        split = self.train_split
        if split.images.nbytes > _MOST_RESIDENT:
            return ()
        data = {"image": split.images, "label": split.labels}
        return (parallel.replicate(data, self.devices),)

    def eval_batches(self, split) -> Iterator[dict]:
        """Batches of config.evaluate.batch_size. A smaller split gives one padded batch.

        split: with several processes, this process's part of the split.
        """
        count = len(self.devices)
        # Rounded up to a multiple of the device count. The last batch is padded anyway.
        size = -(-min(self.eval_batch_size, len(split)) // count) * count
        return stream.eval_batches(split, self.reading, size, count)


def resolve(
    config: ConfigDict | None = None,
    workdir: str | pathlib.Path | None = None,
    *,
    given: Collection[str] = (),
    read_only: bool = False,
    allow_config_change: bool = False,
    known: KnownData = KnownData(),
) -> Experiment:
    """Makes the experiment of a config: completes and validates it, and checks the workdir.

    config: None means the stored config of the run in `workdir`.
    workdir: the run's folder, if it has one; it may not exist yet.
    given: names of the fields that the user set. Settings of pretrained weights do not change them.
    read_only: True when the command does not train. Then the folder must hold a run, and only the
        fields that change the network must be equal to its stored config.
    allow_config_change: True to resume training with another config than the stored one.
    known: facts about the data set. With `known.info` the data set may be missing.

    Reads no example and compiles nothing. Raises UserError for a config that cannot work.
    """
    workdir = None if workdir is None else expand(workdir)
    if config is None:
        config = read_config(workdir)
    if config.deterministic and not read_only:
        parallel.use_deterministic_kernels()  # before JAX looks for devices
    config = ConfigDict(config.to_dict())  # a copy
    if config.init_from or (read_only and workdir):
        from train_lib.weights import foreign  # readers of five formats

        config = foreign.settle(config, workdir, given, read_only)
    if read_only:
        config.devices_per_network = 1  # it needs less memory than training
        if "num_devices" not in given:
            config.num_devices = parallel.at_most(config.num_devices)
    schema.validate(config)
    info = known.info if known.info and known.info.image_shape else None
    registry.upgrade(config.model)  # it may come from an older version
    if workdir and read_only:
        data_fields = ("view.", "dataset.name") if info else ()
        check_readable(workdir, config, ("model.", "preprocess.", "loss.", *data_fields))
    elif workdir and processes.is_first():
        check_same_config(workdir, config, allow_config_change)
    info = info or _read_info(config.dataset, workdir)
    reading = Reading(
        View.from_section(config.view),
        config.dataset.on_bad_image,
        workers.prefetch_in_processes(config.dataset.workers),
    )
    if info.copy:
        info.copy.check_view(reading.view, is_training=not read_only)
    module, input_shape, frozen = _network(config, info)
    loss = losses.make_loss(config.loss)
    if config.optimizer.curvature_examples:
        _check_curvature(config, module, input_shape, loss)
    return Experiment(
        config=FrozenConfigDict(config),  # a copy, with tuples in place of lists
        workdir=workdir,
        info=info,
        reading=reading,
        module=module,
        input_shape=input_shape,
        loss=loss,
        devices=parallel.local_devices(config.num_devices, config.devices_per_network),
        frozen=frozen,
        known=known,
    )


def _view_shape(config: ConfigDict, info: Info) -> tuple[int, int, int]:
    """See `Experiment.view_shape`."""
    side = config.view.size
    return (side, side, info.image_shape[2]) if side else info.image_shape


def _read_info(dataset: ConfigDict, workdir: pathlib.Path | None) -> Info:
    """Facts about the data set. Raises UserError if the workdir is among its images."""
    if workdir:
        sources.check_outside(dataset, workdir)
    return sources.dataset_info(dataset)


def _network(
    config: ConfigDict, info: Info
) -> tuple[nn.Module, tuple[int, int, int], frozenset[str]]:
    """The module, the shape of its input, and the names of what config.optimizer.frozen freezes.

    Raises UserError where they do not fit together.
    """
    if info.num_classes % config.devices_per_network:
        raise UserError(
            f"config.devices_per_network={config.devices_per_network}: the number of classes"
            f" ({info.num_classes}) must be even: set config.devices_per_network=1"
        )
    module = registry.create(config.model, info.num_classes, parallel.AXIS)
    input_shape = output_shape(config.preprocess, _view_shape(config, info))
    try:
        shapes = state_lib.variable_shapes(module, input_shape)
    except ValueError as error:  # the model's own checks
        shape = "x".join(map(str, input_shape))
        raise UserError(
            f"{config.model.name} with {shape} images of {config.dataset.name}: {error}"
        ) from error
    frozen = _frozen(shapes, config.optimizer.frozen)
    # BatchNorm layers whose running mean and variance are both frozen.
    layers = {name.rsplit("/", 1)[0] for name in frozen}
    fixed = sorted(layer for layer in layers if {f"{layer}/mean", f"{layer}/var"} <= frozen)
    return module.clone(fixed_statistics=tuple(fixed)), input_shape, frozen


def _check_curvature(config: ConfigDict, module, input_shape, loss: losses.Loss) -> None:
    """Raises UserError for a network through which second derivatives do not propagate."""
    variables = state_lib.variable_shapes(module, input_shape)
    images = jax.ShapeDtypeStruct((1, *input_shape), np.float32)
    label = np.zeros(1, np.int32)
    try:
        jax.eval_shape(
            lambda v, x: curvature.diagonal(module, loss, v, x, label), variables, images
        )
    except ValueError as error:
        raise UserError(
            f"config.optimizer.curvature_examples={config.optimizer.curvature_examples}: {error}:"
            " choose a network without this layer, or set curvature_examples and mu to 0"
        ) from error


def _frozen(shapes, patterns: Sequence[str]) -> frozenset[str]:
    """The names of the parameters and statistics that config.optimizer.frozen matches.

    shapes: the module's variables. Raises UserError if no parameter is left to train.
    """
    if not patterns:
        return frozenset()
    collections = {"/".join(path[1:]): path[0] for path in flatten_dict(shapes)}
    frozen = frozenset(matching(list(collections), patterns, "optimizer.frozen"))
    if all(name in frozen for name, collection in collections.items() if collection == "params"):
        raise UserError(
            f"config.optimizer.frozen={tuple(patterns)}: no parameter is left to train: exclude a"
            " layer, such as '!fc/*'"
        )
    return frozen
