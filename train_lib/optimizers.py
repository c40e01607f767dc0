"""SGD with momentum and its schedules, as optax chains. A schedule maps the step to the rate."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax

from errors import UserError

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


def make_drop_scale(section, steps_per_epoch: float) -> optax.Schedule:
    """The factor on every drop rate by step, from a config's `schedule` section.

    Annealed dropout (Rennie 2014): from 1 to 0, linearly, over drop_anneal_epochs; 0: always 1.
    """
    steps = round(section.drop_anneal_epochs * steps_per_epoch)
    return optax.linear_schedule(1.0, 0.0, steps) if steps else optax.constant_schedule(1.0)


def kernels_mask(params):
    """True for the leaves named `kernel`: weights, no biases and no per-map coefficients."""
    return jax.tree.map_with_path(lambda path, _: path[-1].key == "kernel", params)


def all_but_slopes_mask(params):
    """True for all but PReLU's slopes, which decay would pull to ReLU (He 2015, sec. 2.1)."""
    return jax.tree.map_with_path(lambda path, _: path[-1].key != "slope", params)


MASKS = {"kernels": kernels_mask, "all": all_but_slopes_mask}


def limit_norms(everywhere: float, by_layer: Mapping[str, float]) -> optax.GradientTransformation:
    """Max-norm: after the update, each unit's weight vector is scaled into a ball around 0.

    everywhere: the radius for all kernels, 0 for none. by_layer: radii of the layers of these
    names instead. Biases are not counted (Srivastava 2014, sec. 5.1; Goodfellow 2013 and the
    authors' code). Kernels [..., in, out] have a vector for each output; a locally
    connected layer's one for each position and map. LeNet's C3 table is left alone.
    Raises UserError for a layer that is not there.
    """

    def limit(path, update, weight):
        names = [part.key for part in path]
        radius = by_layer.get("/".join(names[:-1]), everywhere)
        if names[-1] != "kernel" or not radius or weight.ndim not in (2, 4, 6):
            return update
        axes = tuple(range(weight.ndim - 1)) if weight.ndim < 6 else (2, 3, 4)
        moved = weight + update
        norm = jnp.sqrt(jnp.square(moved).sum(axis=axes, keepdims=True))
        return moved * jnp.minimum(1.0, radius / jnp.maximum(norm, 1e-12)) - weight

    def init(params):
        paths = jax.tree.leaves_with_path(params)
        layers = {"/".join(part.key for part in path[:-1]) for path, _ in paths}
        for name in by_layer:
            if name not in layers:
                raise UserError(
                    f"config.optimizer.max_norms.{name}: there is no such layer: choose one of"
                    f" {', '.join(sorted(layers))}"
                )
        return optax.EmptyState()

    def update(updates, state, params):
        return jax.tree.map_with_path(limit, updates, params), state

    return optax.GradientTransformation(init, update)


def make_optimizer(section, schedule: optax.Schedule) -> optax.GradientTransformation:
    """SGD with momentum and coupled weight decay, from a config's `optimizer` section.

    g = gradient + weight_decay * w (neither half nor twice it), then
    "pytorch": v = m v + g, w -= rate v;  "caffe" (Krizhevsky 2012, sec. 5):
    v = m v + rate g, w -= v. They differ once the rate changes.
    """
    parts = []
    if section.weight_decay:
        mask = MASKS[section.decayed]
        parts.append(optax.add_decayed_weights(section.weight_decay, mask))
    momentum = optax.trace(section.momentum) if section.momentum else optax.identity()
    rate = optax.scale_by_learning_rate(schedule)
    parts += [momentum, rate] if section.momentum_form == "pytorch" else [rate, momentum]
    if section.max_norm or section.max_norms:
        parts.append(limit_norms(section.max_norm, section.max_norms.to_dict()))
    return optax.chain(*parts)
