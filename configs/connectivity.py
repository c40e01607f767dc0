"""How many weights a hidden layer has if it is connected in three ways.

    python main.py --mode=summary --config=configs/connectivity.py:full
    python main.py --mode=summary --config=configs/connectivity.py:local
    python main.py --mode=summary --config=configs/connectivity.py:shared

Arguments: local (default), full, shared. The layer `h1` has 400,000 units (ten maps) on 200x200
pixels. It has 16,000,000,000 weights if each unit sees the whole image, 40,000,000 if each sees
10x10 pixels, and 1,000 if the units of a map share their weights, as in a convolution. Biases are
left out: `--config.model.bias=True` adds 400,000, or 10 shared ones. A classifier follows the
layer, so the networks can be trained, which is faster with smaller images:

    python main.py --config=configs/connectivity.py:local --workdir=runs/local \\
        --config.preprocess.pad=0
"""

from ml_collections import ConfigDict

from configs.common import base, choose

ARGUMENTS = ("local", "full", "shared")


def get_config(argument: str = "local") -> ConfigDict:
    """The config of one of ARGUMENTS. Raises ValueError for any other."""
    config = base()
    config.model.name = "connectivity"
    config.model.connection = choose("configs/connectivity.py", argument, ARGUMENTS)
    config.model.maps = 10
    config.model.window = 10
    config.model.bias = False
    config.dataset.name = "digits"
    config.preprocess.pad = 86  # 28x28 digits on 200x200 pixels

    # Chosen here
    config.model.initializer = "he"
    config.epochs = 20.0
    config.batch_size = 32
    config.schedule.name = "cosine"
    config.schedule.learning_rate = 0.01

    config.evaluate.batch_size = 100
    return config
