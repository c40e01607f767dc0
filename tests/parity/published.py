"""The recipes as published: update rules written out in torch, and the numbers of each recipe.

The numbers are typed from the sources that stand beside them, not read from configs/. Where a
source is silent, they are what the config's docstring says that Canon chose. What happens during a
run happens within 20 steps: `test_shipped_recipes.CASES` has the length of an epoch.
"""

import fnmatch
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from against import to_nchw, torch

STEPS = 20
_EACH = range(STEPS)
_NONE = {"*": 0.0}


class InsideVelocity(torch.optim.Optimizer):
    """Krizhevsky 2012, sec. 5: v = m v - wd * rate * w - rate * gradient; w = w + v."""

    def __init__(self, groups, lr, momentum):
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            m, rate, wd = group["momentum"], group["lr"], group["weight_decay"]
            for w in group["params"]:
                v = self.state[w].setdefault("v", torch.zeros_like(w))
                v.copy_(m * v - wd * rate * w - rate * w.grad)
                w += v


class Published(NamedTuple):
    """A recipe.

    rates: of the steps, or a function of the errors of all batches so far. momenta: of the steps.
    form: of the momentum. loss: (logits, labels) -> scalar. auxiliary: weight of the heads' losses.
    decays, factors: weight decay, and factor on the rate, by patterns of torch's names; the first
    pattern that matches counts. limits: the largest norm of a unit's weights, by torch's names.
    averaging: the weight of the parameters of k updates ago is averaging ** k.
    """

    rates: list[float] | Callable
    momenta: tuple[float, ...] = (0.9,) * STEPS
    form: type = InsideVelocity
    loss: Callable = torch.nn.functional.cross_entropy
    auxiliary: float = 0.0
    decays: Mapping[str, float] = _NONE
    factors: Mapping[str, float] = {"*": 1.0}
    limits: Mapping[str, float] = {}
    averaging: float = 0.0


class Trajectory(NamedTuple):
    """losses, rates: of the steps. average: of the parameters. limited: units, in all steps."""

    losses: np.ndarray
    rates: np.ndarray
    average: dict[str, np.ndarray]
    limited: int = 0


def train(net, published: Published, x, labels, scale: float = 1.0) -> Trajectory:
    """Trains a torch network on batches x [steps, batch, height, width, channels].

    scale: factor on all rates.
    """
    parameters = dict(net.named_parameters())
    groups = [
        {"params": w, "weight_decay": _first(published.decays, name)}
        for name, w in parameters.items()
    ]
    optimizer = published.form(groups, lr=0.0, momentum=0.0)
    factors = [scale * _first(published.factors, name) for name in parameters]
    losses, rates, errors, history, limited = [], [], [], [], 0
    net.train()
    for step in _EACH:
        logits, *heads = out if isinstance(out := net(to_nchw(x[step])), tuple) else (out,)
        truth = torch.from_numpy(labels[step]).long()
        loss = published.loss(logits, truth)
        net.zero_grad()
        (loss + published.auxiliary * sum(published.loss(h, truth) for h in heads)).backward()
        losses.append(loss.item())
        errors.append((logits.argmax(1) != truth).double().mean().item())
        rate = published.rates(errors) if callable(published.rates) else published.rates[step]
        rates.append(scale * rate)
        for group, factor in zip(optimizer.param_groups, factors, strict=True):
            group.update(lr=rate * factor, momentum=published.momenta[step])
        optimizer.step()
        limited += sum(_limit(parameters[name], c) for name, c in published.limits.items())
        history.append({name: w.detach().numpy().copy() for name, w in parameters.items()})
    average = _average(history, published.averaging)
    return Trajectory(np.array(losses), np.array(rates), average, limited)


def _first(values: Mapping[str, float], name: str) -> float:
    return next(value for pattern, value in values.items() if fnmatch.fnmatch(name, pattern))


@torch.no_grad()
def _limit(weight, largest: float) -> int:
    """Srivastava 2014, sec. 5.1: projects each unit's weights into a ball; how many were outside.

    A unit's weights are a row of a fully connected layer, and a kernel [in, k, k] of a convolution
    (max_col_norm and max_kernel_norm of the files of Goodfellow 2013).
    """
    norms = weight.flatten(1).norm(dim=1)
    outside = norms > largest
    weight[outside] *= (largest / norms[outside]).view(-1, *[1] * (weight.ndim - 1))
    return int(outside.sum())


def _average(history, averaging: float) -> dict[str, np.ndarray]:
    """The weighted mean of the parameters after each update; without averaging the last."""
    weights = averaging ** np.arange(STEPS - 1.0, -1.0, -1.0)  # 0 ** 0 is 1
    return {
        name: sum(w * after[name] for w, after in zip(weights, history, strict=True)) / sum(weights)
        for name in history[0]
    }


def _cosine(first: float) -> list[float]:
    """From `first` to 0, which would be the rate of the step after the last."""
    return [first * (1 + math.cos(math.pi * step / STEPS)) / 2 for step in _EACH]


def _map_criterion(y_negated, truth):
    """LeCun 1998, eq. 9, the mean over a batch. The paper does not give j; Canon's is 0.1."""
    y, j = -y_negated, torch.tensor(0.1, dtype=y_negated.dtype)
    right = y.gather(1, truth[:, None])[:, 0]
    return (right + torch.log(torch.exp(-j) + torch.exp(-y).sum(1))).mean()


def _after_warm_up(errors) -> float:
    """He 2015, sec. 4.2: 0.01 until the training error is low enough, then the rate of the step.

    The error is a running mean of the batches' that starts at 1 (Canon's choice), and the bound
    0.97: a mean of about 50 steps does not get to 0.8 within 20.
    """
    running, over = 1.0, False
    for error in errors:
        running = 0.98 * running + 0.02 * error
        over = over or running < 0.97
    return ([0.1] * 12 + [0.01] * 6 + [0.001] * 2)[len(errors) - 1] if over else 0.01


# LeCun 1998 optimises in another way: SGD with momentum and a cosine are Canon's choice.
LENET5 = Published(_cosine(0.001), form=torch.optim.SGD, loss=_map_criterion)
MLP = Published(_cosine(0.01), form=torch.optim.SGD)
# pylearn2, scripts/papers/maxout/mnist_pi.yaml: momentum from 0.5 to 0.7 in 250 epochs; the rate is
# divided by 1.000004 (here by 1.05) at every update, down to 1e-6 (here 0.05); max_col_norm.
MAXOUT_DENSE = Published(
    [max(0.1 / 1.05**step, 0.05) for step in _EACH],
    momenta=tuple(0.5 + 0.2 * min(step / 16, 1) for step in _EACH),
    limits={"h0.weight": 1.9365, "h1.weight": 1.9365, "y.weight": 1.9365},
)
# The same, cifar10_no_aug.yaml: momentum to 0.6 in 250 epochs; the rate falls linearly to a
# hundredth in 500; W_lr_scale and b_lr_scale 0.05 of convolutions; max_kernel_norm, max_col_norm.
MAXOUT_CIFAR10 = Published(
    [0.17 * (1 - 0.99 * min(step / 16, 1)) for step in _EACH],
    momenta=tuple(0.5 + 0.1 * min(step / 8, 1) for step in _EACH),
    factors={"h0.*": 0.05, "h1.*": 0.05, "h2.*": 0.05, "*": 1.0},
    limits={
        **{"h0.weight": 0.9, "h1.weight": 1.9365, "h2.weight": 1.9365},
        **{"h3.weight": 1.9, "y.weight": 1.9365},
    },
)
# cuda-convnet, layers-18pct.cfg and layer-params-18pct.cfg: epsW 0.001, epsB 0.002, momW and momB
# 0.9, wc 0.004, of fc10 1.0 (of weights only). The rate falls after 120 and 130 epochs.
CUDA_CONVNET = Published(
    [0.001] * 12 + [0.0001] + [0.00001] * 7,
    decays={"fc10.weight": 1.0, "*.weight": 0.004, "*.bias": 0.0},
    factors={"*.weight": 1.0, "*.bias": 2.0},
)
# Krizhevsky 2012, sec. 5; the author's code has wc for weights only. The rate falls when the
# validation error stops improving: here at the sixth evaluation, after step 12.
ALEXNET = Published([0.01] * 12 + [0.001] * 8, decays={"*.weight": 5e-4, "*.bias": 0.0})
VGG = ALEXNET  # Simonyan 2015, sec. 3.1
# Szegedy 2014, sec. 5 and 6: times 0.96 every 8 epochs, 0.3 of the heads' losses, an average (over
# how many steps it does not say). Caffe's bvlc_googlenet: 0.01; 2e-4, decay_mult 0 of biases.
GOOGLENET = Published(
    [0.01 * 0.96 ** (step // 4) for step in _EACH],
    auxiliary=0.3,
    decays={"*.weight": 2e-4, "*.bias": 0.0},
    averaging=0.9999,
)
# He 2015, sec. 3.4 and 4.2. The README of the authors' released networks: v = momentum*v + lr*g.
# README of fb.resnet.torch: only weights of convolutions decay; in Canon the classifier's, too.
_DECAYS = {"*bn*": 0.0, "*downsample.1*": 0.0, "*.weight": 1e-4, "*.bias": 0.0}
RESNET = Published([0.1] * 12 + [0.01] * 8, decays=_DECAYS)
RESNET_CIFAR10 = Published(_after_warm_up, decays=_DECAYS)
