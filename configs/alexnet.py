"""AlexNet on ImageNet (Krizhevsky, Sutskever, Hinton 2012).

    python main.py --mode=summary --config=configs/alexnet.py
    python main.py --config=configs/alexnet.py --workdir=runs/alexnet \\
        --config.dataset.name=cifar10 --config.dataset.data_dir=DATA

Arguments: two_tower (default; the paper's, 60,965,224 parameters), one_tower (2014, 61,100,840;
as torchvision distributes it, without LRN).

The paper's: batch 128, momentum 0.9 with the rate inside the velocity, weight decay 5e-4, rate
0.01, about 90 epochs, N(0, 0.01^2) weights, biases 1 in conv2, conv4, conv5, fc6, fc7, dropout 0.5.
Published, ILSVRC-2012 validation, ten crops, one net: top-1 error 40.7 %, top-5 18.2 %.

Not yet as the paper: images come from sets that fit into memory, resized whole to 224x224 on the
device, without crops, flips or colour noise; a constant is subtracted in place of the mean
image; the rate falls at fixed epochs in place of "when the validation error stops improving".
ImageNet itself has not been trained here.

Ablations (sec. 3.3, 3.4): --config.model.lrn=none, --config.model.pooling=non_overlapping.
"""

from ml_collections import ConfigDict

from configs.common import base, choose

ARGUMENTS = ("two_tower", "one_tower")


def get_config(argument: str = "two_tower") -> ConfigDict:
    """The config of one of ARGUMENTS. Raises ValueError for any other."""
    config = base()
    config.model.name = "alexnet"
    config.model.variant = choose("configs/alexnet.py", argument, ARGUMENTS)
    config.model.image_size = 224  # or 227
    two = argument == "two_tower"
    config.model.lrn_over = "all_maps"  # or tower
    config.model.bias_start = 1.0  # Caffe found 1 untrainable, and has 0.1
    config.model.regulariser = "dropout"
    # At test time as published; torchvision's weights are for the other scaling.
    config.model.dropout_scaling = "test" if two else "train"
    config.dataset.name = "imagenet2012"
    config.preprocess.update({"low": -117.0, "high": 138.0})
    config.epochs = 90.0
    config.batch_size = 128
    config.optimizer.update({"momentum_form": "caffe", "weight_decay": 5e-4})
    config.schedule.update(
        {
            "name": "steps",
            "learning_rate": 0.01,
            "boundaries": (30.0, 60.0, 80.0),
            "factors": (0.1, 0.01, 0.001),
        }
    )
    config.evaluate.batch_size = 128
    return config
