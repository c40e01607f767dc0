"""The training step and the evaluation step: pure functions of (state, batch)."""

import dataclasses
import functools
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from models import curvature, layers
from train_lib import schedules
from train_lib.distributed import parallel
from train_lib.losses import Loss
from train_lib.state import EMPTY_WINDOW, TrainState

# The collections into which models sow in training.
AUXILIARY = "auxiliary"  # the auxiliary heads' logits
OBJECTIVES = "objectives"  # objectives of their own that need no labels: float32 [batch]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The parts of a training step.

    loss: (logits [batch, classes], labels [batch]) -> float32 [batch].
    transform: (images uint8, keys, offsets) -> network input float32.
    log_every_steps: number of steps over which loss and errors are summed for one record.
    drop_scale: step -> factor on every drop rate.
    auxiliary_weight: factor on the mean loss of each auxiliary head.
    averaging: 0, or the decay of the running average of the parameters; see `averaged`.
    frozen: names of parameters and statistics, like "conv1/kernel", that keep their values.
    skip_not_finite: if the loss or gradient is not finite, the step changes only counters, and
        the state's `skipped` is increased.
    """

    module: nn.Module
    loss: Callable
    optimizer: optax.GradientTransformation
    transform: Callable
    seed: int = 0
    log_every_steps: int = 1
    drop_scale: Callable = lambda step: 1.0
    auxiliary_weight: float = 0.0
    averaging: float = 0.0
    frozen: frozenset[str] = frozenset()
    skip_not_finite: bool = False


def make_train_step(recipe: Recipe) -> Callable:
    """train_step(state, batch) -> (state, record), to run under `parallel.train_step`.

    batch: image uint8 [b, height, width, channels] and label int32 [b], this device's slice;
    offset int32 [b, 2] if the images are parts of larger squares, which a mean image covers.
    record: `record_of` the state after the step, and `bad`, see `first_not_finite`. The recorded
    loss does not include auxiliary heads, nor objectives of the model's own.
    """
    base_key = jax.random.fold_in(jax.random.key(recipe.seed), 1)
    optimizer = optax.with_extra_args_support(recipe.optimizer)

    def train_step(state: TrainState, batch: dict) -> tuple[TrainState, dict]:
        key = jax.random.fold_in(base_key, state.step)
        gradient, (value, logits, model_state) = _gradient(recipe, state, batch, key)
        gradient, model_state = parallel.mean((gradient, model_state))
        model_state = {
            collection: hold(recipe.frozen, state.model_state[collection], new)
            for collection, new in model_state.items()
        }
        count = len(batch["label"])
        errors = (logits.argmax(axis=-1) != batch["label"]).sum(dtype=jnp.float32)
        sums = parallel.total(
            {"loss": value * count, "errors": errors, "examples": jnp.float32(count)}
        )
        bad = first_not_finite(gradient, sums["loss"])
        # The update must wait for the whole gradient. Otherwise XLA copies each kernel, because
        # the gradient with respect to the layer's input may not have read the kernel yet.
        gradient, old_params = jax.lax.optimization_barrier((gradient, state.params))
        updates, opt_state = optimizer.update(
            gradient,
            state.opt_state,
            old_params,
            train_error=sums["errors"] / sums["examples"],
        )
        params = hold(recipe.frozen, old_params, optax.apply_updates(old_params, updates))
        average = state.average
        if recipe.averaging:
            average = averaged(average, params, recipe.averaging, state.step)
        new = state.replace(
            params=params, opt_state=opt_state, model_state=model_state, average=average
        )
        if recipe.skip_not_finite:
            new, sums = _unless(bad >= 0, new, state, sums)
        is_new_window = state.step % recipe.log_every_steps == 0
        window = {
            name: jnp.where(is_new_window, EMPTY_WINDOW[name], state.window[name]) + sums[name]
            for name in EMPTY_WINDOW
        }
        new = new.replace(step=state.step + 1, window=window)
        return new, record_of(new) | {"bad": bad}

    return train_step


def _gradient(recipe: Recipe, state: TrainState, batch: dict, key: jax.Array):
    """(gradient, (loss, logits, model_state)) for the mean loss over a device's slice of a batch.

    key: the random key of the step.
    """
    augment_key, dropout_key = jax.random.split(key)
    count = len(batch["label"])
    # Random keys depend on the example's position in the whole batch, so that augmentation and
    # dropout masks do not depend on the number of devices.
    positions = parallel.device_index() * count + jnp.arange(count)
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(augment_key, positions)
    images = recipe.transform(batch["image"], keys, batch.get("offset"))

    def mean_loss(params):
        params = hold(recipe.frozen, jax.lax.stop_gradient(params), params)
        with layers.placed(positions):
            logits, model_state = recipe.module.apply(
                {"params": params, **state.model_state},
                images,
                train=True,
                drop_scale=recipe.drop_scale(state.step),
                rngs={"dropout": dropout_key},
                mutable=[*state.model_state, AUXILIARY, OBJECTIVES],
            )
        model_state = dict(model_state)
        value = recipe.loss(logits, batch["label"]).mean()
        heads = jax.tree.leaves(model_state.pop(AUXILIARY, {}))
        auxiliary = sum(recipe.loss(head, batch["label"]).mean() for head in heads)
        total = value + recipe.auxiliary_weight * auxiliary
        for objective in jax.tree.leaves(model_state.pop(OBJECTIVES, {})):
            total += objective.mean()
        return total, (value, logits, model_state)

    return jax.grad(mean_loss, has_aux=True)(state.params)


def hold(frozen: frozenset[str], old, new):
    """The tree `new`, in which the leaves with the names in `frozen` are those of `old`."""

    def chosen(path, old_leaf, new_leaf):
        return old_leaf if "/".join(key.key for key in path) in frozen else new_leaf

    return jax.tree.map_with_path(chosen, old, new)


def _unless(is_bad: jax.Array, new: TrainState, old: TrainState, sums: dict):
    """(state, sums) after a step. If `is_bad`, the step is skipped and changes only counters."""

    def select(new, old):
        # Integers are counters. They continue, because schedules are functions of the step.
        return jnp.where(is_bad, old, new) if jnp.issubdtype(new, jnp.inexact) else new

    kept = {
        name: jax.tree.map(select, getattr(new, name), getattr(old, name))
        for name in ("params", "opt_state", "model_state", "average")
    }
    sums = jax.tree.map(lambda value: jnp.where(is_bad, 0, value), sums)
    return new.replace(**kept, skipped=old.skipped + is_bad), sums


def record_of(state: TrainState) -> dict[str, jax.Array]:
    """The values to log after a step: the window's sums, the learning `rate` of its last update.

    All are float32 []. If the state counts skipped updates, `skipped` int32 [] is added.
    """
    counted = {} if state.skipped is None else {"skipped": state.skipped}
    return {**state.window, "rate": schedules.current_rate(state.opt_state), **counted}


def first_not_finite(gradient, loss: jax.Array) -> jax.Array:
    """The index, int32 [], of the first leaf of the gradient that is not finite.

    The number of leaves if only the loss is not finite; -1 if everything is finite.
    """
    # 0 * x is 0 for a finite x and NaN otherwise, so one sum over a leaf checks all its values.
    flags = [jnp.isnan(_zero_sum(leaf)) for leaf in [*jax.tree.leaves(gradient), loss]]
    flags = parallel.on_any_part(jnp.stack(flags))
    return jnp.where(flags.any(), jnp.argmax(flags), -1).astype(jnp.int32)


def _zero_sum(leaf):
    """The sum of 0 * leaf, in which a matrix product adds most of the values.

    For the 48,000 weights of LeNet-5's C5 it takes 2 us on a CPU. A sum takes 16 us.
    """
    if leaf.ndim < 2:
        return (0 * leaf).sum()
    zeros = jnp.zeros(leaf.shape[-1], leaf.dtype)
    return jnp.dot(leaf.reshape(-1, leaf.shape[-1]), zeros).sum()


def averaged(average, params, decay: float, step: jax.Array):
    """The running average of the parameters after update number `step` + 1.

    It is a weighted mean of the parameters after each update so far. The weight is decay ** k for
    the parameters of k updates ago, so about the last 1 / (1 - decay) updates count. (Szegedy 2014,
    sec. 6, uses Polyak's averaging "to create the final model", without details.) BatchNorm's
    statistics are not averaged again: they are running averages already.
    """
    # The weights 1, decay, ... of step + 1 terms sum to (1 - decay ** (step + 1)) / (1 - decay).
    total = -jnp.expm1((step + 1) * math.log(decay))
    share = jnp.asarray((1 - decay) / total, jnp.float32)
    return jax.tree.map(lambda a, p: a + share.astype(a.dtype) * (p - a), average, params)


def several(train_step: Callable) -> Callable:
    """Returns train_steps(state, batches, *data): one step for each batch of the leading axis.

    data: further arguments of `train_step`, the same for each batch.
    """

    def train_steps(state, batches, *data):
        return jax.lax.scan(lambda state, batch: train_step(state, batch, *data), state, batches)

    return train_steps


def gathering(train_step: Callable) -> Callable:
    """Returns the step that gathers its batch from the training set in the device's memory.

    run(state, batch, data) -> (state, record): batch has index int32 [b], the numbers of this
    device's examples. data has the arrays of all examples, image and label.
    """

    def run(state, batch, data):
        take = functools.partial(jnp.take, indices=batch["index"], axis=0, mode="clip")
        return train_step(state, jax.tree.map(take, data))

    return run


def sharing_stop(train_steps: Callable) -> Callable:
    """Returns the steps with an added input `stop`, so that all processes stop at the same step.

    run(state, (batches, stop), *data) -> (state, records): stop is int32 [], 1 in a process that
    was asked to stop, otherwise 0. The records' `stop` is its sum over all devices.
    """

    def run(state, batches_and_stop, *data):
        batches, stop = batches_and_stop
        state, records = train_steps(state, batches, *data)
        return state, records | {"stop": parallel.total(stop)}

    return run


def make_curvature_step(module, loss: Callable, transform: Callable) -> Callable:
    """curvature_step(state, batch) -> (sums, {}), to run under `parallel.eval_step`.

    batch: as in `make_eval_step`. sums: of the second derivatives by the parameters over the
    examples of all devices, a tree as the parameters; see `models.curvature`.
    """

    def curvature_step(state: TrainState, batch: dict) -> tuple[dict, dict]:
        variables = {"params": state.params, **state.model_state}
        images = transform(batch["image"])
        sums = curvature.diagonal(module, loss, variables, images, batch["label"], batch["mask"])
        return parallel.total(sums), {}

    return curvature_step


def make_eval_step(
    module, loss: Loss, transform: Callable, drop_scale: Callable = lambda step: 1.0
) -> Callable:
    """eval_step(state, batch) -> (sums, examples), to run under `parallel.eval_step`.

    batch: image, label and mask [b]; examples whose mask is 0 do not count.
    sums: loss, top1_errors, top5_errors and examples, summed over all devices.
    examples: the five (or fewer) most probable classes and their probabilities, [b, 5], best first.
    """

    def eval_step(state: TrainState, batch: dict) -> tuple[dict, dict]:
        logits = module.apply(
            state.variables(),
            transform(batch["image"]),
            train=False,
            drop_scale=drop_scale(state.step),
        )
        top = min(5, logits.shape[-1])
        _, classes = jax.lax.top_k(logits, top)
        hits = classes == batch["label"][:, None]
        mask = batch["mask"]
        sums = {
            "loss": (loss(logits, batch["label"]) * mask).sum(),
            "top1_errors": (~hits[:, 0] * mask).sum(),
            "top5_errors": (~hits.any(axis=1) * mask).sum(),
            "examples": mask.sum(),
        }
        chosen = jnp.take_along_axis(loss.probabilities(logits), classes, axis=1)
        return parallel.total(sums), {"classes": classes, "probabilities": chosen}

    return eval_step
