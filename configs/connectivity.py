"""How many weights one hidden layer takes, connected in three ways.

    python main.py --mode=summary --config=configs/connectivity.py:full
    python main.py --mode=summary --config=configs/connectivity.py:local
    python main.py --mode=summary --config=configs/connectivity.py:shared

Arguments: local (default), full, shared. On 200x200 pixels, 400,000 hidden units (ten maps) take
16,000,000,000 weights if each sees the whole image, 40,000,000 if each sees 10x10 pixels, and
1,000 if all units of a map share theirs, as a convolution's do; biases are left out
(`--config.model.bias=True`: 400,000 more, or 10). Behind the layer `h1` stands a classifier, so
that the nets can be trained, best on smaller images:

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
    config.model.initializer = "he"
    config.dataset.name = "digits"
    config.preprocess.pad = 86  # 28x28 digits on 200x200 pixels
    config.epochs = 20.0
    config.batch_size = 32
    config.schedule.name = "cosine"
    config.schedule.learning_rate = 0.01
    config.evaluate.batch_size = 100
    return config
