"""Second derivatives of a loss by the weights: the diagonal of LeCun 1998, app. C.

The paper propagates second derivatives back through the network as the gradient, but with squared
weights and squared derivatives of the activations. It leaves out the term with f'', so that no
value is negative (eq. 25 to 27):

    d2E/da_i^2 = f'(a_i)^2 * sum_k u_ki^2 d2E/da_k^2        by the input a_i of a unit
    d2E/du_ij^2 = d2E/da_i^2 * x_j^2                        by the weight u_ij of a connection

The value of a parameter is the sum over the connections that share it. The recursion leaves out
what is not on a diagonal: the units of a layer, and the connections that share a weight, count as
independent. So it is the diagonal of the Gauss-Newton matrix in the last layer, and in the layer
before it if the loss is a sum over outputs, but only for weights that are not shared. In
all other layers it is an approximation.

Here the recursion is a gradient: each layer keeps its value, and its derivative is replaced by one
with squares.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from models import layers
from models.layers import pooling


def diagonal(module: nn.Module, loss: Callable, variables, images, labels, mask=1.0):
    """The second derivatives by the parameters, summed over a batch: a tree as variables["params"].

    The network is that of evaluation, so nothing is dropped. The recursion starts at the network's
    output with the second derivatives of the loss, of which negative ones count as 0. It starts at
    the input of an RBF layer, which has no weights to train: by its outputs, the loss of eq. 8 is
    linear, and that of eq. 9 is almost linear far from all centres.

    loss: (logits [batch, classes], labels [batch]) -> [batch]. mask: [batch], or 1: a factor on
    each example. Raises ValueError, naming the layer, for a network with normalisation or
    DropConnect.
    """
    rbf = []  # the RBF layer of the network, if it has one

    def replace_derivative(next_call, args, kwargs, context):
        layer = context.module
        if context.method_name != "__call__" or not layer.path:  # the network, or `alone` below
            return next_call(*args, **kwargs)
        if isinstance(layer, layers.RBF):
            rbf.append(layer.clone(parent=None))
            return args[0]
        rule = _RULES.get(type(layer))
        if rule is None and hasattr(layer, "cost"):
            name = f"{type(layer).__name__} ({'/'.join(layer.path)})"
            raise ValueError(f"second derivatives do not propagate through {name}")
        if rule is None or getattr(layer, "kind", "") in ("max", "maxout"):
            return next_call(*args, **kwargs)  # all derivatives are 0 or 1
        alone, params, (x, *rest) = (
            layer.clone(parent=None),
            layer.variables.get("params", {}),
            args,
        )
        if isinstance(layer, layers.Activation) and rest:
            x, rest = x + rest[0] if rest[0] is not None else x, []

        def apply(params, x):
            return alone.apply({"params": params}, x, *rest, **kwargs)

        squared = rule(layer, apply, params, x)
        return stop_gradient(apply(params, x)) + (squared - stop_gradient(squared))

    def outputs(params):
        with nn.intercept_methods(replace_derivative):
            return module.apply({**variables, "params": params}, images, train=False)

    output, back = jax.vjp(outputs, variables["params"])

    def loss_of(output):
        return loss(rbf[0].apply({}, output) if rbf else output, labels).sum()

    start = jnp.maximum(_second_derivatives(loss_of, output), 0)
    return back(start * jnp.reshape(mask, (-1, 1)))[0]


def _second_derivatives(function: Callable, x: jax.Array) -> jax.Array:
    """By each element of x [batch, n]. function: x -> the sum of a function of each example."""

    def by_column(unit):
        _, product = jax.jvp(jax.grad(function), (x,), (jnp.broadcast_to(unit, x.shape),))
        return product @ unit

    return jax.lax.map(by_column, jnp.eye(x.shape[-1], dtype=x.dtype)).T


# The rules return a function of the parameters and of x, whose derivatives are the squares of the
# layer's. Its value does not count. apply: the layer as (params, x) -> y.


def _with_weights(layer, apply, params, x):
    """A connection has one weight, and a layer is linear in its input and in its parameters."""
    squares = jax.tree.map(jnp.square, stop_gradient(params))
    return apply(squares, x) + apply(params, jnp.square(stop_gradient(x)))


def _elementwise(layer, apply, params, x):
    fixed = stop_gradient(x)
    _, derivative = jax.jvp(lambda x: apply(params, x), (fixed,), (jnp.ones_like(x),))
    y = jnp.square(stop_gradient(derivative)) * x
    if "slope" in params:  # PReLU: slope * x where x is negative
        y += params["slope"] * jnp.square(jnp.minimum(fixed, 0))
    return y


def _average(layer, apply, params, x):
    """The derivatives of a mean over n pixels are 1 / n, and their squares 1 / n of that."""
    is_global = isinstance(layer, layers.GlobalAveragePool)
    return apply(params, x) / (x[0, ..., 0].size if is_global else pooling.divisor(x, layer))


_RULES = {
    layers.Conv: _with_weights,
    layers.TableConv: _with_weights,
    layers.LocalConv: _with_weights,
    layers.FullyConnected: _with_weights,
    layers.Subsampling: _with_weights,
    layers.Activation: _elementwise,
    layers.Dropout: _elementwise,
    layers.Standout: _elementwise,
    layers.Pool: _average,
    layers.GlobalAveragePool: _average,
}
