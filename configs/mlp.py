"""Linear classifier and multi-layer perceptrons on MNIST (LeCun et al. 1998, sec. III.C).

    python main.py --config=configs/mlp.py --workdir=runs/mlp --config.dataset.data_dir=DATA
    python main.py --config=configs/mlp.py:500-150 --workdir=runs/mlp2 ...

Argument: the sizes of the hidden layers, joined by hyphens (default 300), or `linear` for none.

Published test errors, after another training than here: linear 12.0 %, 300 4.7 %, 1000 4.5 %,
300-100 3.05 %, 500-150 2.95 %. The study mnist_baselines measures them: docs/studies has its
results.

Differences from the paper: a softmax output with cross-entropy, SGD with momentum. The config works
for any data set. `--config.dataset.name=digits` needs no DATA.
"""

from ml_collections import ConfigDict

from configs.common import base, hidden_sizes


def get_config(argument: str = "300") -> ConfigDict:
    """The config of some hidden layers. Raises ValueError for an argument that is none."""
    examples = "such as 300 or 500-150, or linear"
    sizes = () if argument == "linear" else hidden_sizes("configs/mlp.py", argument, examples)
    config = base()
    config.model.name = "mlp"
    config.model.hidden = sizes  # sec. III.C
    config.model.input_drop_rate = 0.0  # of the image, with model.regulariser=dropout
    config.model.activation = "scaled_tanh"  # eq. 6
    config.model.initializer = "lecun1998"  # app. A
    config.dataset.name = "mnist"
    config.preprocess.update({"low": -0.1, "high": 1.175})  # sec. II.B
    config.steps_per_dispatch = 50

    # Chosen here
    config.epochs = 20.0
    config.batch_size = 64
    config.optimizer.momentum = 0.9
    config.schedule.name = "cosine"
    config.schedule.learning_rate = 0.01
    return config
