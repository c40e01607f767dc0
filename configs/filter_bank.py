"""One layer of filters, fixed or learned, and a linear classifier (Jarrett 2009, sec. 4).

    python main.py --config=configs/filter_bank.py --workdir=runs/oriented
    python main.py --config=configs/filter_bank.py:learned --workdir=runs/learned

Arguments, the weights of the filters: oriented (default; Gabor functions, fixed), random (fixed),
learned (from random initial weights), tuned (learned, from Gabor functions).

The config works for any data set. The study fixed_filters compares the arguments on the digits.

Differences from the paper: a rectifier and maxima, where the paper has absolute values, local
contrast normalisation and means; fewer filters; small images of digits.
"""

from ml_collections import ConfigDict

from configs.common import base, choose

ARGUMENTS = ("oriented", "random", "learned", "tuned")


def get_config(argument: str = "oriented") -> ConfigDict:
    """The config of one of ARGUMENTS. Raises ValueError for any other."""
    choose("configs/filter_bank.py", argument, ARGUMENTS)
    config = base()
    config.model.name = "filter_bank"
    config.dataset.name = "digits"
    config.model.filters = "oriented" if argument in ("oriented", "tuned") else "drawn"
    if argument in ("oriented", "random"):
        config.optimizer.frozen = ("filters/*",)  # not learned

    # Chosen here
    config.model.pooling = "published"
    config.model.maps = 16
    config.model.window = 7
    config.model.pool_window = 5
    config.model.pool_stride = 4
    config.model.initializer = "he"
    config.epochs = 30.0
    config.batch_size = 32
    config.steps_per_dispatch = 50
    config.schedule.name = "cosine"
    config.schedule.learning_rate = 0.05

    config.evaluate.every_epochs = 5.0
    config.checkpoint.every_epochs = 30.0
    return config
