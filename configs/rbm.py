"""Pre-training by restricted Boltzmann machines (Hinton & Salakhutdinov 2006).

Greedy, layer by layer, without labels. Each run trains the last of its layers. The layers before it
come from the run before, and keep their values:

    python main.py --config=configs/rbm.py:500 --workdir=runs/rbm1
    python main.py --config=configs/rbm.py:500-500 --workdir=runs/rbm2 \\
        --config.init_from=runs/rbm1
    python main.py --config=configs/rbm.py:500-500-2000 --workdir=runs/rbm3 \\
        --config.init_from=runs/rbm2

Then the whole network is fine-tuned with labels:

    python main.py --config=configs/mlp.py:500-500-2000 --workdir=runs/fine_tuned \\
        --config.init_from=runs/rbm3 --config.model.activation=sigmoid \\
        --config.preprocess.low=0 --config.preprocess.high=1

It begins with the classifier of the last run, too; --config.init_layers="('!output/*',)" leaves it
out. `--config.dataset.data_dir=DATA` says where MNIST is. `--config.dataset.name=digits` needs no
DATA.

Argument: the sizes of the layers, joined by hyphens (default 500).

Published test error of 784-500-500-2000-10 on MNIST after fine-tuning: 1.2 % (from
memory). The study rbm_pretraining compares pre-trained networks with others at several depths.

The errors of a pre-training run are those of a linear classifier on the last layer, which learns
beside it. The constants are those of the authors' program, from memory (weight decay 0.0002;
momentum 0.5, then 0.9; 50 passes), and of Hinton 2010, A practical guide to training restricted
Boltzmann machines (initial deviation 0.01, sec. 8.1).

Differences: the momentum rises linearly in the first five passes, where the program changes it
after them. Visible units are sampled, where the program uses their means (the guide, sec. 3.2,
allows both). Fine-tuning by SGD with momentum, where the paper has conjugate gradients.
"""

from ml_collections import ConfigDict

from configs.common import base, hidden_sizes


def get_config(argument: str = "500") -> ConfigDict:
    """The config that trains the last of some layers. Raises ValueError for another argument."""
    sizes = hidden_sizes("configs/rbm.py", argument, "such as 500 or 500-500-2000")
    config = base()
    config.model.name = "rbm"
    config.model.activation = "sigmoid"
    config.model.hidden = sizes
    config.model.cd_steps = 1  # of Gibbs sampling; Hinton 2002: k of CD-k
    config.model.initializer = "gaussian"  # Hinton 2010, sec. 8.1
    config.model.initializer_scale = 0.01  # Hinton 2010, sec. 8.1

    # The layers before the last. They come from init_from, without which the run is refused.
    config.init_layers = tuple(f"h{number}/*" for number in range(1, len(sizes)))
    config.optimizer.frozen = config.init_layers

    config.dataset.name = "mnist"
    config.steps_per_dispatch = 50

    # The authors' program, from memory
    config.epochs = 50.0
    config.batch_size = 100
    config.schedule.learning_rate = 0.1
    config.optimizer.momentum = 0.5
    config.optimizer.momentum_end = 0.9
    config.optimizer.momentum_epochs = 5.0
    config.optimizer.momentum_form = "caffe"
    config.optimizer.weight_decay = 0.0002
    return config
