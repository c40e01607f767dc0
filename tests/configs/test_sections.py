"""Optimizer, schedule and loss of the recipes that tests/parity does not compare with torch.

Each has those of the recipe that is compared, but for a few numbers, typed here from their sources.
"""

import importlib

import pytest

from configs.compare import flatten
from configs.load import load

# By file, or by file and argument.
COMPARED = {
    "lenet5": "lenet5:digits",
    "mlp": "mlp:300",
    "connectivity": "mlp:300",
    "filter_bank": "mlp:300",
    "rbm": "mlp:300",
    "maxout": "maxout:mnist_dense",
    "maxout:cifar10": "maxout:cifar10",
    "maxout:cifar10_augmented": "maxout:cifar10",
    "cuda_convnet": "cuda_convnet:18pct",
    "alexnet": "alexnet:two_tower",
    "vgg": "vgg:A",
    "googlenet": "googlenet:lrn",
    "resnet": "resnet:18",
    "resnet_cifar10": "resnet_cifar10:110",
}
OTHERS = {
    "rbm": ("500", "500-500"),
    "mlp": ("linear", "300-100"),
    "resnet_cifar10": ("20", "1202", "plain-110"),
}
LONG = {"schedule.boundaries": (500.0, 510.0)}
DIFFERENCES = {
    "lenet5:mnist": {"schedule.learning_rate": 0.003},
    # LeCun 1998, sec. III.B.
    "lenet5:mnist_1998": {
        "optimizer.momentum": 0.0,
        "optimizer.curvature_examples": 500,
        "optimizer.mu": 0.5,  # not the paper's: see configs/lenet5.py
        "schedule.name": "steps",
        "schedule.learning_rate": 0.0005,
        "schedule.boundaries": (2.0, 5.0, 8.0, 12.0),
        "schedule.factors": (0.4, 0.2, 0.1, 0.02),
    },
    # pylearn2, scripts/papers/maxout: mnist.yaml, cifar10.yaml (with cifar10_no_aug.yaml compared).
    "maxout:mnist_conv": {
        "schedule.learning_rate": 0.05,
        "schedule.decay": 1 / 1.00004,
        "optimizer.max_norms": {"h0": 0.9, "h1": 1.9365, "h2": 1.9365, "y": 1.9365},
    },
    "maxout:cifar10_augmented": {"optimizer.momentum_end": 0.65},
    # cuda-convnet: layers-80sec, layers-conv-local-13pct, layers-conv-local-11pct.
    "cuda_convnet:26pct": {
        "optimizer.layer_decays": {"fc64": 0.03, "fc10": 0.03},
        "schedule.boundaries": (8.0,),
        "schedule.factors": (0.1,),
    },
    "cuda_convnet:13pct": {"optimizer.layer_decays": {"conv1": 0.0, "conv2": 0.0}, **LONG},
    "cuda_convnet:11pct": {
        **LONG,
        "optimizer.layer_decays": {"conv1": 0.0, "conv2": 0.0, "fc10": 0.01},
    },
    **{
        f"filter_bank:{name}": {"schedule.learning_rate": 0.05, "optimizer.frozen": frozen}
        for name, frozen in {
            "oriented": ("filters/*",),
            "random": ("filters/*",),
            "learned": (),
            "tuned": (),
        }.items()
    },
    # The program of Hinton and Salakhutdinov (rbm.m); the layer before the last is fixed.
    **{
        f"rbm:{sizes}": {
            "schedule.name": "constant",
            "schedule.learning_rate": 0.1,
            "optimizer.momentum": 0.5,
            "optimizer.momentum_end": 0.9,
            "optimizer.momentum_epochs": 5.0,
            "optimizer.momentum_form": "caffe",
            "optimizer.weight_decay": 0.0002,
            "optimizer.frozen": frozen,
        }
        for sizes, frozen in {"500": (), "500-500": ("h1/*",)}.items()
    },
    # He 2015, sec. 4.2: only 110 warms up.
    **{
        f"resnet_cifar10:{depth}": {"schedule.warmup_rate": 0.0, "schedule.warmup_error": 0.0}
        for depth in OTHERS["resnet_cifar10"]
    },
}


FILES = [file for file in COMPARED if ":" not in file]
NAMES = [
    f"{file}:{argument}"
    for file in FILES
    for argument in OTHERS.get(file) or importlib.import_module(f"configs.{file}").ARGUMENTS
]


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_has_the_rules_of_the_compared_one(name):
    compared = COMPARED.get(name) or COMPARED[name.partition(":")[0]]
    config, expected = load(name), load(compared)
    for path, value in DIFFERENCES.get(name, {}).items():
        section, field = path.split(".")
        expected[section][field] = value
    for section in ("optimizer", "schedule", "loss"):
        assert config[section].to_dict() == expected[section].to_dict()


# What the comparison changes, and what it leaves out; each from its paper.
PUBLISHED = {
    "alexnet:two_tower": {  # Krizhevsky 2012, sec. 2, 4, 5
        **{"batch_size": 128, "epochs": 90.0, "preprocess.mean": "pixel", "augment.flip": True},
        **{"view.size": 224, "view.train_scale": (256, 256), "view.square": True},
        **{"augment.lighting": "eigenvalues", "augment.lighting_deviation": 0.1},
        **{"model.regulariser": "dropout", "model.drop_rate": 0.5},
    },
    "vgg:D": {  # Simonyan 2015, sec. 2.1, 3.1
        **{"batch_size": 256, "epochs": 74.0, "preprocess.mean": "channel", "augment.flip": True},
        **{"view.size": 224, "view.train_scale": (256, 256), "augment.lighting": "eigenvalues"},
        **{"model.regulariser": "dropout", "model.drop_rate": 0.5},
    },
    "googlenet:lrn": {  # Szegedy 2014, sec. 5, 6
        **{"view.size": 224, "view.train": "area", "view.area": (0.08, 1.0)},
        **{"augment.flip": True, "model.regulariser": "dropout", "model.drop_rate": 0.4},
        **{"view.interpolation": "random", "preprocess.mean": "channel"},
    },
    "resnet:50": {  # He 2015, sec. 3.4: 60 x 10^4 iterations
        **{"batch_size": 256, "epochs": pytest.approx(600_000 * 256 / 1_281_167, abs=0.05)},
        **{"view.size": 224, "view.train_scale": (256, 480), "preprocess.mean": "pixel"},
        **{"augment.flip": True, "augment.lighting": "eigenvalues", "model.regulariser": "none"},
    },
    "resnet_cifar10:20": {  # He 2015, sec. 4.2: 64,000 iterations
        **{"batch_size": 128, "epochs": 64_000 * 128 / 50_000, "augment.flip": True},
        **{"preprocess.pad": 4, "preprocess.crop": 32, "augment.crop": True},
        **{"preprocess.mean": "pixel", "model.regulariser": "none"},
    },
    "lenet5:mnist_1998": {  # LeCun 1998, sec. II.B, III.A, III.B
        **{"batch_size": 1, "epochs": 20.0, "dataset.order": "fixed", "preprocess.pad": 2},
        **{"preprocess.low": -0.1, "preprocess.high": 1.175, "model.regulariser": "none"},
    },
    "maxout:mnist_dense": {  # Goodfellow 2013, sec. 5.1; mnist_pi.yaml
        **{"batch_size": 100, "model.regulariser": "dropout", "model.drop_rate": 0.5},
        **{"model.input_drop_rate": 0.2},
    },
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_has_the_published_numbers(name):
    config = flatten(load(name))
    for field, value in PUBLISHED[name].items():
        assert config[field] == (list(value) if isinstance(value, tuple) else value), field


def test_numbers_that_the_comparison_changes():
    """They would show nothing within 20 steps (tests/parity/test_shipped_recipes.py)."""
    maxout = load("maxout:mnist_dense").schedule  # mnist_pi.yaml
    assert (maxout.decay, maxout.minimum) == (1 / 1.000004, 1e-6)
    assert load("resnet_cifar10:110").schedule.warmup_error == 0.8  # He 2015, sec. 4.2
