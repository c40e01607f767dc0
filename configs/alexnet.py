"""AlexNet on ImageNet (Krizhevsky, Sutskever, Hinton 2012).

    python main.py --mode=summary --config=configs/alexnet.py
    python main.py --config=configs/alexnet.py --workdir=runs/alexnet \\
        --config.dataset.data_dir=DATA
    python main.py --config=configs/alexnet.py --workdir=runs/photos \\
        --config.dataset.name=folder --config.dataset.data_dir=PHOTOS

Arguments: two_tower (default; the paper's network, 60,965,224 parameters), one_tower
(torchvision's, 61,100,840, without LRN). Krizhevsky 2014 describes one_tower in two ways: 384 maps
in conv4 in a footnote, and in the text 0.2 % more parameters, which fit torchvision's 256 maps. The
author's configuration has 256, and LRN (`--config.model.lrn=cuda_convnet`).

As published (sec. 2 to 5): central 256x256 squares, random 224x224 crops of them, and flips, minus
the mean image; noise along the principal colours; batch 128; momentum 0.9 with the rate inside the
velocity; weight decay 5e-4; rate 0.01, divided by 10 up to three times when the validation error
stops improving; about 90 epochs; weights N(0, 0.01^2), biases 1 in conv2, conv4, conv5, fc6, fc7;
dropout 0.5. Published error (validation, one network, ten crops): top-1 40.7 %, top-5 18.2 %.

Chosen here, because the paper is not clear: biases do not decay (as in the author's code); "stops
improving" means five epochs without a better top-1 error; the noise is alpha times the eigenvalue,
as the paper says (`--config.augment.lighting=deviations`: times the deviation, as in the author's
code); LRN's alpha multiplies the sum, as the paper writes it. The author's later code divides alpha
by the five maps (`--config.model.lrn=cuda_convnet`). So does Caffe, with k = 1 (`caffe`).
Evaluations during training use the central crop. The paper's ten crops (sec. 4.1):

    python main.py --mode=evaluate ... --config.evaluate.protocol=ten_crop

Each device holds the whole network. In the paper (sec. 3.2) two GPUs shared it, each with one tower
(docs/scaling.md):

    python main.py --config=configs/alexnet.py ... --config.num_devices=2 \\
        --config.devices_per_network=2 --config.model.lrn_over=tower

Measured: not on ImageNet. Only to see that the recipe learns, two_tower was trained on 150
photographs of it, each a class, as a folder (--config.batch_size=25 --config.epochs=150.0
--config.evaluate.every_epochs=15.0, seed 0, CPU; stopped by hand at epoch 105). The error on their
central crops was 70.7 % after 30 epochs, 8.0 after 60, 5.3 after 90, 2.0 after 105.

A copy with central squares avoids most of the decoding. Train on it with
--config.dataset.name=imagenet2012_256sq:

    python -m input_pipeline.prepare imagenet2012 --shorter_side=256 --square --data_dir=DATA

Small networks, such as for CIFAR-10: --config.model.width and .image_size=32 (docs/networks.md).

Ablations (sec. 3.3, 3.4): --config.model.lrn=none, --config.model.pooling=non_overlapping,
--config.augment.lighting=none.
"""

from ml_collections import ConfigDict

from configs.common import choose, imagenet

ARGUMENTS = ("two_tower", "one_tower")


def get_config(argument: str = "two_tower") -> ConfigDict:
    """The config of one of ARGUMENTS. Raises ValueError for any other."""
    config = imagenet("alexnet")
    config.model.variant = choose("configs/alexnet.py", argument, ARGUMENTS)
    config.model.image_size = 224  # or 227, with view.size=227 and both scales at 256; or 32
    config.model.width = 1.0  # factor on the maps and hidden units
    two = argument == "two_tower"
    config.model.lrn = "published"  # sec. 3.3; none, paper, cuda_convnet, caffe, within_map
    config.model.lrn_over = "all_maps"  # sec. 3.3, "kernels in the layer"; or tower
    config.model.pooling = "published"  # sec. 3.4; max, average, overlapping, non_overlapping

    # Sec. 4.2
    config.model.regulariser = "dropout"
    config.model.drop_rate = 0.5
    config.model.dropout_scaling = "test" if two else "train"  # train: for torchvision's weights

    config.view.square = True  # sec. 2
    config.preprocess.mean = "pixel"  # sec. 2
    config.augment.lighting = "eigenvalues"  # sec. 4.1; or deviations, as the author's code

    # Sec. 5
    config.model.update({"initializer": "gaussian", "initializer_scale": 0.01})
    config.model.bias_start = 1.0  # Caffe found 1 untrainable, and has 0.1
    config.epochs = 90.0  # "roughly 90 cycles"
    config.batch_size = 128
    config.optimizer.update({"momentum": 0.9, "momentum_form": "caffe", "weight_decay": 5e-4})
    config.schedule.update({"name": "plateau", "learning_rate": 0.01})
    return config
