"""What changes with the step alone: rate, momentum, drop rates. Durations in a config are epochs.

A schedule maps the step (the number of updates made before) to a value. What also depends on
errors, as the rate of a plateau rule, is in `rates`.
"""

import math

import jax.numpy as jnp
import optax

NAMES = ("constant", "cosine", "steps", "exponential", "linear", "plateau")


def make_schedule(section, steps_per_epoch: float, total_steps: int) -> optax.Schedule:
    """The rate by step, from a config's `schedule` section.

    constant, and plateau (whose factor `rates` knows); cosine: to zero at the last step; steps:
    learning_rate * factors[i] from epoch boundaries[i] on; exponential: times `decay` every
    decay_epochs (0: at every update), not below `minimum`; linear: to `decay` times
    learning_rate over decay_epochs, where it stays. Epochs count from the first step. A linear
    warm-up from zero, if there is one, stands in place of the first steps of any of them.
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
    """The momentum by step, from a config's `optimizer` section; None where it stays.

    Linear in steps to momentum_end over momentum_epochs. (The maxout authors' code raises it once
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
