"""GoogLeNet on ImageNet (Szegedy et al. 2014).

    python main.py --mode=summary --config=configs/googlenet.py
    python main.py --config=configs/googlenet.py --workdir=runs/googlenet \\
        --config.dataset.name=cifar10 --config.dataset.data_dir=DATA

Arguments: lrn (default; the paper's: 6,998,552 parameters, 13,378,280 with the two auxiliary heads
of training), batch_norm (the net that torchvision distributes weights for).

The paper's: momentum 0.9, rate times 0.96 every 8 epochs, auxiliary losses at 0.3, dropout 0.4
(0.7 in the heads). Published, validation, one crop, one net: top-5 error 10.07 %. It gives no
initial rate, batch size, decay or initialisation: those here are Caffe's (rate 0.01, batch 32,
decay 2e-4, Glorot, 60 epochs), but its biases start at 0.2, ours at 0.

Not yet as the paper: images come from sets that fit into memory, resized whole to 224x224 on the
device, without crops or distortions; no averaging of weights. ImageNet itself has not been
trained here.
"""

from ml_collections import ConfigDict

from configs.common import base, choose

ARGUMENTS = ("lrn", "batch_norm")


def get_config(argument: str = "lrn") -> ConfigDict:
    """The config of one of ARGUMENTS. Raises ValueError for any other."""
    config = base()
    config.model.name = "googlenet"
    config.model.normalisation = choose("configs/googlenet.py", argument, ARGUMENTS)
    if argument == "batch_norm":
        config.model.batch_norm = "per_device"  # or across_devices
    config.model.auxiliary_heads = True
    config.model.initializer = "glorot"
    config.model.regulariser = "dropout"
    config.model.drop_rate = 0.4 if argument == "lrn" else 0.2
    config.dataset.name = "imagenet2012"
    config.preprocess.update({"low": -117.0, "high": 138.0})
    config.loss.auxiliary_weight = 0.3
    config.epochs = 60.0
    config.batch_size = 32
    config.optimizer.weight_decay = 2e-4
    falls = range(1, 8)
    config.schedule.update(
        {
            "name": "steps",
            "learning_rate": 0.01,
            "boundaries": tuple(8.0 * n for n in falls),
            "factors": tuple(0.96**n for n in falls),
        }
    )
    config.evaluate.batch_size = 128
    return config
