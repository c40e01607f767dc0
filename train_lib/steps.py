"""The train and evaluation steps: pure functions of (state, batch)."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from models import layers
from train_lib import rates
from train_lib.distributed import parallel
from train_lib.state import EMPTY_WINDOW, TrainState

AUXILIARY = "auxiliary"  # the collection into which models sow their auxiliary heads' logits


def make_train_step(
    module,
    loss: Callable,
    optimizer: optax.GradientTransformation,
    transform: Callable,
    seed: int,
    log_every_steps: int,
    drop_scale: Callable = lambda step: 1.0,
    auxiliary_weight: float = 0.0,
    averaging: float = 0.0,
    skip_not_finite: bool = False,
) -> Callable:
    """train_step(state, batch) -> (state, record), to run under `parallel.train_step`.

    batch: image uint8 [b, height, width, channels] and label int32 [b], this device's slice;
    perhaps offset int32 [b, 2], where the images lie in a square that a mean image is of, and
    stop int32 [], of which the record holds the sum over devices: several processes stop at the
    same step by it.
    record: `record_of(state)` after the step. The window starts afresh after each logged step;
    its loss is that of the model's own logits.
    skip_not_finite: a loss or gradient that is not finite changes nothing but counters, and the
    state's `skipped` counts it.
    drop_scale: step -> factor on every drop rate. auxiliary_weight: of the loss of each
    auxiliary head's logits (the collection `auxiliary`). averaging: see `averaged`.
    """
    base_key = jax.random.fold_in(jax.random.key(seed), 1)
    optimizer = optax.with_extra_args_support(optimizer)

    def train_step(state: TrainState, batch: dict) -> tuple[TrainState, dict]:
        step_key = jax.random.fold_in(base_key, state.step)
        augment_key, dropout_key = jax.random.split(step_key)
        count = len(batch["label"])
        # An example's keys depend on its place in the whole batch, so that its augmentation and
        # its dropout masks are the same on any number of devices.
        places = parallel.device_index() * count + jnp.arange(count)
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(augment_key, places)
        images = transform(batch["image"], keys, batch.get("offset"))

        def mean_loss(params):
            with layers.placed(places):
                logits, model_state = module.apply(
                    {"params": params, **state.model_state},
                    images,
                    train=True,
                    drop_scale=drop_scale(state.step),
                    rngs={"dropout": dropout_key},
                    mutable=[*state.model_state, AUXILIARY],
                )
            model_state = dict(model_state)
            value = loss(logits, batch["label"]).mean()
            heads = jax.tree.leaves(model_state.pop(AUXILIARY, {}))
            auxiliary = sum(loss(head, batch["label"]).mean() for head in heads)
            return value + auxiliary_weight * auxiliary, (value, logits, model_state)

        gradient, (value, logits, model_state) = jax.grad(mean_loss, has_aux=True)(state.params)
        gradient, model_state = parallel.mean((gradient, model_state))
        errors = (logits.argmax(axis=-1) != batch["label"]).sum(dtype=jnp.float32)
        here = parallel.total(
            {"loss": value * count, "errors": errors, "examples": jnp.float32(count)}
        )
        bad = first_not_finite(gradient, here["loss"])
        # The update waits for the whole gradient. Otherwise XLA copies each kernel, because the
        # input's gradient may still have to read it.
        gradient, old_params = jax.lax.optimization_barrier((gradient, state.params))
        updates, opt_state = optimizer.update(
            gradient,
            state.opt_state,
            old_params,
            train_error=here["errors"] / here["examples"],
        )
        params = optax.apply_updates(old_params, updates)
        average, skipped = state.average, state.skipped
        if averaging:
            average = averaged(average, params, averaging, state.step)
        if skip_not_finite:
            is_bad = bad >= 0

            def unless_bad(new, old):
                # Counters go on: schedules are functions of the step.
                return jnp.where(is_bad, old, new) if jnp.issubdtype(new, jnp.inexact) else new

            old = (state.params, state.opt_state, state.model_state, state.average)
            params, opt_state, model_state, average = jax.tree.map(
                unless_bad, (params, opt_state, model_state, average), old
            )
            here = jax.tree.map(lambda value: jnp.where(is_bad, 0, value), here)
            skipped = skipped + is_bad
        fresh = state.step % log_every_steps == 0
        window = {
            name: jnp.where(fresh, EMPTY_WINDOW[name], state.window[name]) + here[name]
            for name in EMPTY_WINDOW
        }
        state = TrainState(
            step=state.step + 1,
            params=params,
            model_state=model_state,
            opt_state=opt_state,
            window=window,
            average=average,
            skipped=skipped,
        )
        record = record_of(state) | {"bad": bad}
        if "stop" in batch:
            record["stop"] = parallel.total(batch["stop"])
        return state, record

    return train_step


def record_of(state: TrainState) -> dict[str, jax.Array]:
    """What is logged of a step: the window's sums, and the `rate` of its update, float32 [].

    skipped: int32 [], if the state counts it. The train step adds `bad`, see `first_not_finite`.
    """
    counted = {} if state.skipped is None else {"skipped": state.skipped}
    return {**state.window, "rate": rates.current(state.opt_state), **counted}


def first_not_finite(gradient, loss: jax.Array) -> jax.Array:
    """The number, int32 [], of the first leaf of a gradient that is not finite.

    One past the last where all are, but the loss is not; -1 where all is finite.
    """
    # 0 * x is 0 for every finite x and NaN for the others: one sum over each leaf.
    flags = [jnp.isnan((0 * leaf).sum()) for leaf in [*jax.tree.leaves(gradient), loss]]
    flags = jnp.stack(flags)
    return jnp.where(flags.any(), jnp.argmax(flags), -1).astype(jnp.int32)


def averaged(average, params, decay: float, step: jax.Array):
    """The running average of the parameters after the update that follows `step`.

    The mean of the parameters after each update so far, that of k updates ago weighted by
    decay ** k: about the last 1 / (1 - decay) of them. (Szegedy 2014, sec. 6, has Polyak's
    averaging "to create the final model" and gives no form of it.) BatchNorm's statistics are
    running averages already, of the net that trains.
    """
    # The weights 1, decay, ... of step + 1 terms sum to (1 - decay ** (step + 1)) / (1 - decay).
    total = -jnp.expm1((step + 1) * math.log(decay))
    share = jnp.asarray((1 - decay) / total, jnp.float32)
    return jax.tree.map(lambda a, p: a + share.astype(a.dtype) * (p - a), average, params)


def several(train_step: Callable) -> Callable:
    """The same step over batches with a leading axis of steps, in one call (`lax.scan`)."""

    def train_steps(state, batches):
        return jax.lax.scan(train_step, state, batches)

    return train_steps


def make_eval_step(
    module,
    loss: Callable,
    probabilities: Callable,
    transform: Callable,
    drop_scale: Callable = lambda step: 1.0,
):
    """eval_step(state, batch) -> (sums, examples), to run under `parallel.eval_step`.

    batch: image, label and mask [b]; masked-out examples (mask 0) count for nothing. sums over
    all devices: loss, top1_errors, top5_errors, examples. examples: the five (or fewer) most
    probable classes and their probabilities, [b, 5], best first.
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
        chosen = jnp.take_along_axis(probabilities(logits), classes, axis=1)
        return parallel.total(sums), {"classes": classes, "probabilities": chosen}

    return eval_step
