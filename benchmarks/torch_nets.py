"""Canon's networks in torch, for `benchmarks.models`: torchvision's, and those that it lacks.

Images are [batch, channels, height, width]. The layers, their order and the number of parameters
are those of the network of the same name in `models/`; the benchmark checks the number.
"""

import itertools

import torch
import torch.nn.functional as F
import torchvision.models
from torch import nn

from models.lenet import C3_TABLE, rbf_codes


class ScaledTanh(nn.Module):
    def forward(self, x):
        return 1.7159 * torch.tanh(x * (2.0 / 3.0))


class Subsampling(nn.Module):
    def __init__(self, maps):
        super().__init__()
        self.coefficient = nn.Parameter(torch.full((maps, 1, 1), 0.5))
        self.bias = nn.Parameter(torch.zeros(maps, 1, 1))

    def forward(self, x):
        return self.coefficient * F.avg_pool2d(x, 2, divisor_override=1) + self.bias


class TableConv(nn.Module):
    def __init__(self, table, maps_in, size):
        super().__init__()
        places = [m * maps_in + i for m, inputs in enumerate(table) for i in inputs]
        self.shape = (len(table), maps_in, size, size)
        self.register_buffer("places", torch.tensor(places))
        self.weight = nn.Parameter(torch.empty(len(places), size, size).uniform_(-0.1, 0.1))
        self.bias = nn.Parameter(torch.zeros(len(table)))

    def forward(self, x):
        dense = self.weight.new_zeros(self.shape[0] * self.shape[1], *self.shape[2:])
        dense = dense.index_copy(0, self.places, self.weight)
        return F.conv2d(x, dense.view(self.shape), self.bias)


class RBF(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("codes", torch.tensor(rbf_codes(), dtype=torch.float32).T)

    def forward(self, x):
        squares = x.square().sum(1, keepdim=True) + self.codes.square().sum(0)
        return 2 * x @ self.codes - squares


def lenet5():
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 5), ScaledTanh(), Subsampling(6), ScaledTanh()),
        *(TableConv(C3_TABLE, 6, 5), ScaledTanh(), Subsampling(16), ScaledTanh()),
        *(nn.Conv2d(16, 120, 5), ScaledTanh(), nn.Flatten()),
        *(nn.Linear(120, 84), ScaledTanh(), RBF()),
    )


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 300), ScaledTanh(), nn.Linear(300, 10))


class LocalConv(nn.Module):
    """A 3x3 layer with different weights at each of size x size positions."""

    def __init__(self, maps_in, maps, size):
        super().__init__()
        self.size = size
        self.weight = nn.Parameter(torch.randn(size * size, maps_in * 9, maps) * 0.04)
        self.bias = nn.Parameter(torch.zeros(size * size, 1, maps))

    def forward(self, x):
        patches = F.unfold(x, 3, padding=1).permute(2, 0, 1)  # [positions, batch, 9 * maps_in]
        y = torch.baddbmm(self.bias, patches, self.weight)
        return y.permute(1, 2, 0).reshape(len(x), -1, self.size, self.size)


def cuda_convnet_26pct():
    def average():
        return nn.AvgPool2d(3, 2, ceil_mode=True)

    return nn.Sequential(
        *(nn.Conv2d(3, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True)),
        *(nn.Conv2d(32, 32, 5, padding=2), nn.ReLU(), average()),
        *(nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), average()),
        *(nn.Flatten(), nn.Linear(1024, 64), nn.ReLU(), nn.Linear(64, 10)),
    )


def cuda_convnet_13pct():
    return nn.Sequential(
        *(nn.Conv2d(3, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True)),
        *(nn.Conv2d(64, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True)),
        *(LocalConv(64, 32, 6), nn.ReLU(), LocalConv(32, 32, 6), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(1152, 10)),
    )


class Maxout(nn.Module):
    def forward(self, x):
        return x.view(len(x), -1, 5).amax(2)


def maxout():
    return nn.Sequential(
        *(nn.Flatten(), nn.Dropout(0.2), nn.Linear(784, 1200), Maxout()),
        *(nn.Dropout(0.5), nn.Linear(240, 1200), Maxout()),
        *(nn.Dropout(0.5), nn.Linear(240, 10)),
    )


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut of type A: strided, with zeros for the new maps."""

    def __init__(self, maps_in, maps):
        super().__init__()
        self.stride, self.new = (1, 0) if maps == maps_in else (2, maps - maps_in)
        self.conv1 = nn.Conv2d(maps_in, maps, 3, self.stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(maps)
        self.conv2 = nn.Conv2d(maps, maps, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(maps)

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)), inplace=True)))
        if self.new:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new))
        return F.relu(y + x, inplace=True)


def resnet_cifar10():
    maps = [16] * 4 + [32] * 3 + [64] * 3
    blocks = [Block(a, b) for a, b in itertools.pairwise(maps)]
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True)),
        *blocks,
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)),
    )


def alexnet_two_tower():
    def relu():
        return nn.ReLU(inplace=True)

    def norm():
        return nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)  # torch divides alpha by 5

    return nn.Sequential(
        *(nn.Conv2d(3, 96, 11, 4, 2), relu(), norm(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(96, 256, 5, 1, 2, groups=2), relu(), norm(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(256, 384, 3, 1, 1), relu()),
        *(nn.Conv2d(384, 384, 3, 1, 1, groups=2), relu()),
        *(nn.Conv2d(384, 256, 3, 1, 1, groups=2), relu(), nn.MaxPool2d(3, 2), nn.Flatten()),
        *(nn.Linear(9216, 4096), relu(), nn.Dropout(0.5)),
        *(nn.Linear(4096, 4096), relu(), nn.Dropout(0.5), nn.Linear(4096, 1000)),
    )


class GoogLeNet(nn.Module):
    """torchvision's network. Returns logits, and in training also those of the auxiliary heads."""

    def __init__(self):
        super().__init__()
        self.net = torchvision.models.googlenet(init_weights=False)

    def forward(self, x):
        y = self.net(x)
        return tuple(y) if self.training else y


NETS = {
    "lenet5": lenet5,
    "mlp_300": mlp,
    "cuda_convnet_26pct": cuda_convnet_26pct,
    "cuda_convnet_13pct": cuda_convnet_13pct,
    "maxout_mnist_dense": maxout,
    "resnet_cifar10_20": resnet_cifar10,
    "alexnet_two_tower": alexnet_two_tower,
    "alexnet_one_tower": torchvision.models.alexnet,
    "vgg_A": torchvision.models.vgg11,
    "vgg_D": torchvision.models.vgg16,
    "googlenet_batch_norm": GoogLeNet,
    "resnet_18": torchvision.models.resnet18,
    "resnet_50_v1.5": torchvision.models.resnet50,
}


def loss_of(name, j):
    """The loss of (output, labels): cross-entropy, or LeNet's MAP criterion with its constant j.

    An output with the logits of auxiliary heads adds theirs, each with a weight of 0.3.
    """

    def map_criterion(logits, labels):
        rubbish = logits.new_full((len(logits), 1), -j)
        everything = torch.logsumexp(torch.cat([logits, rubbish], 1), 1)
        return (everything - logits.gather(1, labels[:, None])[:, 0]).mean()

    one = map_criterion if name == "map" else F.cross_entropy

    def loss(output, labels):
        if isinstance(output, tuple):
            logits, *heads = output
            return one(logits, labels) + 0.3 * sum(one(head, labels) for head in heads)
        return one(output, labels)

    return loss


class Steps:
    """A network with its train and inference steps on one fixed batch of uint8 images, NCHW."""

    def __init__(self, name, images, labels, loss, low, high, rate, momentum):
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.net = NETS[name]().to(self.device)
        self.images = torch.tensor(images).permute(0, 3, 1, 2).contiguous().to(self.device)
        self.labels = torch.tensor(labels, dtype=torch.long).to(self.device)
        self.loss, self.low, self.step = loss, low, (high - low) / 255.0
        self.rate, self.momentum = rate, momentum
        self.use("default")

    def use(self, layout):
        """Sets the layout of images and weights: "default" (NCHW) or "channels_last"."""
        self.layout = layout
        formats = {"default": torch.contiguous_format, "channels_last": torch.channels_last}
        self.net.to(memory_format=formats[layout])
        self.images = self.images.contiguous(memory_format=formats[layout])
        for parameter in self.net.parameters():
            parameter.grad = None
        self.optimizer = torch.optim.SGD(
            self.net.parameters(), self.rate, self.momentum, fused=True
        )

    def parameters(self):
        return sum(p.numel() for p in self.net.parameters())

    def _input(self):
        return self.images.float().mul_(self.step).add_(self.low)

    def train(self):
        self.net.train()
        self.optimizer.zero_grad(set_to_none=True)
        self.loss(self.net(self._input()), self.labels).backward()
        self.optimizer.step()

    @torch.inference_mode()
    def infer(self):
        self.net.eval()
        return self.net(self._input())

    def wait(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize()
