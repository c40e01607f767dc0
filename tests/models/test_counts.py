"""Counts of every network against the figures of papers and distributions.

Multiply-accumulates and receptive fields follow by hand from the papers' tables; parameter totals
of AlexNet's one tower, VGG, GoogLeNet with BatchNorm and ResNet B also equal torchvision's.
"""

import itertools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import slow_where

from models import layers, registry
from models.summary import describe

IMAGENET, CIFAR = (224, 224, 3), (32, 32, 3)


def create(name, classes=1000, **options):
    return registry.create({"name": name, "dtype": "float32", **options}, classes)


def summary(name, shape=IMAGENET, classes=1000, **options):
    return describe(create(name, classes, **options), name, shape)


def parameters(module, shape):
    """Shapes of the parameters, without drawing any."""
    images = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    return jax.eval_shape(lambda x: module.init(jax.random.key(0), x), images)["params"]


def size(tree, kind=None):
    """Numbers in the leaves, or in those called `kind`."""
    return sum(
        math.prod(leaf.shape)
        for path, leaf in jax.tree.leaves_with_path(tree)
        if kind in (None, path[-1].key)
    )


def params_and_macs(description):
    return description["total"]["params"], description["total"]["macs"]


def parse(text):
    """Lines of "name HxWxC params MACs field" as rows of (name, [h, w, c], int, int, int)."""
    lines = [line.replace(",", "").split() for line in text.strip().splitlines()]
    return [(n, [*map(int, shape.split("x"))], *map(int, rest)) for n, shape, *rest in lines]


def rows(description):
    keys = ("name", "output_shape", "params", "macs", "receptive_field")
    return [tuple(layer[key] for key in keys) for layer in description["layers"]]


# LeCun 1998, sec. III.C: test nets of fig. 9.


@pytest.mark.parametrize(
    ("side", "hidden", "params", "macs"),
    [
        (28, (), 7850, 7840),
        (20, (), 4010, 4000),  # the deslanted images
        (28, (300,), 238510, 784 * 300 + 3000),
        # 469k in fig. 11, where the text has 1000-150.
        (28, (500, 150), 469160, 784 * 500 + 500 * 150 + 1500),
    ],
)
def test_perceptrons(side, hidden, params, macs):
    description = summary("mlp", (side, side, 1), 10, hidden=hidden)
    assert params_and_macs(description) == (params, macs)


@pytest.mark.parametrize(
    ("connection", "weights", "with_biases"),
    # The lecture's 200x200 pixels and ten maps. Shared: 10x10 weights and a bias a map.
    [
        ("full", 16_000_000_000, 16_000_400_000),
        ("local", 40_000_000, 40_400_000),
        ("shared", 1_000, 1_010),
    ],
)
def test_full_local_and_shared_connections(connection, weights, with_biases):
    for bias, expected in ((False, weights), (True, with_biases)):
        description = summary("connectivity", (200, 200, 1), 10, connection=connection, bias=bias)
        assert description["layers"][0]["params"] == expected


ALEXNET_TWO_TOWER = """
conv1 55x55x96 34,944 105,415,200 11
norm1 55x55x96 0 0 11
pool1 27x27x96 0 0 19
conv2 27x27x256 307,456 223,948,800 51
norm2 27x27x256 0 0 51
pool2 13x13x256 0 0 67
conv3 13x13x384 885,120 149,520,384 99
conv4 13x13x384 663,936 112,140,288 131
conv5 13x13x256 442,624 74,760,192 163
pool5 6x6x256 0 0 195
fc6 1x1x4096 37,752,832 37,748,736 355
fc7 1x1x4096 16,781,312 16,777,216 355
fc8 1x1x1000 4,097,000 4,096,000 355
"""
ALEXNET_ONE_TOWER = """
conv1 55x55x64 23,296 70,276,800 11
pool1 27x27x64 0 0 19
conv2 27x27x192 307,392 223,948,800 51
pool2 13x13x192 0 0 67
conv3 13x13x384 663,936 112,140,288 99
conv4 13x13x256 884,992 149,520,384 131
conv5 13x13x256 590,080 99,680,256 163
pool5 6x6x256 0 0 195
fc6 1x1x4096 37,752,832 37,748,736 355
fc7 1x1x4096 16,781,312 16,777,216 355
fc8 1x1x1000 4,097,000 4,096,000 355
"""


@pytest.mark.parametrize("side", [227, 224])
def test_alexnet_of_two_towers(side):
    description = summary("alexnet", (side, side, 3), image_size=side)
    assert rows(description) == parse(ALEXNET_TWO_TOWER)
    assert params_and_macs(description) == (60_965_224, 724_406_816)


def test_alexnet_kernels_see_the_maps_of_their_tower():
    params = parameters(create("alexnet"), IMAGENET)
    assert size(params, "kernel") == 60_954_656
    assert size(params, "bias") == 10_568
    kernels = {name: layer["kernel"].shape for name, layer in params.items()}
    assert kernels["conv1"] == (11, 11, 3, 96)
    assert kernels["conv2"] == (5, 5, 48, 256)  # Krizhevsky 2012, sec. 3.5
    assert kernels["conv3"] == (3, 3, 256, 384)
    assert kernels["conv4"] == (3, 3, 192, 384)
    assert kernels["conv5"] == (3, 3, 192, 256)


def test_numbers_of_neurons_of_alexnet():
    # Krizhevsky 2012, fig. 2: 253,440 for conv1 is a slip (48 for a 55) for 55*55*96 = 290,400.
    neurons = {
        layer["name"]: math.prod(layer["output_shape"])
        for layer in summary("alexnet")["layers"]
        if layer["params"]
    }
    assert list(neurons.values()) == [290400, 186624, 64896, 64896, 43264, 4096, 4096, 1000]
    assert sum(neurons.values()) == 659_272  # "650,000 neurons"


@pytest.mark.parametrize("side", [227, 224])
def test_alexnet_of_one_tower(side):
    options = dict(variant="one_tower", lrn="none", image_size=side)
    description = summary("alexnet", (side, side, 3), **options)
    assert rows(description) == parse(ALEXNET_ONE_TOWER)
    assert params_and_macs(description) == (61_100_840, 714_188_480)


# By hand: a quarter of the maps and units, 32x32 pixels, 10 classes.
ALEXNET_QUARTER = """
conv1 32x32x24 1,824 1,843,200 5
norm1 32x32x24 0 0 5
pool1 15x15x24 0 0 7
conv2 15x15x64 19,264 4,320,000 15
norm2 15x15x64 0 0 15
pool2 7x7x64 0 0 19
conv3 7x7x96 55,392 2,709,504 27
conv4 7x7x96 41,568 2,032,128 35
conv5 7x7x64 27,712 1,354,752 43
pool5 3x3x64 0 0 51
fc6 1x1x1024 590,848 589,824 67
fc7 1x1x1024 1,049,600 1,048,576 67
fc8 1x1x10 10,250 10,240 67
"""


def test_alexnet_for_small_images():
    description = summary("alexnet", CIFAR, 10, image_size=32, width=0.25)
    assert rows(description) == parse(ALEXNET_QUARTER)


# Simonyan & Zisserman 2015, table 1. Net E has every layer of the others.
VGG_LAYERS = """
conv1_1 224x224x64 1,792 86,704,128
conv1_2 224x224x64 36,928 1,849,688,064
pool1 112x112x64 0 0
conv2_1 112x112x128 73,856 924,844,032
conv2_2 112x112x128 147,584 1,849,688,064
pool2 56x56x128 0 0
conv3_1 56x56x256 295,168 924,844,032
conv3_2 56x56x256 590,080 1,849,688,064
conv3_3 56x56x256 590,080 1,849,688,064
conv3_4 56x56x256 590,080 1,849,688,064
pool3 28x28x256 0 0
conv4_1 28x28x512 1,180,160 924,844,032
conv4_2 28x28x512 2,359,808 1,849,688,064
conv4_3 28x28x512 2,359,808 1,849,688,064
conv4_4 28x28x512 2,359,808 1,849,688,064
pool4 14x14x512 0 0
conv5_1 14x14x512 2,359,808 462,422,016
conv5_2 14x14x512 2,359,808 462,422,016
conv5_3 14x14x512 2,359,808 462,422,016
conv5_4 14x14x512 2,359,808 462,422,016
pool5 7x7x512 0 0
fc6 1x1x4096 102,764,544 102,760,448
fc7 1x1x4096 16,781,312 16,777,216
fc8 1x1x1000 4,097,000 4,096,000
"""
VGG_C_LAYERS = """
conv3_3 56x56x256 65,792 205,520,896
conv4_3 28x28x512 262,656 205,520,896
conv5_3 14x14x512 262,656 51,380,224
"""
# Receptive fields, block by block with its pooling, then fc6, fc7, fc8.
A_FIELDS = ((3, 4), (8, 10), (18, 26, 30), (46, 62, 70), (102, 134, 150), (342,) * 3)
B_FIELDS = ((3, 5, 6), (10, 14, 16), (24, 32, 36), (52, 68, 76), (108, 140, 156), (348,) * 3)
C_FIELDS = (
    *((3, 5, 6), (10, 14, 16), (24, 32, 32, 36), (52, 68, 68, 76), (108, 140, 140, 156)),
    (348,) * 3,
)
D_FIELDS = (
    *((3, 5, 6), (10, 14, 16), (24, 32, 40, 44), (60, 76, 92, 100), (132, 164, 196, 212)),
    (404,) * 3,
)
E_FIELDS = (
    *((3, 5, 6), (10, 14, 16), (24, 32, 40, 48, 52), (68, 84, 100, 116, 124)),
    *((156, 188, 220, 252, 268), (460,) * 3),
)
VGG = {
    "A": (A_FIELDS, 132_863_336, 7_609_090_048, 7_485_456_384),
    "A-LRN": (A_FIELDS, 132_863_336, 7_609_090_048, 7_485_456_384),
    "B": (B_FIELDS, 133_047_848, 11_308_466_176, 11_184_832_512),
    "C": (C_FIELDS, 133_638_952, 11_770_888_192, 11_647_254_528),
    "D": (D_FIELDS, 138_357_544, 15_470_264_320, 15_346_630_656),
    "E": (E_FIELDS, 143_667_240, 19_632_062_464, 19_508_428_800),
}


@pytest.mark.parametrize("variant", VGG)
def test_vgg(variant):
    fields, params, macs, convolutions = VGG[variant]
    description = summary("vgg", variant=variant)
    assert params_and_macs(description) == (params, macs)
    table = {row[0]: row for row in parse(VGG_LAYERS)}
    if variant == "C":
        table |= {row[0]: row for row in parse(VGG_C_LAYERS)}
    expected = []
    for block, seen in enumerate(fields[:5], 1):
        names = [f"conv{block}_{number}" for number in range(1, len(seen))]
        expected += [(*table[n], rf) for n, rf in zip([*names, f"pool{block}"], seen, strict=True)]
    expected += [(*table[n], rf) for n, rf in zip(("fc6", "fc7", "fc8"), fields[5], strict=True)]
    if variant == "A-LRN":
        expected.insert(1, ("norm1", [224, 224, 64], 0, 0, 3))
    assert rows(description) == expected
    is_conv = [layer["name"].startswith("conv") for layer in description["layers"]]
    of_convolutions = sum(
        layer["macs"] for layer, conv in zip(description["layers"], is_conv, strict=True) if conv
    )
    assert of_convolutions == convolutions
    assert sum(row[2] for row in rows(description)[-3:]) == 123_642_856


def test_vgg_of_another_width():
    """Net A with a quarter of the maps and units. Its convolutions see 3, 16, 32, 64, ... maps."""
    maps, units = [3, 16, 32, 64, 64, 128, 128, 128, 128], [128, 1024, 1024, 10]
    expected = [9 * i * o + o for i, o in itertools.pairwise(maps)]
    expected += [i * o + o for i, o in itertools.pairwise(units)]
    layers = summary("vgg", CIFAR, 10, variant="A", image_size=32, width=0.25)["layers"]
    assert [layer["params"] for layer in layers if layer["params"]] == expected


@pytest.mark.parametrize(
    ("name", "options"),
    [("vgg", {}), ("googlenet", {"stem": "small"}), ("alexnet", {"lrn_over": "tower"})],
)
def test_the_smallest_width_leaves_two_maps(name, options):
    if name != "googlenet":
        options = options | {"image_size": 32}
    shapes = [x["output_shape"] for x in summary(name, CIFAR, 10, width=1e-9, **options)["layers"]]
    assert {shape[-1] for shape in shapes} == {2, 8, 10} if name == "googlenet" else {2, 10}


def test_the_shallow_network_with_5x5_windows():
    """Simonyan & Zisserman 2015, sec. 4.1, by hand: a padded 5x5 convolution before each pooling.

    Its fields are B's, as two 3x3 see 5x5.
    """
    shallow = rows(summary("vgg", variant="B-5x5"))
    widths, sides = (64, 128, 256, 512, 512), (224, 112, 56, 28, 14)
    convolutions, inputs = [], 3
    for block, (maps, side) in enumerate(zip(widths, sides, strict=True), 1):
        weights = 25 * inputs * maps
        convolutions.append(
            (f"conv{block}_1", [side, side, maps], weights + maps, side * side * weights)
        )
        inputs = maps
    assert [row[:4] for row in shallow if row[0].startswith("conv")] == convolutions
    pools = [row[4] for row in shallow if row[0].startswith("pool")]
    assert pools == [seen[-1] for seen in B_FIELDS[:5]]
    assert sum(row[2] for row in shallow) == 10_860_672 + 123_642_856


# Szegedy 2014, table 1, with what follows from its widths: weights, biases, MACs, field.
GOOGLENET = """
conv1 112x112x64 9,408 64 118,013,952 7
pool1 56x56x64 0 0 0 11
norm1 56x56x64 0 0 0 11
conv2_reduce+conv2 56x56x192 114,688 256 359,661,568 19
norm2 56x56x192 0 0 0 19
pool2 28x28x192 0 0 0 27
inception_3a 28x28x256 163,328 368 128,049,152 59
inception_3b 28x28x480 388,096 640 304,267,264 91
pool3 14x14x480 0 0 0 107
inception_4a 14x14x512 375,552 624 73,608,192 171
inception_4b 14x14x512 448,512 648 87,908,352 235
inception_4c 14x14x512 509,440 664 99,850,240 299
inception_4d 14x14x528 604,672 704 118,515,712 363
inception_4e 14x14x832 867,328 1,024 169,996,288 427
pool4 7x7x832 0 0 0 459
inception_5a 7x7x832 1,042,432 1,024 51,079,168 587
inception_5b 7x7x1024 1,442,816 1,264 70,697,984 715
pool5 1024 0 0 0 907
fc 1000 1,024,000 1,000 1,024,000 907
"""


def test_googlenet_module_by_module():
    module = create("googlenet")
    description = describe(module, "googlenet", IMAGENET)
    variables = {"params": parameters(module, IMAGENET)}
    _, seen = jax.eval_shape(
        lambda v: module.apply(v, jnp.zeros((1, *IMAGENET)), capture_intermediates=True), variables
    )
    taken = 0
    for names, shape, weights, biases, macs, field in parse(GOOGLENET):
        names = names.split("+")
        of_part = [layer for layer in description["layers"] if layer["name"].split("/")[0] in names]
        params = [variables["params"].get(name, {}) for name in names]
        assert size(params, "kernel") == weights, names
        assert size(params, "bias") == biases, names
        assert sum(layer["params"] for layer in of_part) == weights + biases, names
        assert sum(layer["macs"] for layer in of_part) == macs, names
        assert max(layer["receptive_field"] for layer in of_part) == field, names
        output = seen["intermediates"][names[-1]]["__call__"][0]
        assert [*output.shape[1:]] == shape, names
        taken += len(of_part)
    assert taken == len(description["layers"])


def test_totals_of_googlenet():
    description = summary("googlenet")
    assert params_and_macs(description) == (6_998_552, 1_582_671_872)
    heads = {"aux1": 0, "aux2": 0}
    for layer in description["training_only"]["layers"]:
        heads[layer["name"].split("/")[0]] += layer["params"]
    assert heads == {"aux1": 3_188_840, "aux2": 3_190_888}
    everything = parameters(create("googlenet"), IMAGENET)
    assert size(everything) == 13_378_280
    assert size({k: v for k, v in everything.items() if "aux" not in k}, "kernel") == 6_990_272
    without = summary("googlenet", auxiliary_heads=False)
    assert params_and_macs(without) == (6_998_552, 1_582_671_872)
    assert "training_only" not in without


@pytest.mark.parametrize(
    "kind, slopes", [("prelu", 6 + 6 + 16 + 16 + 120 + 84), ("prelu_shared", 6)]
)
def test_slopes_are_rows_of_their_own(kind, slopes):
    description = summary("lenet5", (32, 32, 1), 10, activation=kind)
    assert description["total"]["params"] == 60_000 + slopes
    assert "training_only" not in description
    names = [row["name"] for row in description["layers"]]
    assert names[:2] == ["c1", "c1_prelu"] and names[-2:] == ["f6_prelu", "output"]


def test_googlenet_with_batch_norm_has_the_counts_of_torchvision():
    description = summary("googlenet", normalisation="batch_norm", auxiliary_heads=False)
    assert params_and_macs(description)[0] == 6_624_904
    assert round(description["total"]["macs"] / 1e9, 3) == 1.498


# He 2015, sec. 3 and 4.1. (depth, shortcut, stride) -> parameters, MACs.
RESNET_TOTALS = {
    (18, "none", "v1"): (11_515_688, 1_794_805_760),
    (18, "A", "v1"): (11_515_688, 1_794_805_760),
    (18, "B", "v1"): (11_689_512, 1_814_073_344),
    (18, "C", "v1"): (12_043_816, 1_878_298_624),
    (34, "none", "v1"): (21_623_848, 3_644_493_824),
    (34, "A", "v1"): (21_623_848, 3_644_493_824),
    (34, "B", "v1"): (21_797_672, 3_663_761_408),
    (34, "C", "v1"): (22_716_840, 3_830_747_136),
    (50, "B", "v1"): (25_557_032, 3_857_973_248),
    (50, "B", "v1.5"): (25_557_032, 4_089_184_256),
    (101, "B", "v1"): (44_549_160, 7_570_194_432),
    (101, "B", "v1.5"): (44_549_160, 7_801_405_440),
    (152, "B", "v1"): (60_192_808, 11_282_415_616),
    (152, "B", "v1.5"): (60_192_808, 11_513_626_624),
}
# Receptive fields at the end of conv1 to conv5.
RESNET_FIELDS = {
    (18, "v1"): (7, 43, 99, 211, 435),
    (34, "v1"): (7, 59, 179, 547, 899),
    (50, "v1"): (7, 35, 99, 291, 483),
    (50, "v1.5"): (7, 35, 91, 267, 427),
    (101, "v1"): (7, 35, 99, 835, 1027),
    (101, "v1.5"): (7, 35, 91, 811, 971),
    (152, "v1"): (7, 35, 163, 1315, 1507),
    (152, "v1.5"): (7, 35, 155, 1291, 1451),
}
# First and further blocks of conv2 to conv5: (parameters with BatchNorm, MACs), no projection.
BASIC = (
    ((73_984, 231_211_008), (73_984, 231_211_008)),
    ((221_696, 173_408_256), (295_424, 231_211_008)),
    ((885_760, 173_408_256), (1_180_672, 231_211_008)),
    ((3_540_992, 173_408_256), (4_720_640, 231_211_008)),
)
# What option B adds to the first block.
BASIC_B = ((0, 0), (8_448, 6_422_528), (33_280, 6_422_528), (132_096, 6_422_528))
BOTTLENECK = (  # option B included
    ((75_008, 231_211_008), (70_400, 218_365_952)),
    ((379_392, 295_436_288), (280_064, 218_365_952)),
    ((1_512_448, 295_436_288), (1_117_184, 218_365_952)),
    ((6_039_552, 295_436_288), (4_462_592, 218_365_952)),
)
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
BLOCKS[152] = (3, 8, 36, 3)
SIDES = (56, 28, 14, 7)
# Fields at the end of each stage's first block.
FIRST_FIELDS = {
    18: (27, 67, 147, 307),
    34: (27, 83, 227, 643),
    50: (19, 51, 131, 355),
    101: (19, 51, 131, 899),
    152: (19, 51, 195, 1379),
}


def by_block(description):
    """Name of each block or outer layer -> (output_shape, params, MACs, field)."""
    blocks = {}
    for layer in description["layers"]:
        name = layer["name"].split("/")[0]
        _, params, macs, field = blocks.get(name, (None, 0, 0, 0))
        blocks[name] = (
            layer["output_shape"],
            params + layer["params"],
            macs + layer["macs"],
            max(field, layer["receptive_field"]),
        )
    return blocks


@pytest.mark.parametrize(("depth", "shortcut", "stride"), RESNET_TOTALS)
def test_resnet(depth, shortcut, stride):
    description = summary("resnet", depth=depth, shortcut=shortcut, stride=stride)
    assert params_and_macs(description) == RESNET_TOTALS[depth, shortcut, stride]
    blocks = by_block(description)
    last = [f"conv{stage}_{blocks}" for stage, blocks in enumerate(BLOCKS[depth], 2)]
    fields = tuple(blocks[name][3] for name in ("conv1", *last))
    assert fields == RESNET_FIELDS[depth, stride]


@pytest.mark.parametrize(
    ("depth", "shortcut"),
    [(18, "A"), (18, "B"), (34, "A"), (34, "B"), (50, "B"), (101, "B"), (152, "B")],
)
def test_resnet_block_by_block(depth, shortcut):
    blocks = by_block(summary("resnet", depth=depth, shortcut=shortcut))
    assert blocks.pop("conv1") == ([112, 112, 64], 9408, 118_013_952, 7)
    assert blocks.pop("bn1") == ([112, 112, 64], 128, 0, 7)  # 9,536 together
    assert blocks.pop("pool1") == ([56, 56, 64], 0, 0, 11)
    wide = 4 if depth >= 50 else 1
    for stage in range(4):
        shape = [SIDES[stage], SIDES[stage], 64 * 2**stage * wide]
        for number in range(1, BLOCKS[depth][stage] + 1):
            output, params, macs, field = blocks.pop(f"conv{stage + 2}_{number}")
            counts = (BOTTLENECK if depth >= 50 else BASIC)[stage][number > 1]
            if shortcut == "B" and depth < 50 and number == 1:
                counts = tuple(map(sum, zip(counts, BASIC_B[stage], strict=True)))
            assert (output, params, macs) == (shape, *counts), (stage, number)
            if number == 1:
                assert field == FIRST_FIELDS[depth][stage]
    features = 512 * wide
    assert blocks.pop("pool")[:3] == ([features], 0, 0)
    assert blocks.pop("fc")[:3] == ([1000], 1000 * features + 1000, 1000 * features)
    assert not blocks


# He 2015, sec. 4.2: params A and plain, params B, MACs A, weights of convolutions, fields.
CIFAR_RESNETS = {
    20: (269_722, 272_474, 40_551_040, 267_696, (15, 37, 81)),
    32: (464_154, 466_906, 68_862_592, 461_232, (23, 61, 137)),
    44: (658_586, 661_338, 97_174_144, 654_768, (31, 85, 193)),
    56: (853_018, 855_770, 125_485_696, 848_304, (39, 109, 249)),
    110: (1_727_962, 1_730_714, 252_887_680, 1_719_216, (75, 217, 501)),
    1202: (19_421_274, 19_424_026, 2_829_238_912, 19_330_992, (803, 2401, 5597)),
}


@pytest.mark.parametrize("depth", slow_where(lambda depth: depth == 1202, CIFAR_RESNETS))
def test_cifar_resnet(depth):
    params, _, macs, convolutions, fields = CIFAR_RESNETS[depth]
    description = summary("resnet_cifar10", CIFAR, 10, depth=depth)
    assert params_and_macs(description) == (params, macs)
    rows = description["layers"]
    assert sum(r["params"] for r in rows if r["type"] == "Conv") == convolutions
    blocks, last = by_block(description), (depth - 2) // 6
    assert tuple(blocks[f"conv{stage}_{last}"][3] for stage in (2, 3, 4)) == fields


@pytest.mark.parametrize(
    ("depth", "shortcut"),
    [
        *((depth, "B") for depth in (20, 32, 44, 56, 110)),
        pytest.param(1202, "B", marks=pytest.mark.slow),
        *((depth, "none") for depth in (20, 32, 44, 56, 110)),
    ],
)
def test_cifar_resnet_with_other_shortcuts(depth, shortcut):
    plain, projected = CIFAR_RESNETS[depth][:2]
    params = parameters(create("resnet_cifar10", 10, depth=depth, shortcut=shortcut), CIFAR)
    assert size(params) == (projected if shortcut == "B" else plain)


def test_plain_network_has_the_macs_of_shortcut_a():
    plain = summary("resnet_cifar10", CIFAR, 10, depth=56, shortcut="none")
    assert params_and_macs(plain) == (853_018, 125_485_696)


def test_cifar_resnet_20_by_part():
    parts = {}
    for layer in summary("resnet_cifar10", CIFAR, 10, depth=20)["layers"]:
        part = layer["name"].split("/")[0].split("_")[0].replace("bn1", "conv1")
        _, params, macs = parts.get(part, (None, 0, 0))
        parts[part] = (layer["output_shape"], params + layer["params"], macs + layer["macs"])
    assert parts == {
        "conv1": ([32, 32, 16], 464, 442_368),
        "conv2": ([32, 32, 16], 14_016, 14_155_776),
        "conv3": ([16, 16, 32], 51_072, 12_976_128),
        "conv4": ([8, 8, 64], 203_520, 12_976_128),
        "pool": ([64], 0, 0),
        "fc": ([10], 650, 640),
    }


# Krizhevsky's cuda-convnet, layers-80sec, -18pct, -conv-local-13pct, -conv-local-11pct.
CUDA_CONVNETS = {
    ("26pct", 32, 145_578, 12_354_176): """
conv1 32x32x32 2,432 2,457,600 5
pool1 16x16x32 0 0 7
conv2 16x16x32 25,632 6,553,600 15
pool2 8x8x32 0 0 19
conv3 8x8x64 51,264 3,276,800 35
pool3 4x4x64 0 0 43
fc64 64 65,600 65,536 67
fc10 10 650 640 67
""",
    ("18pct", 32, 89_578, 12_298_240): """
conv1 32x32x32 2,432 2,457,600 5
pool1 16x16x32 0 0 7
norm1 16x16x32 0 0 7
conv2 16x16x32 25,632 6,553,600 15
pool2 8x8x32 0 0 19
norm2 8x8x32 0 0 19
conv3 8x8x64 51,264 3,276,800 35
pool3 4x4x64 0 0 43
fc10 10 10,250 10,240 67
""",
    ("13pct", 24, 1_116_490, 18_517_248): """
conv1 24x24x64 4,864 2,764,800 5
pool1 12x12x64 0 0 7
conv2 12x12x64 102,464 14,745,600 15
pool2 6x6x64 0 0 19
local3 6x6x32 664,704 663,552 27
local4 6x6x32 332,928 331,776 35
fc10 10 11,530 11,520 55
""",
    ("11pct", 24, 2_112_970, 19_512_576): """
conv1 24x24x64 4,864 2,764,800 5
pool1 12x12x64 0 0 7
norm1 12x12x64 0 0 7
conv2 12x12x64 102,464 14,745,600 15
norm2 12x12x64 0 0 15
pool2 6x6x64 0 0 19
local3 6x6x64 1,329,408 1,327,104 27
local4 6x6x32 664,704 663,552 35
fc10 10 11,530 11,520 55
""",
}


@pytest.mark.parametrize(("variant", "side", "params", "macs"), CUDA_CONVNETS)
def test_cuda_convnet(variant, side, params, macs):
    description = summary("cuda_convnet", (side, side, 3), 10, variant=variant)
    assert rows(description) == parse(CUDA_CONVNETS[variant, side, params, macs])
    assert params_and_macs(description) == (params, macs)


@pytest.mark.parametrize(
    ("variant", "expected"),
    [("13pct", (1_901_386, 32_919_552)), ("11pct", (3_672_906, 34_689_024))],
)
def test_local_layers_of_cuda_convnet_on_whole_images(variant, expected):
    assert params_and_macs(summary("cuda_convnet", CIFAR, 10, variant=variant)) == expected


# Goodfellow 2013, the authors' cifar10 file. Outputs of h0 to h3 before the max over pieces.
# h3 is fully connected over a 5x5 map of stride 8, whose cells see 51: 51 + 4 * 8 = 83.
MAXOUT_CIFAR10 = f"""
h0 33x33x{96 * 2} 37,056 40,144,896 8
pool0 16x16x96 0 0 11
h1 15x15x{192 * 2} 2,359,680 530,841,600 25
pool1 7x7x192 0 0 31
h2 9x9x{192 * 2} 1,843,584 149,299,200 47
pool2 5x5x192 0 0 51
h3 {500 * 5} 12,002,500 12,000,000 83
y 10 5,010 5,000 83
"""


def test_maxout_networks():
    description = summary("maxout", CIFAR, 10, variant="cifar10")
    assert rows(description) == parse(MAXOUT_CIFAR10)
    assert params_and_macs(description) == (16_247_830, 732_290_696)
    dense = summary("maxout", (28, 28, 1), 10, variant="mnist_dense")
    assert params_and_macs(dense)[0] == 1_233_610
    # By hand: maps of 21 -> 10, 9 -> 4, 6 -> 3 pixels, kernels of 64, 64 * 48, 25 * 48 weights.
    conv = summary("maxout", (28, 28, 1), 10, variant="mnist_conv")
    per_layer = [65 * 96, (64 * 48 + 1) * 96, (25 * 48 + 1) * 96, 217 * 10]
    assert [r["params"] for r in conv["layers"] if r["params"]] == per_layer


# The lecture's and the papers' arithmetic on small kernels.


class Stack(nn.Module):
    """Convolutions of the given (side, features), without biases or padding."""

    windows: tuple[tuple[int, int], ...]

    @nn.compact
    def __call__(self, x, train=False):
        for n, (side, features) in enumerate(self.windows):
            x = layers.Conv(features, (side, side), use_bias=False, name=f"conv{n}")(x)
        return x


def stack(channels, *windows):
    """(weights, field, side of the output) on a 9x9 map."""
    description = describe(Stack(windows), "stack", (9, 9, channels))
    last = description["layers"][-1]
    return description["total"]["params"], last["receptive_field"], last["output_shape"][0]


def test_stacked_small_windows():
    # Simonyan & Zisserman 2015, sec. 2.3, with C = 8 channels.
    assert stack(8, (3, 8), (3, 8)) == (18 * 64, 5, 5)
    assert stack(8, (5, 8)) == (25 * 64, 5, 5)
    assert stack(8, (3, 8), (3, 8), (3, 8)) == (27 * 64, 7, 3)
    assert stack(8, (7, 8)) == (49 * 64, 7, 3)


def test_weights_of_bottlenecks():
    # He 2015, fig. 5, and the lecture.
    assert stack(256, (1, 64), (3, 64), (1, 256))[0] == 69_632
    assert stack(256, (3, 256), (3, 256))[0] == 1_179_648
    assert stack(64, (3, 64), (3, 64))[0] == 73_728


def test_second_kernel_of_the_lecture():
    # The first is in test_layers.py.
    image = ["100001", "010010", "001100", "100010", "010010", "001010"]
    image = np.array([[*map(int, row)] for row in image], np.float32).reshape(1, 6, 6, 1)
    kernel = np.array([[-1, 1, -1]] * 3, np.float32).reshape(3, 3, 1, 1)
    conv = layers.Conv(1, (3, 3), use_bias=False)
    actual = conv.apply({"params": {"kernel": kernel}}, image)
    assert actual[0, :, :, 0].tolist() == [
        [-1, -1, -1, -1],
        [-1, -1, -2, 1],
        [-1, -1, -2, 1],
        [-1, 0, -4, 3],
    ]
    assert layers.Pool("max").apply({}, actual)[0, :, :, 0].tolist() == [[-1, 1], [0, 3]]


# Networks applied to larger images (Simonyan & Zisserman 2015, sec. 3.2).

VGG_MAPS = {224: 1, 256: 2, 384: 6, 512: 10}


@pytest.mark.parametrize(
    ("name", "options", "maps"),
    [
        *(("vgg", {"variant": variant}, VGG_MAPS) for variant in VGG),
        # By hand: 384 -> 95 -> 47 -> 23 -> 11 pixels under a window of 6.
        ("alexnet", {}, VGG_MAPS),
        ("alexnet", {"variant": "one_tower"}, VGG_MAPS),
        # Without padding 256 gives 62 -> 30 -> 14 -> 6.
        ("alexnet", {"image_size": 227}, {227: 1, 256: 1, 259: 2}),
        # 39 -> 19 -> 9 -> 4 pixels under a window of 3.
        ("alexnet", {"image_size": 32}, {32: 1, 38: 1, 39: 2, 47: 3}),
        # 32 -> 16 -> 8 -> 4 pixels under a window of 4.
        ("alexnet", {"image_size": 32, "pooling": "non_overlapping"}, {32: 1, 39: 1, 40: 2}),
        ("alexnet", {"pooling": "non_overlapping"}, VGG_MAPS),
        ("vgg", {"image_size": 32}, {32: 1, 63: 1, 64: 2}),
    ],
)
def test_side_of_the_class_map(name, options, maps):
    module = create(name, **options).clone(class_map=True)
    native = min(maps)
    variables = {"params": parameters(module, (native, native, 3))}
    for side, cells in maps.items():
        images = jax.ShapeDtypeStruct((3, side, side, 3), jnp.float32)
        logits = jax.eval_shape(module.apply, variables, images)
        assert logits.shape == (3, cells, cells, 1000)
        assert logits.dtype == jnp.float32
    oblong = jax.ShapeDtypeStruct((1, side, native, 3), jnp.float32)
    assert jax.eval_shape(module.apply, variables, oblong).shape == (1, cells, 1, 1000)


@pytest.mark.slow
def test_class_map_at_native_size_is_the_vector_of_fully_connected_layers():
    options = dict(variant="A", initializer="he")
    vector = create("vgg", **options)
    cells = vector.clone(class_map=True)
    images = np.random.default_rng(0).normal(size=(1, *IMAGENET)).astype(np.float32)
    variables = jax.jit(vector.init)(jax.random.key(0), images)

    def apply(variables, images):
        at_each_place, seen = cells.apply(variables, images, capture_intermediates=True)
        pool5 = seen["intermediates"]["pool5"]["__call__"][0]
        return vector.apply(variables, images), at_each_place, pool5

    actual, at_each_place, pool5 = map(np.asarray, jax.jit(apply)(variables, images))
    assert at_each_place.shape == (1, 1, 1, 1000)
    np.testing.assert_array_equal(at_each_place[:, 0, 0], actual)
    x = pool5.reshape(1, -1)  # NumPy's classifier: flattened maps, matrices
    for name in ("fc6", "fc7", "fc8"):
        layer = jax.tree.map(np.asarray, variables["params"][name])
        x = x @ layer["kernel"].reshape(x.shape[1], -1) + layer["bias"]
        x = x if name == "fc8" else np.maximum(x, 0)
    assert 0.1 < x.std() < 10
    np.testing.assert_allclose(actual, x, atol=1e-4)


def test_a_fully_connected_layer_slides_over_a_larger_map():
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(2, 5, 4, 3)).astype(np.float32)
    kernel, bias = rng.normal(size=(3, 3, 3, 6)), rng.normal(size=6)
    layer = layers.FullyConnected(6, window=3)
    actual = layer.apply({"params": {"kernel": kernel, "bias": bias}}, maps)
    assert actual.shape == (2, 3, 2, 6)
    for i in range(3):
        for j in range(2):
            seen = maps[:, i : i + 3, j : j + 3].reshape(2, -1)
            expected = seen.astype(np.float64) @ kernel.reshape(-1, 6) + bias
            np.testing.assert_allclose(actual[:, i, j], expected, rtol=1e-4, atol=1e-4)
