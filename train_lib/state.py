"""The training state: everything that a checkpoint holds."""

from collections.abc import Collection
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax


@flax.struct.dataclass
class TrainState:
    """A pytree; every leaf is the same on all devices.

    step: int32 [], the number of updates made.
    params, model_state: the module's variables. model_state are those that are not trained, such
        as BatchNorm's statistics.
    opt_state: optax's state, with the memory of the rules in `schedules`.
    window: sums over the steps since the last logged one (loss, errors, examples), float32 []. They
        are here so that a resumed run logs the same values as an uninterrupted run.
    average: a running average of params if the config asks for one, else None.
    skipped: int32 [], updates left out because they were not finite; None if nothing is trained.
    """

    step: jax.Array
    params: Any
    model_state: Any
    opt_state: optax.OptState
    window: dict[str, jax.Array]
    average: Any = None
    skipped: jax.Array | None = None

    def variables(self) -> dict:
        """The variables for evaluation and prediction, with averaged parameters if they exist."""
        params = self.params if self.average is None else self.average
        return {"params": params, **self.model_state}


EMPTY_WINDOW = {"loss": 0.0, "errors": 0.0, "examples": 0.0}


def draw(
    seed,
    module,
    optimizer: optax.GradientTransformation,
    input_shape: tuple[int, int, int],
    averaged: bool = False,
) -> TrainState:
    """The state at step 0: parameters drawn from `seed`, layer by layer. `create` is faster.

    input_shape: (height, width, channels). averaged: whether the state has a running average.
    """
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


def create(module, optimizer, seed: int, input_shape, averaged: bool = False) -> TrainState:
    """`draw` as one compiled program; drawing each layer would compile one for each shape.

    On CPUs LLVM optimises it at its first level instead of its third, because it runs once: drawing
    LeNet-5's parameters compiles in 1.8 s instead of 4.6 s, ResNet-20's in 5 s instead of 50 s (one
    core, JAX 0.12.0.1). The values are equal to the bit. Level 0 is faster, but rounds differently.
    """
    options = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None
    compiled = jax.jit(
        lambda seed: draw(seed, module, optimizer, input_shape, averaged), compiler_options=options
    )
    return compiled(seed)


def variable_shapes(module, input_shape):
    """The module's variables as ShapeDtypeStructs. input_shape: (height, width, channels)."""
    images = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
    return jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), images)


def parameter_names(module, input_shape) -> list[str]:
    """Names like "conv1/kernel", in the order of the leaves of `TrainState.params`."""
    leaves = jax.tree.leaves_with_path(variable_shapes(module, input_shape)["params"])
    return ["/".join(key.key for key in path) for path, _ in leaves]


def count_parameters(state: TrainState, names: Collection[str] | None = None) -> int:
    """The number of values of the parameters, or of those with these names."""
    return sum(
        leaf.size
        for path, leaf in jax.tree.leaves_with_path(state.params)
        if names is None or "/".join(key.key for key in path) in names
    )
