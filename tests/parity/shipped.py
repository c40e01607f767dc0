"""A recipe as configs/ ship it, made small, trained here and in torch: for test_shipped_recipes."""

import contextlib
import dataclasses
import functools
import types
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from against import jit, torch
from flax.traverse_util import flatten_dict
from published import STEPS, Published, Trajectory, train
from transcriptions import same_names

from configs.load import load
from input_pipeline.split import Info
from models import resnet
from models.layers import builder, normalization, rbf
from models.pretrained import torchvision as names
from models.pretrained.entries import dump
from tests.models import random_weights
from train_lib import state as state_lib
from train_lib import steps
from train_lib.distributed import parallel
from train_lib.experiment import Experiment, KnownData, resolve

NOTHING: Mapping[str, Any] = types.MappingProxyType({})
BATCH = 8
# Errors after evaluations, one each second step: none is lower than the first.
EVALUATIONS = {step: 0.5 for step in range(2, STEPS + 1, 2)}
QUICK = {"xla_backend_optimization_level": 0}  # most of the time goes to compilation
DEPTH = 8  # of the ResNet for CIFAR: a block in each stage
# What is changed in every config: the length of the run, and images come as the network gets them.
CHANGES = {
    **{"steps": STEPS, "num_devices": 1, "log_every_steps": 1},
    **{"preprocess.pad": 0, "preprocess.crop": 0, "preprocess.mean": "none"},
    **{"augment.crop": False, "augment.lighting": "none"},
}


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """A recipe to compare.

    config: its name. published: the recipe as published. net: makes torch's network. shape: of the
    images. epoch: the number of steps in an epoch, so that everything happens within 20 steps.
    scale: factor on the rates, at which these steps from random weights are stable. changes: other
    changes of the config. sides: see `same_names`.
    """

    config: str
    published: Published
    net: Callable
    shape: tuple[int, int, int]
    epoch: Fraction
    scale: float = 1.0
    changes: Mapping[str, Any] = NOTHING
    sides: Mapping[str, int] = NOTHING


def experiment(case: Case, changes: Mapping[str, Any] = NOTHING) -> Experiment:
    """The recipe as it ships, with the case's changes and others."""
    config = load(case.config)
    everything = {**CHANGES, "batch_size": case.epoch.denominator, **case.changes, **changes}
    for name, value in everything.items():
        section, _, field = name.rpartition(".")
        (config[section] if section else config)[field] = value
    for field in ("learning_rate", "minimum", "warmup_rate"):
        config.schedule[field] *= case.scale
    info = Info("noise", case.shape, tuple("0123456789"), train_examples=case.epoch.numerator)
    return resolve(config, known=KnownData(info=info))


def module_of(exp: Experiment, dtype=jnp.float32):
    depth = {"depth": DEPTH} if isinstance(exp.module, resnet.CifarResNet) else {}
    return exp.module.clone(dtype=dtype, **depth)


def batches(shape):
    """Images [steps, batch, *shape], noise and a pattern for each label; labels [steps, batch]."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 10, (STEPS, BATCH)).astype(np.int32)
    patterns = rng.normal(size=(10, *shape))
    return rng.normal(size=(STEPS, BATCH, *shape)) + patterns[labels], labels


@functools.cache
def start(case: Case):
    """(variables, torch's network with them, the names of its tensors); biases are not 0."""
    module, net = module_of(experiment(case)), case.net().double()
    variables = jax.device_get(random_weights.variables(module, case.shape))
    rng = np.random.default_rng(2)

    def moved(path, leaf):
        return leaf + 0.1 * rng.normal(size=leaf.shape) * (path[-1].key == "bias")

    variables["params"] = jax.tree.map_with_path(moved, variables["params"])
    variables = jax.tree.map(lambda leaf: leaf.astype(np.float64), variables)
    is_torchvision = isinstance(module, resnet.ResNet)
    entries = names.FRAMEWORK.entries(module) if is_torchvision else same_names(net, case.sides)
    tensors = dump(module, entries, variables, case.shape)
    net.load_state_dict({key: torch.from_numpy(array) for key, array in tensors.items()})
    return variables, net, entries


@functools.cache
def expected(case: Case) -> Trajectory:
    net = start(case)[1]
    return train(net, case.published, *batches(case.shape), case.scale)


@contextlib.contextmanager
def float64():
    """LRN, RBF and logits are float32 whatever comes in. Here they are float64, as the rest."""
    in_float64 = types.SimpleNamespace(**{**vars(jnp), "float32": jnp.float64})
    with jax.enable_x64(True), pytest.MonkeyPatch.context() as monkeypatch:
        for module in (normalization, rbf, builder):
            monkeypatch.setattr(module, "jnp", in_float64)
        yield


def actual(case: Case, changes: Mapping[str, Any] = NOTHING) -> Trajectory:
    """Canon's trajectory; the parameters have torch's names and layouts."""
    exp, (variables, _, entries) = experiment(case, changes), start(case)
    with float64():
        recipe = dataclasses.replace(
            exp.recipe,
            module=module_of(exp, jnp.float64),
            transform=lambda images, keys, offsets: images,
        )
        step = parallel.train_step(steps.make_train_step(recipe), exp.devices, options=QUICK)
        state = parallel.replicate(first_state(recipe, variables), exp.devices)
        losses, rates = [], []
        for number, (x, labels) in enumerate(zip(*batches(case.shape), strict=True), 1):
            state, record = step(state, {"image": x[None], "label": labels[None]})
            losses.append(float(record["loss"]) / BATCH)
            rates.append(float(record["rate"]))
            if error := EVALUATIONS.get(number):
                opt_state = exp.rate.observe(state.opt_state, error, number)
                state = state.replace(opt_state=parallel.replicate(opt_state, exp.devices))
        leaves = flatten_dict(jax.device_get(state.variables()))
    average = {e.key: e.to_theirs(leaves[e.path]) for e in entries if e.path}
    return Trajectory(np.array(losses), np.array(rates), average)


def first_state(recipe: steps.Recipe, variables) -> state_lib.TrainState:
    params = variables["params"]
    return state_lib.TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        model_state={name: tree for name, tree in variables.items() if name != "params"},
        opt_state=jit(recipe.optimizer.init)(params),
        window={name: np.zeros(()) for name in state_lib.EMPTY_WINDOW},
        average=jax.tree.map(np.copy, params) if recipe.averaging else None,
        skipped=jnp.zeros((), jnp.int32),
    )


def difference(ours: Trajectory, theirs: Trajectory) -> dict[str, float]:
    """The largest relative differences: of a step's loss or rate, and of a tensor's largest value.

    average: the running average, without one the last parameters.
    """
    return {
        "losses": np.max(np.abs(ours.losses / theirs.losses - 1)),
        "rates": np.max(np.abs(ours.rates / theirs.rates - 1)),
        "average": max(
            np.max(np.abs(ours.average[name] - w)) / np.max(np.abs(w))
            for name, w in theirs.average.items()
        ),
    }
