"""SGD with momentum and its schedules, as optax chains. A schedule maps the step to the rate."""

import jax
import optax

SCHEDULES = ("constant", "cosine", "steps")
MOMENTUM_FORMS = ("pytorch", "caffe")
DECAYED = ("kernels", "all")


def make_schedule(section, steps_per_epoch: float, total_steps: int) -> optax.Schedule:
    """The rate by step, from a config's `schedule` section (durations there are in epochs).

    constant; cosine: to zero at the last step; steps: learning_rate * factors[i] from epoch
    boundaries[i] on. Each after a linear warm-up from zero, if there is one.
    """
    rate, warmup = section.learning_rate, round(section.warmup_epochs * steps_per_epoch)
    if section.name == "cosine":
        schedule = optax.cosine_decay_schedule(rate, max(1, total_steps - warmup))
    elif section.name == "steps":
        edges = [round(epoch * steps_per_epoch) for epoch in section.boundaries]
        pieces = [optax.constant_schedule(rate * factor) for factor in (1.0, *section.factors)]
        # join_schedules counts from each edge; constants do not mind.
        schedule = optax.join_schedules(pieces, [edge - warmup for edge in edges])
    else:
        schedule = optax.constant_schedule(rate)
    if warmup:
        ramp = optax.linear_schedule(0.0, rate, warmup)
        schedule = optax.join_schedules([ramp, schedule], [warmup])
    return schedule


def kernels_mask(params):
    """True for the leaves named `kernel`: weights, no biases and no per-map coefficients."""
    return jax.tree.map_with_path(lambda path, _: path[-1].key == "kernel", params)


def make_optimizer(section, schedule: optax.Schedule) -> optax.GradientTransformation:
    """SGD with momentum and coupled weight decay, from a config's `optimizer` section.

    g = gradient + weight_decay * w (neither half nor twice it), then
    "pytorch": v = m v + g, w -= rate v;  "caffe" (Krizhevsky 2012, sec. 5):
    v = m v + rate g, w -= v. They differ once the rate changes.
    """
    mask = kernels_mask if section.decayed == "kernels" else None
    parts = []
    if section.weight_decay:
        parts.append(optax.add_decayed_weights(section.weight_decay, mask))
    momentum = optax.trace(section.momentum) if section.momentum else optax.identity()
    rate = optax.scale_by_learning_rate(schedule)
    parts += [momentum, rate] if section.momentum_form == "pytorch" else [rate, momentum]
    return optax.chain(*parts)
