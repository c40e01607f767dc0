"""Trajectories of training against torch.optim.SGD: the same weights, 20 batches and losses.

In float64 for all 20 steps, with few maps or small images, because XLA's convolutions in float64
are slow. In float32 either framework rounds a few ReLUs to the other side of
0, differently; each changes the gradients behind it, and BatchNorm over few pixels magnifies that
from step to step: after 20 steps of ResNet-18, losses differ by up to half a percent. There the
first steps are compared.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from against import arrays, assert_close, images, to_nchw, torch
from against import torchvision as tv
from flax.traverse_util import flatten_dict
from transcriptions import CifarResNet as TorchCifarResNet
from transcriptions import same_names

from configs.common import base
from models.alexnet import VARIANTS, AlexNet
from models.pretrained import torchvision as names
from models.pretrained.entries import dump
from models.resnet import CifarResNet, ResNet
from tests.models import random_weights
from train_lib import losses, optimizers, schedules
from train_lib import state as state_lib
from train_lib.distributed import parallel
from train_lib.steps import Recipe, make_train_step

FALL = 10  # the rate falls tenfold before the eleventh step
MOMENTUM, DECAY = 0.9, 0.1


NARROW = (16, 48, 96, 64, 64)  # a quarter of torchvision's maps


@pytest.fixture(autouse=True)
def narrow_alexnet(monkeypatch):
    monkeypatch.setitem(VARIANTS, "one_tower", (NARROW, (1,) * 5))


def alexnet():
    module = AlexNet(10, variant="one_tower", regulariser="none", initializer="he", bias_start=0.1)
    net = tv.models.alexnet(num_classes=10, dropout=0.0)
    convolutions = [i for i, x in enumerate(net.features) if isinstance(x, torch.nn.Conv2d)]
    for i, maps in zip(convolutions, itertools.pairwise((3, *NARROW)), strict=True):
        wide = net.features[i]
        net.features[i] = torch.nn.Conv2d(*maps, wide.kernel_size, wide.stride, wide.padding)
    net.classifier[1] = torch.nn.Linear(NARROW[-1] * 6 * 6, 4096)
    return module, net, names.FRAMEWORK.entries(module)


def resnet18():
    module = ResNet(10, depth=18)
    return module, tv.models.resnet18(num_classes=10), names.FRAMEWORK.entries(module)


def resnet20():
    net = TorchCifarResNet(20)
    return CifarResNet(10, depth=20), net, same_names(net, {})


pytestmark = pytest.mark.usefixtures("product_options")

# By net: examples a batch, side of an image, which parameters decay, the first rate.
RUNS = {
    alexnet: (2, 224, "kernels", 1e-4),
    resnet18: (8, 48, "all", 2e-3),
    resnet20: (8, 32, "kernels", 4e-3),
}
IN_FLOAT64 = {resnet18: (4, 33), resnet20: (8, 16)}  # where convolutions take longest


def batches(steps, batch, side):
    """uint8 images [steps, batch, side, side, 3], noise in the colour of their label."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 10, (steps, batch)).astype(np.int32)
    noise = images(steps * batch, side).reshape(steps, batch, side, side, 3)
    x = noise + 2 * rng.normal(size=(10, 3))[labels][:, :, None, None]
    return np.clip(117 + 30 * x, 0, 255).astype(np.uint8), labels


def scaled(x):
    return (x - 117.0) / 128.0


def train_here(module, variables, x, labels, decayed, rate, dtype):
    """The loss of each step, and the variables after the last."""
    section, schedule = base().optimizer, base().schedule
    section.update(momentum=MOMENTUM, weight_decay=DECAY, decayed=decayed)
    schedule.update(name="steps", learning_rate=rate, boundaries=(1.0,), factors=(0.1,))
    optimizer = optimizers.make_optimizer(
        section, schedules.make_rate(schedule, FALL, len(x)), FALL
    )
    loss = losses.make_loss({"name": "softmax"})

    def transform(images, keys, offsets):
        return scaled(images.astype(dtype))

    step = make_train_step(Recipe(module.clone(dtype=dtype), loss, optimizer, transform))
    variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), variables)
    params = variables.pop("params")
    state = state_lib.TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        model_state=variables,
        opt_state=optimizer.init(params),
        window={name: jnp.zeros((), dtype) for name in state_lib.EMPTY_WINDOW},
    )
    on = jax.devices()[:1]
    state, run, actual = parallel.replicate(state, on), parallel.train_step(step, on), []
    for batch, truth in zip(x, labels, strict=True):
        state, record = run(state, {"image": batch[None], "label": truth[None]})
        actual.append(float(record["loss"]) / len(truth))
    return actual, jax.device_get({"params": state.params, **state.model_state})


def train_there(net, x, labels, decayed, rate, dtype):
    """The loss of each step, and how many elements each BatchNorm's statistics are taken over."""
    decays, spared, elements = [], [], {}
    for parameter in net.parameters():
        (decays if parameter.ndim > 1 or decayed == "all" else spared).append(parameter)
    groups = [{"params": decays, "weight_decay": DECAY}, {"params": spared}]
    optimizer = torch.optim.SGD([g for g in groups if g["params"]], lr=rate, momentum=MOMENTUM)
    falls = torch.optim.lr_scheduler.MultiStepLR(optimizer, [FALL], gamma=0.1)
    for name, layer in net.named_modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.register_forward_hook(
                lambda layer, x, y, name=name: elements.update({name: y[:, 0].numel()})
            )
    net.train()
    actual = []
    for batch, truth in zip(x, labels, strict=True):
        out = net(to_nchw(scaled(batch.astype(dtype))))
        loss = torch.nn.functional.cross_entropy(out, torch.from_numpy(truth).long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        falls.step()
        actual.append(loss.item())
    optimizer.zero_grad()  # half a gigabyte, for AlexNet
    return actual, elements


def both(make, steps, dtype):
    """(losses, variables) here; (losses, net, elements) there; the first weights; the names."""
    batch, side, *how = RUNS[make]
    if dtype == "float64":
        batch, side = IN_FLOAT64.get(make, (batch, side))
    module, net, entries = make()
    x, labels = batches(steps, batch, side)
    variables = jax.device_get(random_weights.variables(module, (side, side, 3)))
    if make is resnet18:
        variables["params"]["fc"]["kernel"] *= 0.1  # nearly the deviation that the network has
    start = dump(module, entries, variables, (side, side, 3))
    net.load_state_dict({key: torch.from_numpy(array) for key, array in start.items()})
    net = net.to(getattr(torch, dtype))
    losses_there, elements = train_there(net, x, labels, *how, dtype)
    with jax.enable_x64(dtype == "float64"):
        here = train_here(module, variables, x, labels, *how, jnp.dtype(dtype))
    return here, (losses_there, net, elements), start, entries


@pytest.mark.parametrize("make", RUNS)
def test_twenty_steps(make):
    steps = 20
    (actual, variables), (expected, net, elements), start, entries = both(make, steps, "float64")
    # Our logits are float32 in any case, so 1e-7 is what there is to have.
    np.testing.assert_allclose(actual, expected, rtol=1e-6)
    assert np.ptp(expected) > 0.2

    leaves, theirs = flatten_dict(variables), arrays(net)
    for entry in entries:
        if not entry.path:
            continue
        last, name = theirs[entry.key], entry.key.rsplit(".", 1)[0]
        if entry.path[-1] == "var":
            # torch's running variance is of unbiased ones, larger by n / (n - 1); ours of biased.
            n, left = elements[name], 0.9**steps * start[entry.key]
            last = left + (last - left) * (n - 1) / n
        assert_close(entry.to_theirs(leaves[entry.path]), last, entry.key, 1e-6)
        moved = np.abs(last - start[entry.key]).max() / np.abs(last).max()
        assert moved > 1e-4, entry.key  # a hundred times what is compared


@pytest.mark.parametrize("make", RUNS)
def test_first_steps_in_float32(make):
    (actual, _), (expected, *_), *_ = both(make, 5, "float32")
    np.testing.assert_allclose(actual, expected, rtol=1e-4)
