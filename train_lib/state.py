"""What a run is at a step: everything that a checkpoint holds."""

from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax


@flax.struct.dataclass
class TrainState:
    """A pytree; every leaf is the same on all devices.

    step: int32 [], the number of updates made.
    params, model_state: the module's variables (model_state: what is not trained, as the
        statistics of BatchNorm; empty for LeNet-5).
    opt_state: optax's; what the rules of `rates` have seen is in it.
    window: sums over the steps since the last logged one (loss, errors, examples), float32 [].
        They are here so that a run that goes on logs the same values as one never stopped.
    average: a running average of params, if the config asks for one, else None.
    skipped: int32 [], updates left out because they were not finite; None where nothing trains.
    """

    step: jax.Array
    params: Any
    model_state: Any
    opt_state: optax.OptState
    window: dict[str, jax.Array]
    average: Any = None
    skipped: jax.Array | None = None

    def variables(self) -> dict:
        """What `module.apply` takes to evaluate or predict: averaged parameters, if there are."""
        params = self.params if self.average is None else self.average
        return {"params": params, **self.model_state}


EMPTY_WINDOW = {"loss": 0.0, "errors": 0.0, "examples": 0.0}


def _compiled_fast() -> dict | None:
    """Compiler options for a program that runs once.

    On CPUs LLVM's first level of optimisation instead of its third: LeNet-5's parameters compile
    in 1.8 s instead of 4.6, ResNet-20's in 5 s instead of 50 (one core, JAX 0.12.0.1). They are the
    same to the last bit. Level 0 is faster still, but rounds differently.
    """
    return {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None


def _make_draw(module, optimizer: optax.GradientTransformation, input_shape, averaged: bool):
    """draw(seed) -> the state at step 0."""

    def draw(seed) -> TrainState:
        key = jax.random.fold_in(jax.random.key(seed), 0)
        variables = module.init(key, jnp.zeros((1, *input_shape), jnp.float32), train=False)
        params = variables.pop("params")
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            model_state=variables,
            opt_state=optimizer.init(params),
            window={name: jnp.float32(value) for name, value in EMPTY_WINDOW.items()},
            average=jax.tree.map(jnp.copy, params) if averaged else None,
            skipped=jnp.zeros((), jnp.int32),
        )

    return draw


def create(
    module,
    optimizer: optax.GradientTransformation,
    seed: int,
    input_shape,
    averaged: bool = False,
) -> TrainState:
    """The state at step 0: parameters drawn from `seed`. averaged: whether it has an average."""
    draw = _make_draw(module, optimizer, input_shape, averaged)
    # One compilation, where drawing layer by layer would take one for each shape.
    return jax.jit(draw, compiler_options=_compiled_fast())(seed)


def for_config(exp, optimizer: optax.GradientTransformation) -> TrainState:
    """`create`, as an `experiment.Experiment` has it."""
    averaged = exp.config.optimizer.averaging > 0
    return create(exp.module, optimizer, exp.config.seed, exp.input_shape, averaged)


def shapes_for_config(exp, optimizer: optax.GradientTransformation) -> TrainState:
    """The state of `for_config` as ShapeDtypeStructs; nothing is computed or compiled."""
    averaged = exp.config.optimizer.averaging > 0
    draw = _make_draw(exp.module, optimizer, exp.input_shape, averaged)
    return jax.eval_shape(draw, exp.config.seed)
