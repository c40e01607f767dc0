"""Restricted Boltzmann machines: how deep networks were pre-trained before rectifiers.

Hinton & Salakhutdinov 2006 (Reducing the dimensionality of data with neural networks) train a deep
network of sigmoids layer by layer, without labels. Each layer is a restricted Boltzmann machine
(RBM) whose data are the outputs of the layer before. The weights that result are the initial
weights of the whole network, which back-propagation then trains ("fine-tuning"). Sections are those
of Hinton 2010, A practical guide to training restricted Boltzmann machines.
notebooks/pretraining.ipynb is the lesson.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from configs.rules import Rule
from models import layers
from models.layers import option
from models.layers.convolution import weights_and_input

_SIZES = Rule(
    lambda sizes: layers.SIZES.allows(sizes) and len(sizes) > 0,
    "a tuple of whole numbers, such as (500,) or (500, 2000)",
)


class Machine(NamedTuple):
    """An RBM: p(v, h) is proportional to exp(v b + h c + v W h), for binary units (sec. 2).

    kernel: W, [visible, hidden]. bias: c, [hidden]. visible_bias: b, [visible].
    """

    kernel: jax.Array
    bias: jax.Array
    visible_bias: jax.Array

    def hidden_means(self, visible: jax.Array) -> jax.Array:
        """p(h = 1 | v): [n, visible] -> [n, hidden]."""
        return jax.nn.sigmoid(visible @ self.kernel + self.bias)

    def visible_means(self, hidden: jax.Array) -> jax.Array:
        """p(v = 1 | h): [n, hidden] -> [n, visible]."""
        return jax.nn.sigmoid(hidden @ self.kernel.T + self.visible_bias)

    def free_energy(self, visible: jax.Array) -> jax.Array:
        """F(v) = -v b - sum softplus(c + v W) (sec. 16.1): [n, visible] -> [n].

        p(v) is proportional to exp(-F(v)).
        """
        inputs = visible @ self.kernel + self.bias
        return -visible @ self.visible_bias - jax.nn.softplus(inputs).sum(axis=-1)

    def gibbs(self, visible: jax.Array, keys: jax.Array, steps: int) -> jax.Array:
        """The states of the visible units, 0 or 1, after some steps of Gibbs sampling.

        A step samples all hidden units, then all visible units. visible: [n, visible], the start:
        states, or means. keys: [n], one for each row.
        """

        def sample(means, number):
            numbered = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, number)
            states = jax.vmap(jax.random.bernoulli)(numbered, means.astype(jnp.float32))
            return states.astype(means.dtype)

        def step(number, visible):
            hidden = sample(self.hidden_means(visible), 2 * number)
            return sample(self.visible_means(hidden), 2 * number + 1)

        return jax.lax.fori_loop(0, steps, step, visible)

    def contrastive_divergence(self, visible: jax.Array, keys: jax.Array, steps: int) -> jax.Array:
        """F(v0) - F(vk): [n, visible] -> [n], v0 the data, vk `steps` steps of `gibbs` later.

        vk counts as a constant. Therefore minus the gradient is the change that contrastive
        divergence makes (sec. 2): by the weights, <v h> of the data minus <v h> of vk, in which h
        are means (sec. 3.3). The value itself says nothing about the progress of the training.
        """
        chain = stop_gradient(self).gibbs(visible, keys, steps)
        return self.free_energy(visible) - self.free_energy(chain)


class RBM(layers.FullyConnected):
    """A fully connected layer that is an RBM: its units are the hidden ones, its input the visible.

    [batch, ...] -> the inputs of the units, [batch, features]. Parameters: those of a `Machine`.
    cd_steps: 0, or the steps of contrastive divergence, which is sown as an objective of training.
    """

    cd_steps: int = 0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x, kernel, bias = weights_and_input(self, x)
        visible_bias = self.param("visible_bias", nn.initializers.zeros, x.shape[-1:])
        if self.cd_steps:
            machine = Machine(kernel, bias, visible_bias.astype(x.dtype))
            keys = layers.example_keys(self, len(x))
            divergence = machine.contrastive_divergence(stop_gradient(x), keys, self.cd_steps)
            self.sow("objectives", "contrastive_divergence", divergence.astype(jnp.float32))
        return x @ kernel + bias


class RBMStack(layers.Net):
    """Layers `h1`, `h2`, ..., of which training trains the last as an RBM, and a classifier.

    The input is probabilities: of pixels to be white, then of the units of the layer before. The
    linear classifier `output` learns on the last layer, and no gradient flows from it into the
    layer: its error shows how well the representation separates the classes. In the parameters,
    `h1`, `h2`, ... are the layers of `models.mlp.MLP` with sigmoids, and their `visible_bias`.

    Layers before the last get no gradient; `config.optimizer.frozen` also keeps weight decay away.
    hidden: units of the layers. cd_steps: steps of contrastive divergence. The regulariser is
    applied to the input of the classifier.
    """

    num_classes: int = 10
    activation: str = option("sigmoid", ("sigmoid",))
    hidden: tuple[int, ...] = option((500,), _SIZES)
    cd_steps: int = option(1, layers.COUNT)

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, drop_scale=1.0) -> jax.Array:
        build = self.builder(train, drop_scale)
        options = {"initializer": build.init, "dtype": self.dtype}
        for number, units in enumerate(self.hidden, start=1):
            is_trained = train and number == len(self.hidden)
            steps = self.cd_steps if is_trained else 0
            x = RBM(units, cd_steps=steps, name=f"h{number}", **options)(x)
            x = build.activate(x, f"h{number}")
        return build.classifier(stop_gradient(x) if train else x, "output", drop="input")


def machines(module: RBMStack, params: Mapping[str, Any]) -> list[Machine]:
    """The machines of a stack with these parameters, from the first to the last."""
    return [Machine(**params[f"h{number}"]) for number in range(1, len(module.hidden) + 1)]


def reconstruct(stack: Sequence[Machine], images: jax.Array) -> jax.Array:
    """Images [n, height, width, channels] from their representation in the last machine.

    Means go up through all machines and down again, without sampling (Hinton & Salakhutdinov 2006,
    fig. 1: the unrolled network).
    """
    means = images.reshape(len(images), -1)
    for machine in stack:
        means = machine.hidden_means(means)
    for machine in reversed(stack):
        means = machine.visible_means(means)
    return means.reshape(images.shape)


def free_energies(stack: Sequence[Machine], images: jax.Array) -> jax.Array:
    """The free energy [n] that the last machine gives to images [n, height, width, channels]."""
    means = images.reshape(len(images), -1)
    for machine in stack[:-1]:
        means = machine.hidden_means(means)
    return stack[-1].free_energy(means)
