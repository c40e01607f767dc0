"""LeNet-5 on handwritten digits (LeCun, Bottou, Bengio, Haffner 1998).

    python main.py --config=configs/lenet5.py --workdir=runs/lenet5
    python main.py --config=configs/lenet5.py:mnist --workdir=runs/mnist \\
        --config.dataset.data_dir=DATA

Arguments: digits (default; the 1,797 images of scikit-learn), mnist, mnist_1998 (the paper's
updates, with another mu).

Published test error on MNIST: 0.95 % (+- 0.1, fig. 5). The studies mnist_baselines and
digits_distortions run these recipes with several seeds. docs/studies has their results.

Differences from the paper, digits and mnist: SGD with momentum and batches, where the paper uses
stochastic diagonal Levenberg-Marquardt on single images; a cosine schedule, where the paper has
steps. The paper gives no value for two constants: biases start at zero here, and j of eq. 9 is 0.1.

mnist_1998 has the paper's updates: one image at a time in a fixed random order, 20 passes with the
published rates, each divided by mu + h. h are second derivatives, estimated on 500 images before
each pass. One constant differs: mu is 0.5, and the paper's is 0.02. With 0.02 and the paper's
initial weights, all units saturate within 1,000 updates: the signals almost vanish on the way to
F6, so h is almost 0, and the rates of most weights are the largest possible, rate / mu. With 0.02
and larger initial weights (--config.model.initializer=xavier_fan_in) the first pass succeeds, but
the error rises in the second. mu = 0.02 for a loss that is 25 times as small is equal to mu = 0.5.
The study lenet5_1998 runs this recipe. lenet5_1998_variations varies what the paper leaves open,
and other values of mu: some had a lower error.
One core makes about 3,500 (Intel Xeon) or 4,200 (AMD EPYC) updates per second. A second core does
not help, because each operation is small (benchmarks/updates.py): on Linux, start the command with
`taskset -c 0`.

The variant that is common today has 61,706 parameters. Its ReLU needs larger initial weights than
the paper's squashing function. These flags train it:

    --config.model.subsampling=max --config.model.activation=relu --config.model.output=softmax
    --config.model.c3=full --config.model.initializer=he --config.loss.name=softmax
    --config.schedule.learning_rate=0.003
"""

from ml_collections import ConfigDict

from configs.common import base, choose

ARGUMENTS = ("digits", "mnist", "mnist_1998")


def get_config(argument: str = "digits") -> ConfigDict:
    """The config of one of ARGUMENTS. Raises ValueError for any other."""
    choose("configs/lenet5.py", argument, ARGUMENTS)
    config = base()
    config.model.name = "lenet5"

    # Sec. II.B
    config.model.subsampling = "trainable"  # trainable, average, max
    config.model.pooling = "published"  # overlapping, with max and average subsampling
    config.model.activation = "scaled_tanh"  # eq. 6
    config.model.output = "rbf"  # eq. 7; rbf, softmax
    config.model.c3 = "table"  # table I; table, full
    config.preprocess.update({"pad": 2, "low": -0.1, "high": 1.175})

    config.model.initializer = "lecun1998"  # app. A
    config.loss.name = "map"  # map (eq. 9) and mse (eq. 8) for rbf; softmax
    config.loss.j = 0.1  # eq. 9's constant of the rubbish class; the paper gives no value

    config.steps_per_dispatch = 50
    config.dataset.name = argument.removesuffix("_1998")
    if argument == "mnist_1998":
        _train_as_published(config)
        return config

    # Chosen here
    config.schedule.name = "cosine"
    config.optimizer.momentum = 0.9
    if argument == "mnist":
        config.epochs = 20.0
        config.batch_size = 64
        config.schedule.learning_rate = 0.003
    else:
        config.epochs = 60.0
        config.batch_size = 16
        config.schedule.learning_rate = 0.001
        config.evaluate.every_epochs = 5.0
        config.checkpoint.every_epochs = 5.0
        # 1,442 images are few: they are distorted in the ways of sec. III.B, which has no numbers.
        config.augment.update({"translate": 2.0, "scale": 0.15, "squeeze": 0.15, "shear": 0.3})
    return config


def _train_as_published(config: ConfigDict) -> None:
    """The training of LeCun 1998, sec. III.B and app. C: one image per update."""
    # Sec. III.B, app. C
    config.epochs = 20.0
    config.batch_size = 1
    config.num_devices = 1
    config.dataset.order = "fixed"
    config.optimizer.momentum = 0.0
    config.optimizer.curvature_examples = 500
    config.optimizer.mu = 0.5  # the paper has 0.02, with which units saturate here
    config.schedule.name = "steps"
    config.schedule.learning_rate = 0.0005
    config.schedule.boundaries = (2.0, 5.0, 8.0, 12.0)
    config.schedule.factors = (0.4, 0.2, 0.1, 0.02)  # 0.0002, 0.0001, 0.00005, 0.00001

    config.steps_per_dispatch = 1000
    config.log_every_steps = 60_000  # the training error of each pass
