"""Every recipe with every argument: valid, and of the network that it names."""

import importlib
import pathlib

import jax
import pytest

import configs
from configs import combinations
from models import registry
from train_lib import experiment
from train_lib import state as state_lib

# Trainable parameters of the net that each argument gives.
PARAMETERS = {
    "lenet5": {"digits": 60_000, "mnist": 60_000, "mnist_1998": 60_000},
    "alexnet": {"two_tower": 60_965_224, "one_tower": 61_100_840},
    "vgg": {
        "D": 138_357_544,
        "A": 132_863_336,
        "A-LRN": 132_863_336,
        "B": 133_047_848,
        "C": 133_638_952,
        "E": 143_667_240,
        "B-5x5": 134_503_528,
    },
    "googlenet": {"lrn": 13_378_280, "batch_norm": None},
    "resnet": {
        "50": 25_557_032,
        "18": 11_689_512,
        "34": 21_797_672,
        "101": 44_549_160,
        "152": 60_192_808,
        "18-A": 11_515_688,
        "34-A": 21_623_848,
        "34-C": 22_716_840,
        "50-v1.5": 25_557_032,
        "101-v1.5": 44_549_160,
        "152-v1.5": 60_192_808,
        "plain-18": 11_515_688,
        "plain-34": 21_623_848,
    },
    "resnet_cifar10": {
        "20": 269_722,
        "32": 464_154,
        "44": 658_586,
        "56": 853_018,
        "110": 1_727_962,
        "1202": 19_421_274,
        "plain-20": 269_722,
        "plain-32": 464_154,
        "plain-44": 658_586,
        "plain-56": 853_018,
        "plain-110": 1_727_962,
    },
    "cuda_convnet": {
        "18pct": 89_578,
        "26pct": 145_578,
        "13pct": 1_116_490,
        "11pct": 2_112_970,
    },
    "maxout": {
        "mnist_dense": 1_233_610,
        "mnist_conv": None,
        "cifar10": 16_247_830,
        "cifar10_augmented": 16_247_830,
    },
    "rbm": {"500": 398_294},  # 784 * 500 + 500 + 784, and the classifier's 5,010
    "mlp": {"300": 238_510, "linear": 7_850, "500-150": 469_160},
    # Ten classes: 10 (21 M + 1), chi2: 10 (3 * 21 M + 1), Fisher: 10 (21 * 2 K D + 1).
    "traditional": {
        "vq": 378_010,
        "sparse": 215_050,
        "llc": 1_680_010,
        "fisher": 8_601_610,
        "vq_small": 63_010,
        "sparse_small": 53_770,
        "llc_small": 53_770,
        "fisher_small": 268_810,
    },
    "connectivity": {
        "local": 40_000_000 + 4_000_010,
        "full": 16_000_000_000 + 4_000_010,
        "shared": 1_000 + 4_000_010,
    },
    # 16 filters of 7x7, and a classifier of 16 maps of 6x6.
    "filter_bank": dict.fromkeys(("oriented", "random", "learned", "tuned"), 784 + 5_770),
}

FILES = [  # those with a recipe
    path.stem
    for path in sorted(pathlib.Path(configs.__path__[0]).glob("*.py"))
    if hasattr(importlib.import_module(f"configs.{path.stem}"), "get_config")
]


def test_the_table_has_every_config_file_and_every_model():
    assert set(PARAMETERS) == set(FILES)
    models = {importlib.import_module(f"configs.{f}").get_config().model.name for f in FILES}
    assert models == {*registry.MODELS, *registry.FITTED}
    assert set(combinations.FITTED) == set(registry.FITTED)


@pytest.mark.parametrize("file", FILES)
def test_a_config_has_every_option_of_its_model(file):
    """So that the command line can set them."""
    module = importlib.import_module(f"configs.{file}")
    for argument in getattr(module, "ARGUMENTS", ("300",)):
        model = module.get_config(argument).model
        assert set(model) == {"name", "dtype", *registry.options(model.name)}, argument


TOO_DEEP = "1202"  # takes minutes to trace; tests/models/test_counts.py counts it
DEEP = {"101", "152", "101-v1.5", "152-v1.5", "50-v1.5", "34", "34-A", "34-C", "plain-34"}
DEEP |= {f"{kind}{depth}" for kind in ("", "plain-") for depth in (44, 56, 110)}


@pytest.mark.parametrize(
    ("file", "argument", "parameters"),
    [
        pytest.param(file, argument, count, marks=[pytest.mark.slow] if argument in DEEP else [])
        for file, counts in PARAMETERS.items()
        for argument, count in counts.items()
        if argument != TOO_DEEP
    ],
)
def test_every_argument_gives_its_network(file, argument, parameters):
    module = importlib.import_module(f"configs.{file}")
    config = module.get_config(argument)
    if config.dataset.name == "folder":  # no folder exists here; cifar10 has colour images, too
        config.dataset.name = "cifar10"
    exp = experiment.resolve(config)
    shapes = state_lib.variable_shapes(exp.module, exp.input_shape)["params"]
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert parameters is None or count == parameters
    if argument == next(iter(PARAMETERS[file])):
        assert module.get_config().to_dict() == module.get_config(argument).to_dict()


@pytest.mark.parametrize("file", PARAMETERS)
def test_other_arguments_are_refused_and_the_allowed_ones_are_named(file):
    module = importlib.import_module(f"configs.{file}")
    with pytest.raises(ValueError, match=rf"configs/{file}.py has no argument 'x1': "):
        module.get_config("x1")
    if file not in ("mlp", "rbm"):
        assert set(PARAMETERS[file]) == set(module.ARGUMENTS)
