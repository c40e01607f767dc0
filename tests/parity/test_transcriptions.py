"""The papers' AlexNet and GoogLeNet against the same networks made of torch's layers."""

import types

import jax
import jax.numpy as jnp
import pytest
from against import (
    arrays,
    assert_close,
    assert_same_logits,
    assert_same_training_step,
    images,
    jit,
    random_net,
    to_nchw,
    torch,
)
from transcriptions import PaperGoogLeNet, TwoTowerAlexNet, same_names

from models.alexnet import AlexNet
from models.googlenet import GoogLeNet
from models.layers import normalization
from models.pretrained.entries import load

# Side of the image -> conv1 of `TwoTowerAlexNet`.
CONV1 = {224: (11, 4, 2, 6), 227: (11, 4, 0, 6), 32: (5, 1, 2, 3)}


def pixels(batch, side):
    """Images in the papers' units (deviation 60), on which the effect of LRN depends."""
    return 20 * images(batch, side)


def two_tower(side, kept=1.0, conv1=None, pool=3, **options):
    """(torch's network, its tensor names, our module, our variables)."""
    conv1 = conv1 or CONV1[side]
    net = random_net(TwoTowerAlexNet, conv1=conv1, kept=kept, pool=pool)
    entries = same_names(net, {"fc6": conv1[-1]})
    module = AlexNet(image_size=side, **options)
    variables = load(module, entries, arrays(net), (side, side, 3))
    return net, entries, module, variables


@pytest.mark.parametrize("side", CONV1)
def test_two_tower_alexnet(side):
    # The outputs of fc6 and fc7 are halved at test time, as published.
    net, _, module, variables = two_tower(side, kept=0.5)
    assert_same_logits(module, variables, net, pixels(2, side))


def test_two_tower_alexnet_without_overlap():
    options = {"conv1": (5, 1, 2, 4), "pool": 2, "pooling": "non_overlapping"}
    net, _, module, variables = two_tower(32, kept=0.5, **options)
    assert_same_logits(module, variables, net, pixels(2, 32))


def test_training_step_of_two_tower_alexnet(monkeypatch):
    net, entries, module, variables = two_tower(227, regulariser="none")
    # LRN computes in float32 whatever comes in; here in float64 as the rest.
    in_float64 = types.SimpleNamespace(**{**vars(jnp), "float32": jnp.float64})
    monkeypatch.setattr(normalization, "jnp", in_float64)
    # Grouped convolutions in float64 are slow: one image, and optimised code.
    assert_same_training_step(module, variables, entries, net, pixels(1, 227), jit=jax.jit)


def test_googlenet_of_the_paper():
    net = random_net(PaperGoogLeNet)
    module = GoogLeNet(regulariser="none")
    entries = same_names(net, {"fc1": 4})
    variables = load(module, entries, arrays(net), (224, 224, 3))
    x = pixels(2, 224)
    assert_same_logits(module, variables, net, x)

    with torch.inference_mode():
        expected = net.train()(to_nchw(x))

    @jit
    def train(variables, x):
        return module.apply(variables, x, train=True, mutable=["auxiliary"])

    logits, state = train(variables, x)
    heads = [state["auxiliary"][name]["logits"][0] for name in ("aux1", "aux2")]
    for number, pair in enumerate(zip((logits, *heads), expected, strict=True)):
        assert_close(*pair, f"logits of head {number}")
