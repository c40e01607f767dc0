"""LeNet-5, the perceptron, maxout networks and cuda-convnet's, made of torch's layers, for tests.

Modules have our layers' names, so that `transcriptions.same_names` can list their tensors. Sizes
are arguments.
"""

from against import torch

from models.lenet import C3_TABLE, rbf_codes

nn = torch.nn


def scaled_tanh(x):
    """LeCun 1998, app. A: 1.7159 tanh(2x/3)."""
    return 1.7159 * torch.tanh(x * 2 / 3)


class Subsampling(nn.Module):
    """LeCun 1998, sec. II.B: four inputs are added, times a coefficient, plus a bias."""

    def __init__(self, maps):
        super().__init__()
        self.coefficient = nn.Parameter(torch.zeros(maps))
        self.bias = nn.Parameter(torch.zeros(maps))

    def forward(self, x):
        total = 4 * nn.functional.avg_pool2d(x, 2)
        return total * self.coefficient[:, None, None] + self.bias[:, None, None]


class TableConv(nn.Module):
    """LeCun 1998, table I: `kernel` [5, 5, pairs] has a slice for each connected pair of maps."""

    def __init__(self):
        super().__init__()
        self.pairs = [(m, i) for m, inputs in enumerate(C3_TABLE) for i in inputs]
        self.kernel = nn.Parameter(torch.zeros(5, 5, len(self.pairs)))
        self.bias = nn.Parameter(torch.zeros(len(C3_TABLE)))

    def forward(self, x):
        outputs = []
        for m in range(len(C3_TABLE)):
            pairs = [(number, i) for number, (to, i) in enumerate(self.pairs) if to == m]
            numbers, inputs = (list(column) for column in zip(*pairs, strict=True))
            kernel = self.kernel[:, :, numbers].permute(2, 0, 1)[None]
            outputs.append(nn.functional.conv2d(x[:, inputs], kernel, self.bias[m : m + 1]))
        return torch.cat(outputs, 1)


class LeNet5(nn.Module):
    """LeCun 1998, fig. 2, for 32x32 images; returns the outputs y of eq. 7, negated."""

    def __init__(self):
        super().__init__()
        self.c1, self.s2 = nn.Conv2d(1, 6, 5), Subsampling(6)
        self.c3, self.s4 = TableConv(), Subsampling(16)
        self.c5, self.f6 = nn.Conv2d(16, 120, 5), nn.Linear(120, 84)
        self.codes = torch.from_numpy(rbf_codes()).double()

    def forward(self, x):
        for layer in (self.c1, self.s2, self.c3, self.s4, self.c5):
            x = scaled_tanh(layer(x))
        x = scaled_tanh(self.f6(x.flatten(1)))
        return -(x[:, None] - self.codes).square().sum(-1)


class Perceptron(nn.Module):
    """LeCun 1998, sec. III.C: one hidden layer."""

    def __init__(self, inputs, hidden):
        super().__init__()
        self.h1, self.output = nn.Linear(inputs, hidden), nn.Linear(hidden, 10)

    def forward(self, x):
        return self.output(scaled_tanh(self.h1(x.flatten(1))))


class Maxout(nn.Module):
    """Goodfellow 2013, without dropout. The layers are those of our `VARIANTS`.

    channels, side: of the images. The first fully connected layer after convolutions sees a map of
    `last` x `last` pixels.
    """

    def __init__(self, layers, channels, side, last=1):
        super().__init__()
        self.layers, inputs = layers, channels if layers[0][0] == "conv" else channels * side**2
        for number, (kind, units, pieces, *window) in enumerate(layers):
            if kind == "conv":
                layer = nn.Conv2d(inputs, units * pieces, window[0], padding=window[1])
            else:
                layer = nn.Linear(inputs * last**2, units * pieces)
                last = 1
            self.add_module(f"h{number}", layer)
            inputs = units
        self.y = nn.Linear(inputs * last**2, 10)

    def forward(self, x):
        for number, (kind, units, pieces, *window) in enumerate(self.layers):
            x = self.get_submodule(f"h{number}")(x if kind == "conv" else x.flatten(1))
            x = x.unflatten(1, (units, pieces)).amax(2)
            if kind == "conv":
                x = nn.functional.max_pool2d(x, *window[2:], ceil_mode=True)
        return self.y(x.flatten(1))


class CudaConvnet18(nn.Module):
    """cuda-convnet's layers-18pct.cfg for side x side images.

    rnorm: scale 5e-5, divided by the 9 pixels of its window, power 0.75.
    """

    def __init__(self, side):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 5, padding=2)
        self.conv2 = nn.Conv2d(32, 32, 5, padding=2)
        self.conv3 = nn.Conv2d(32, 64, 5, padding=2)
        self.fc10 = nn.Linear(64 * (side // 8) ** 2, 10)

    def forward(self, x):
        def norm(x):
            mean = nn.functional.avg_pool2d(x.square(), 3, stride=1, padding=1)  # of 9, with zeros
            return x / (1 + 5e-5 * mean) ** 0.75

        x = norm(nn.functional.max_pool2d(torch.relu(self.conv1(x)), 3, 2, ceil_mode=True))
        x = norm(nn.functional.avg_pool2d(torch.relu(self.conv2(x)), 3, 2, ceil_mode=True))
        x = nn.functional.avg_pool2d(torch.relu(self.conv3(x)), 3, 2, ceil_mode=True)
        return self.fc10(x.flatten(1))
