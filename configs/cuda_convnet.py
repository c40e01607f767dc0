"""The CIFAR-10 networks of Krizhevsky's cuda-convnet (2011), named by their test error.

    python main.py --config=configs/cuda_convnet.py:26pct --workdir=runs/cuda_convnet \\
        --config.dataset.data_dir=DATA

Arguments: 18pct (default), 26pct, 13pct, 11pct. The last two use random 24x24 crops and flips.

As in the original: pixels in 0..255 minus the mean image; batch 128; momentum 0.9 with the rate
inside the velocity; rate 0.001, and 0.002 for biases; weight decay and initialisation by layer, no
decay of biases. The rate is divided by 10 after 8 epochs (26pct), after 120 and 130 (18pct), or
after about 500 and 510 (11pct). The schedule of 13pct is not known to us: it has that of 11pct.

Differences: the original trains 11pct on four fifths of the images for about 350 epochs, and then
on all images. Here all images are used from the start. The original subtracts the central part of
the mean image from every crop. Here each crop has its part subtracted.

The study cuda_convnet trains 26pct and 18pct (docs/studies). The published error of 11pct is that
of ten crops:

    python main.py --mode=evaluate --config=configs/cuda_convnet.py:11pct ... \\
        --config.evaluate.protocol=ten_crop
"""

from ml_collections import ConfigDict

from configs.common import base, choose

# Epochs; epochs after which the rate falls; weight decays other than 0.004 (the layer files).
_VARIANTS = {
    "18pct": (140.0, (120.0, 130.0), {"fc10": 1.0}),
    "26pct": (10.0, (8.0,), {"fc64": 0.03, "fc10": 0.03}),
    "13pct": (520.0, (500.0, 510.0), {"conv1": 0.0, "conv2": 0.0}),
    "11pct": (520.0, (500.0, 510.0), {"conv1": 0.0, "conv2": 0.0, "fc10": 0.01}),
}
ARGUMENTS = tuple(_VARIANTS)


def get_config(argument: str = "18pct") -> ConfigDict:
    """The config of one of ARGUMENTS. Raises ValueError for any other."""
    config = base()
    config.model.name = "cuda_convnet"
    config.model.variant = choose("configs/cuda_convnet.py", argument, ARGUMENTS)
    config.model.initializer = "paper"  # layers-*.cfg; or any other, for all layers
    config.model.lrn = "published"  # none, paper, cuda_convnet, caffe, within_map
    config.model.pooling = "published"  # max, average, overlapping, non_overlapping
    config.dataset.name = "cifar10"
    config.preprocess.update({"high": 255.0, "mean": "pixel"})  # from memory
    config.batch_size = 128  # as in the original

    # The original's layer-params-*.cfg
    config.epochs, boundaries, layer_decays = _VARIANTS[argument]  # comments of layers-*.cfg
    config.optimizer.update({"momentum": 0.9, "momentum_form": "caffe"})
    config.optimizer.update({"weight_decay": 0.004, "bias_rate": 2.0})
    config.optimizer.layer_decays = ConfigDict(layer_decays)
    config.schedule.update({"name": "steps", "learning_rate": 0.001, "boundaries": boundaries})
    config.schedule.factors = (0.1, 0.01)[: len(boundaries)]

    if argument in ("13pct", "11pct"):
        # The original's option --crop-border=4, from memory
        config.preprocess.crop = 24
        config.augment.update({"crop": True, "flip": True})
    return config
