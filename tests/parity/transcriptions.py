"""Networks that torchvision does not have, made of torch's layers, for tests only.

Modules have our layers' names, so that `same_names` can list their tensors.
"""

from against import torch

from models.googlenet import MODULES
from models.layers import widened
from models.pretrained.entries import Entry

nn = torch.nn

HEADS = {"4a": "aux1", "4d": "aux2"}  # Szegedy 2014, sec. 5: the modules below the classifiers


def same_names(net, sides) -> list[Entry]:
    """The list of names for a network whose modules have our names.

    sides: by the last part of a linear layer's name, of the map that it sees, if it sees one.
    """
    entries = []
    for name, layer in net.named_modules():
        path = ("params", *name.split("."))
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layout = "conv" if isinstance(layer, nn.Conv2d) else "linear"
            entries.append(
                Entry((*path, "kernel"), f"{name}.weight", layout, sides.get(path[-1], 1))
            )
            if layer.bias is not None:
                entries.append(Entry((*path, "bias"), f"{name}.bias"))
        elif isinstance(layer, nn.BatchNorm2d):
            entries += [
                Entry((*path, "scale"), f"{name}.weight"),
                Entry((*path, "bias"), f"{name}.bias"),
                Entry(("batch_stats", *path[1:], "mean"), f"{name}.running_mean"),
                Entry(("batch_stats", *path[1:], "var"), f"{name}.running_var"),
                Entry(None, f"{name}.num_batches_tracked"),
            ]
        else:  # parameters of its own, with our names and shapes
            own = [own for own, _ in layer.named_parameters(recurse=False)]
            entries += [Entry((*path, leaf), f"{name}.{leaf}") for leaf in own]
    return entries


def lrn():
    """Krizhevsky 2012, sec. 3.3: torch divides alpha by n = 5, the paper does not."""
    return nn.LocalResponseNorm(5, alpha=5 * 1e-4, beta=0.75, k=2.0)


def caffes_lrn():
    """Caffe divides alpha by n, as torch does; its k is 1."""
    return nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0)


class TwoTowerAlexNet(nn.Module):
    """Krizhevsky 2012. kept: share that fc6 and fc7 are scaled by at test.

    conv1: its window, stride and padding, and the side of the map that fc6 sees. sizes: maps of
    conv1 to conv5, units of fc6 and fc7. pool: the windows of pooling, whose stride is 2.
    """

    def __init__(
        self,
        conv1=(11, 4, 0, 6),
        kept=1.0,
        norm=lrn,
        sizes=(96, 256, 384, 384, 256, 4096),
        classes=1000,
        pool=3,
    ):
        super().__init__()
        self.kept = kept
        *convolution, side = conv1
        one, two, three, four, five, hidden = sizes
        self.conv1 = nn.Conv2d(3, one, *convolution)
        self.conv2 = nn.Conv2d(one, two, 5, padding=2, groups=2)
        self.conv3 = nn.Conv2d(two, three, 3, padding=1)
        self.conv4 = nn.Conv2d(three, four, 3, padding=1, groups=2)
        self.conv5 = nn.Conv2d(four, five, 3, padding=1, groups=2)
        self.fc6 = nn.Linear(five * side**2, hidden)
        self.fc7 = nn.Linear(hidden, hidden)
        self.fc8 = nn.Linear(hidden, classes)
        self.norm, self.pool = norm(), nn.MaxPool2d(pool, 2)

    def forward(self, x):
        x = self.pool(self.norm(torch.relu(self.conv1(x))))
        x = self.pool(self.norm(torch.relu(self.conv2(x))))
        x = torch.relu(self.conv4(torch.relu(self.conv3(x))))
        x = self.pool(torch.relu(self.conv5(x))).flatten(1)
        x = torch.relu(self.fc6(x)) * self.kept
        x = torch.relu(self.fc7(x)) * self.kept
        return self.fc8(x)


class PlainVGG(nn.Module):
    """Simonyan 2015, table 1: blocks of 3x3 convolutions. maps, counts: of each block.

    hidden: units of fc6 and fc7. side: of the map that fc6 sees.
    """

    def __init__(self, maps, counts, classes, hidden=4096, side=7):
        super().__init__()
        channels, self.counts = 3, counts
        for block, (features, count) in enumerate(zip(maps, counts, strict=True), 1):
            for number in range(1, count + 1):
                conv = nn.Conv2d(channels, features, 3, padding=1)
                self.add_module(f"conv{block}_{number}", conv)
                channels = features
        self.fc6 = nn.Linear(channels * side**2, hidden)
        self.fc7 = nn.Linear(hidden, hidden)
        self.fc8 = nn.Linear(hidden, classes)

    def forward(self, x):
        for block, count in enumerate(self.counts, 1):
            for number in range(1, count + 1):
                x = torch.relu(self.get_submodule(f"conv{block}_{number}")(x))
            x = nn.functional.max_pool2d(x, 2)
        x = torch.relu(self.fc6(x.flatten(1)))
        return self.fc8(torch.relu(self.fc7(x)))


class PaperInception(nn.Module):
    """Szegedy 2014, fig. 2b."""

    def __init__(self, channels, row):
        super().__init__()
        one, reduce_3, three, reduce_5, five, projection = row
        self.paths = (["1x1"], ["3x3_reduce", "3x3"], ["5x5_reduce", "5x5"], ["pool_proj"])
        self.add_module("1x1", nn.Conv2d(channels, one, 1))
        self.add_module("3x3_reduce", nn.Conv2d(channels, reduce_3, 1))
        self.add_module("3x3", nn.Conv2d(reduce_3, three, 3, padding=1))
        self.add_module("5x5_reduce", nn.Conv2d(channels, reduce_5, 1))
        self.add_module("5x5", nn.Conv2d(reduce_5, five, 5, padding=2))
        self.add_module("pool_proj", nn.Conv2d(channels, projection, 1))
        self.pool = nn.MaxPool2d(3, 1, padding=1)

    def forward(self, x):
        outputs = []
        for path in self.paths:
            y = self.pool(x) if path == ["pool_proj"] else x
            for name in path:
                y = torch.relu(self.get_submodule(name)(y))
            outputs.append(y)
        return torch.cat(outputs, 1)


class PaperHead(nn.Module):
    """Szegedy 2014, sec. 5: the auxiliary classifier, on a map of 14x14 to 16x16."""

    def __init__(self, channels, maps=128, hidden=1024, classes=1000):
        super().__init__()
        self.pool = nn.AvgPool2d(5, 3)
        self.conv = nn.Conv2d(channels, maps, 1)
        self.fc1 = nn.Linear(4 * 4 * maps, hidden)
        self.fc2 = nn.Linear(hidden, classes)

    def forward(self, x):
        x = torch.relu(self.conv(self.pool(x))).flatten(1)
        return self.fc2(torch.relu(self.fc1(x)))


class PaperGoogLeNet(nn.Module):
    """Szegedy 2014, table 1; returns logits, and in training those of aux1, aux2.

    width: factor on all sizes. small: with our stem for images of 32x32 in place of that for
    224x224.
    """

    def __init__(self, norm=lrn, width=1.0, small=False, classes=1000):
        super().__init__()

        def wide(*sizes):
            return [widened(size, width) for size in sizes]

        first, channels = wide(64, 192)
        conv1 = nn.Conv2d(3, first, 3, padding=1) if small else nn.Conv2d(3, first, 7, 2, 3)
        self.small, self.conv1 = small, conv1
        self.conv2_reduce = nn.Conv2d(first, first, 1)
        self.conv2 = nn.Conv2d(first, channels, 3, padding=1)
        for name, row in MODULES.items():
            row = wide(*row)
            self.add_module(f"inception_{name}", PaperInception(channels, row))
            channels = row[0] + row[2] + row[4] + row[5]
            if name in HEADS:
                self.add_module(HEADS[name], PaperHead(channels, *wide(128, 1024), classes))
        self.fc = nn.Linear(channels, classes)
        self.norm, self.pool = norm(), nn.MaxPool2d(3, 2, ceil_mode=True)

    def forward(self, x):
        x = torch.relu(self.conv1(x))
        x = self.norm(x if self.small else self.pool(x))
        x = torch.relu(self.conv2(torch.relu(self.conv2_reduce(x))))
        x = self.pool(self.norm(x))
        heads = []
        for name in MODULES:
            x = self.get_submodule(f"inception_{name}")(x)
            if self.training and name in HEADS:
                heads.append(self.get_submodule(HEADS[name])(x))
            if name in ("3b", "4e"):
                x = self.pool(x)
        logits = self.fc(x.mean((2, 3)))
        return (logits, *heads) if self.training else logits


class CifarBlock(nn.Module):
    """He 2015, sec. 4.2: two 3x3 convolutions and shortcut A.

    padding: "after": the zeros come last, as in fb.resnet.torch; "both_sides": a quarter of the new
    maps are zeros before the old ones, and a quarter are zeros after them.
    """

    def __init__(self, channels, maps, stride, padding):
        super().__init__()
        after = maps - channels
        self.stride = stride
        self.zeros = (0, after) if padding == "after" or not after else (maps // 4, maps // 4)
        self.conv1 = nn.Conv2d(channels, maps, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(maps)
        self.conv2 = nn.Conv2d(maps, maps, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(maps)

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        x = x[:, :, :: self.stride, :: self.stride]
        return torch.relu(y + nn.functional.pad(x, (0, 0, 0, 0, *self.zeros)))


class CifarResNet(nn.Module):
    """He 2015, sec. 4.2: 6 n + 2 layers, with shortcuts A. padding: see `CifarBlock`."""

    def __init__(self, depth, num_classes=10, padding="after"):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        channels, self.blocks = 16, []
        for stage, maps in enumerate((16, 32, 64), 2):
            for number in range(1, (depth - 2) // 6 + 1):
                stride = 2 if stage > 2 and number == 1 else 1
                self.blocks.append(f"conv{stage}_{number}")
                self.add_module(self.blocks[-1], CifarBlock(channels, maps, stride, padding))
                channels = maps
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        for name in self.blocks:
            x = self.get_submodule(name)(x)
        return self.fc(x.mean((2, 3)))


class ReleasedResNet(nn.Module):
    """The bottleneck network of ResNet's authors: their prototxt's names, the stride in branch2a.

    blocks: names behind "res" and "bn", and maps of each: ("2a", 64), ... The block "a" of a stage
    has branch1; it strides by 2 but in stage 2. biases: "first", on conv1, or "all" convolutions.
    padding: of the pooling; 0 is in ceil mode. epsilon: of BatchNorm.
    """

    def __init__(self, blocks, classes, biases="first", padding=0, epsilon=1e-5):
        super().__init__()
        self.blocks, self.padding = blocks, padding

        def unit(name, bn, channels, maps, size, stride=1):
            bias = biases == "all" or name == "conv1"
            conv = nn.Conv2d(channels, maps, size, stride, padding=size // 2, bias=bias)
            self.add_module(name, conv)
            self.add_module(bn, nn.BatchNorm2d(maps, eps=epsilon))

        unit("conv1", "bn_conv1", 3, 64, 7, 2)
        channels = 64
        for name, maps in blocks:
            stride = 2 if name[1:] == "a" and name != "2a" else 1
            if name[1:] == "a":
                unit(f"res{name}_branch1", f"bn{name}_branch1", channels, 4 * maps, 1, stride)
            a, b, c = (f"{name}_branch2{letter}" for letter in "abc")
            unit(f"res{a}", f"bn{a}", channels, maps, 1, stride)
            unit(f"res{b}", f"bn{b}", maps, maps, 3)
            unit(f"res{c}", f"bn{c}", maps, 4 * maps, 1)
            channels = 4 * maps
        self.fc1000 = nn.Linear(channels, classes)

    def branch(self, name, x):
        return self.get_submodule(f"bn{name}")(self.get_submodule(f"res{name}")(x))

    def forward(self, x):
        x = torch.relu(self.bn_conv1(self.conv1(x)))
        x = nn.functional.max_pool2d(x, 3, 2, self.padding, ceil_mode=self.padding == 0)
        for name, _ in self.blocks:
            y = torch.relu(self.branch(f"{name}_branch2a", x))
            y = torch.relu(self.branch(f"{name}_branch2b", y))
            y = self.branch(f"{name}_branch2c", y)
            x = self.branch(f"{name}_branch1", x) if name[1:] == "a" else x
            x = torch.relu(x + y)
        return self.fc1000(x.mean((2, 3)))
