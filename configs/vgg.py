"""VGG on ImageNet (Simonyan, Zisserman 2015).

    python main.py --mode=summary --config=configs/vgg.py:D
    python main.py --config=configs/vgg.py:A --workdir=runs/vgg \\
        --config.dataset.name=cifar10 --config.dataset.data_dir=DATA --config.batch_size=32

Arguments: D (default), A, A-LRN, B, C, E, the nets of table 1.

The paper's: batch 256, momentum 0.9, weight decay 5e-4, rate 0.01 lowered tenfold three times, 74
epochs, dropout 0.5. Published, validation, dense, S = 256 = Q, top-1 / top-5 error: A 29.6 / 10.4,
A-LRN 29.7 / 10.5, B 28.7 / 9.9, C 28.1 / 9.4, D 27.0 / 8.8, E 27.3 / 9.0 %.

The paper starts the deep nets with the first four convolutions and the three fully connected
layers of a trained net A:

    python main.py --config=configs/vgg.py:D --workdir=runs/vgg_D --config.init_from=runs/vgg_A \\
        --config.init_layers="('conv1_1/*', 'conv2_1/*', 'conv3_1/*', 'conv3_2/*', 'fc?/*')"

Initialisation is N(0, 0.01^2): the paper prints a variance of 10^-2, probably for the deviation
(He 2015 cites it so); `--config.model.initializer_scale=0.1` is the literal reading. Later
the authors found Glorot's rule to do without net A (`--config.model.initializer=glorot`).

Not yet as the paper: images come from sets that fit into memory, resized whole to 224x224 on the
device, without crops, flips, colour noise or scale jitter; the rate falls at fixed epochs in
place of a plateau. ImageNet itself has not been trained here.
"""

from ml_collections import ConfigDict

from configs.common import base, choose

ARGUMENTS = ("D", "A", "A-LRN", "B", "C", "E")


def get_config(argument: str = "D") -> ConfigDict:
    """The config of one of ARGUMENTS. Raises ValueError for any other."""
    config = base()
    config.model.name = "vgg"
    config.model.variant = choose("configs/vgg.py", argument, ARGUMENTS)
    config.model.regulariser = "dropout"
    config.dataset.name = "imagenet2012"
    config.preprocess.update({"low": -117.0, "high": 138.0})
    config.epochs = 74.0
    config.batch_size = 256
    config.optimizer.weight_decay = 5e-4
    config.schedule.update(
        {
            "name": "steps",
            "learning_rate": 0.01,
            "boundaries": (30.0, 50.0, 65.0),
            "factors": (0.1, 0.01, 0.001),
        }
    )
    config.evaluate.batch_size = 128
    return config
