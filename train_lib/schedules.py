"""What changes with the step: learning rate, momentum, drop rates. Config durations are epochs.

A schedule maps the step (the number of updates made before) to a value. Two rules of the papers
also look at errors:

plateau (Krizhevsky 2012, sec. 5; Simonyan 2015, sec. 3.1): the rate is divided by ten when the
validation error stops improving. Warm-up by error (He 2015, sec. 4.2, ResNet-110): a small rate
until the training error is below 80 %.

What the rules have seen is in the optimizer's state, so that checkpoints hold it: the rate is a
function of the state, which is a function of (seed, step).
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax


def make_schedule(section, steps_per_epoch: float, total_steps: int) -> optax.Schedule:
    """The rate by step, from a config's `schedule` section.

    constant, plateau: learning_rate (`Rate` applies the plateau's factor).
    cosine: from learning_rate to zero at the last step.
    steps: learning_rate * factors[i] from epoch boundaries[i] on.
    exponential: times `decay` every decay_epochs (0: at every update), not below `minimum`.
    linear: to `decay` times learning_rate over decay_epochs, then constant.
    Epochs count from the first step. A linear warm-up from zero replaces the first steps.
    """
    rate, warmup = section.learning_rate, round(section.warmup_epochs * steps_per_epoch)
    if section.name == "cosine":
        cosine = optax.cosine_decay_schedule(rate, max(1, total_steps - warmup))

        def schedule(step):
            return cosine(jnp.maximum(step - warmup, 0))
    elif section.name == "steps":
        edges = [round(epoch * steps_per_epoch) for epoch in section.boundaries]
        pieces = [optax.constant_schedule(rate * factor) for factor in (1.0, *section.factors)]
        schedule = optax.join_schedules(pieces, edges)
    elif section.name == "exponential":
        every = max(1, round(section.decay_epochs * steps_per_epoch))
        # In float32 a power of 1 / 1.000004 would be off by a percent after 480,000 updates.
        logarithm = math.log(section.decay)

        def schedule(step):
            return jnp.maximum(rate * jnp.exp((step // every) * logarithm), section.minimum)
    elif section.name == "linear":
        steps = max(1, round(section.decay_epochs * steps_per_epoch))
        schedule = optax.linear_schedule(rate, rate * section.decay, steps)
    else:
        schedule = optax.constant_schedule(rate)
    if not warmup:
        return schedule
    return lambda step: jnp.where(step < warmup, rate * step / warmup, schedule(step))


def make_momentum(section, steps_per_epoch: float) -> optax.Schedule | None:
    """The momentum by step, from a config's `optimizer` section; None if it is constant.

    Linear in steps to momentum_end over momentum_epochs. (The maxout authors' code changes it once
    an epoch.)
    """
    if not section.momentum_epochs:
        return None
    steps = max(1, round(section.momentum_epochs * steps_per_epoch))
    return optax.linear_schedule(section.momentum, section.momentum_end, steps)


def make_drop_scale(section, steps_per_epoch: float) -> optax.Schedule:
    """The factor on every drop rate by step, from a config's `schedule` section.

    Annealed dropout (Rennie 2014): from 1 to 0, linearly, over drop_anneal_epochs; 0: always 1.
    """
    steps = round(section.drop_anneal_epochs * steps_per_epoch)
    return optax.linear_schedule(1.0, 0.0, steps) if steps else optax.constant_schedule(1.0)


# Weight of the past in the running training error: about the last 50 steps count.
MEMORY = 0.98


class Plateau(NamedTuple):
    """best: the lowest error so far, float32. since: evaluations in a row without an improvement.

    drops: how often the rate has fallen. seen: the step of the last evaluation counted. int32.
    """

    best: Any
    since: Any
    drops: Any
    seen: Any


class Warmup(NamedTuple):
    """error: the running training error, float32. over: whether it was ever below the bound."""

    error: jax.Array
    over: jax.Array


class RateState(NamedTuple):
    """step: updates made, int32. rate: of the last update, float32. plateau, warmup: or None.

    rolled_back: how often the run went back to a checkpoint, int32.
    """

    step: jax.Array
    rate: jax.Array
    plateau: Plateau | None
    warmup: Warmup | None
    rolled_back: jax.Array


@dataclasses.dataclass(frozen=True)
class Rate:
    """A learning rate with its rules.

    schedule: step -> rate. plateau: the config's `schedule.plateau` section if the rule is on.
    warmup: if that rule is on, (rate, error): the rate until the training error is below `error`.
    roll_back: the factor on the rate for each time that the run has gone back.
    """

    schedule: optax.Schedule
    plateau: Mapping[str, Any] | None = None
    warmup: tuple[float, float] | None = None
    roll_back: float = 1.0

    def scale(self) -> optax.GradientTransformationExtraArgs:
        """Multiplies by minus the rate: `optax.scale_by_learning_rate` with rules.

        The warm-up needs `update(..., train_error=)`, the fraction of the batch that is classified
        wrongly. Its running mean starts at 1 and moves to each batch's by 1 - MEMORY, so a lucky
        first batch does not end the warm-up.
        """

        def init(params):
            del params
            # Separate arrays: a step's state is donated, and a buffer can be donated only once.
            step, rolled_back, *counts = (jnp.zeros((), jnp.int32) for _ in range(5))
            plateau = Plateau(jnp.float32(jnp.inf), *counts) if self.plateau else None
            warmup = Warmup(jnp.float32(1), jnp.zeros((), bool)) if self.warmup else None
            return RateState(step, jnp.float32(0), plateau, warmup, rolled_back)

        def update(updates, state, params=None, *, train_error=None, **_):
            del params
            rate, warmup = self.schedule(state.step), state.warmup
            if self.plateau:
                factors = [self.plateau["factor"] ** n for n in range(self.plateau["drops"] + 1)]
                rate *= jnp.asarray(factors, jnp.float32)[state.plateau.drops]
            if self.warmup:
                error = MEMORY * warmup.error + (1 - MEMORY) * train_error
                warmup = Warmup(error, warmup.over | (error < self.warmup[1]))
                rate = jnp.where(warmup.over, rate, self.warmup[0])
            rate *= jnp.float32(self.roll_back) ** state.rolled_back
            rate = jnp.asarray(rate, jnp.float32)
            updates = jax.tree.map(lambda u: jnp.asarray(-rate, u.dtype) * u, updates)
            return updates, state._replace(step=state.step + 1, rate=rate, warmup=warmup)

        return optax.GradientTransformationExtraArgs(init, update)

    def observe(self, opt_state, error: float, step: int):
        """The optimizer's state after an evaluation: that after `step` gave `error`. On the host.

        An error is an improvement if it is below (1 - min_improvement) times the lowest so far.
        After `patience` evaluations in a row without an improvement, the rate falls by `factor` and
        the count starts again; this happens at most `drops` times. An evaluation that was counted
        before changes nothing.
        """
        if not self.plateau:
            return opt_state

        def count(plateau: Plateau) -> Plateau:
            if int(plateau.seen) >= step:
                return plateau
            best, since, drops = float(plateau.best), int(plateau.since) + 1, int(plateau.drops)
            rounded = float(np.float32(error))  # like `best`; otherwise equal errors could differ
            if rounded < best * (1 - self.plateau["min_improvement"]):
                best, since = rounded, 0
            if since >= self.plateau["patience"]:
                since, drops = 0, min(drops + 1, self.plateau["drops"])
            return Plateau(np.float32(best), np.int32(since), np.int32(drops), np.int32(step))

        return changed(opt_state, Plateau, count)


def make_rate(section, steps_per_epoch: float, total_steps: int, scale=1.0, roll_back=1.0) -> Rate:
    """The rate of a config's `schedule` section.

    scale: a factor on the rate in all its phases. roll_back: see `Rate`.
    """
    schedule = make_schedule(section, steps_per_epoch, total_steps)
    return Rate(
        schedule if scale == 1 else lambda step: scale * schedule(step),
        section.plateau.to_dict() if section.name == "plateau" else None,
        (scale * section.warmup_rate, section.warmup_error) if section.warmup_error else None,
        roll_back,
    )


def describe(section, scale: float = 1.0) -> str:
    """The learning rate over time, from a config's `schedule` section.

    scale: a factor on the rates, as in `make_rate`.
    """
    first, decay, drops = scale * section.learning_rate, section.decay, section.plateau
    text = f"{first:g}, {section.name}"
    if section.name == "steps":
        pairs = zip(section.boundaries, section.factors, strict=True)
        falls = [f"{first * factor:g} from epoch {epoch:g}" for epoch, factor in pairs]
        text += f": {', '.join(falls)}"
    elif section.name == "exponential":
        every = f"{section.decay_epochs:g} epochs" if section.decay_epochs else "step"
        text += f": times {decay:g} every {every}"
    elif section.name == "linear":
        text += f": to {first * decay:g} in {section.decay_epochs:g} epochs"
    elif section.name == "plateau":
        text += (
            f": times {drops.factor:g} after {drops.patience} evaluations without improvement, at"
            f" most {drops.drops} times"
        )
    if section.warmup_epochs:
        return f"from 0 in {section.warmup_epochs:g} epochs to {text}"
    if section.warmup_error:
        start = f"{scale * section.warmup_rate:g}"
        return f"{start} until the training error is below {section.warmup_error:.0%}, then {text}"
    return text


def with_roll_backs(opt_state, times: int):
    """The optimizer's state of a run that went back to a checkpoint so many times. On the host."""
    return changed(opt_state, RateState, lambda s: s._replace(rolled_back=np.int32(times)))


def roll_backs(opt_state) -> int:
    """How often the run went back to a checkpoint."""
    state = _rate_state(opt_state)
    return int(state.rolled_back) if state else 0


def current_rate(opt_state) -> jax.Array:
    """The rate of the last update, float32 []; NaN if the optimizer has no `Rate`."""
    state = _rate_state(opt_state)
    return state.rate if state else jnp.float32(jnp.nan)


def changed(opt_state, kind: type, change: Callable):
    """The optimizer's state with `change(node)` in place of its nodes of a kind."""

    def is_kind(node):
        return isinstance(node, kind)

    return jax.tree.map(lambda n: change(n) if is_kind(n) else n, opt_state, is_leaf=is_kind)


def _rate_state(opt_state) -> RateState | None:
    nodes = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, RateState))
    return next((node for node in nodes if isinstance(node, RateState)), None)
