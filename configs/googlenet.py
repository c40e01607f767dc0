"""GoogLeNet on ImageNet (Szegedy et al. 2014).

    python main.py --mode=summary --config=configs/googlenet.py
    python main.py --config=configs/googlenet.py --workdir=runs/googlenet \\
        --config.dataset.data_dir=DATA

Arguments: lrn (default; the paper's network: 6,998,552 parameters, 13,378,280 with the two
auxiliary heads of training), batch_norm (the network of torchvision's weights).

As published (sec. 5, 6): patches of 8 to 100 % of the image's area with aspect 3/4 to 4/3, resized
by a random interpolation; photometric distortions; minus the mean; momentum 0.9; rate times
0.96 every 8 epochs; evaluation with averaged weights; auxiliary losses times 0.3; dropout 0.4 (0.7
in the heads). Published error (validation, one crop, one network): top-5 10.07 %.

The paper trained asynchronously and does not give the other numbers. Those here come from Caffe's
replication bvlc_googlenet and its solver.prototxt: rate 0.01; batch 32; decay 2e-4; the rate inside
the velocity; "xavier" weights by fan-in; biases 0.2 (classifiers: 0); 10,000,000 steps, which are
250 epochs. (Caffe's published weights come from another schedule of 60 epochs. Its biases learn at
twice the rate, `--config.optimizer.bias_rate=2.0`; here they learn at the same rate.) LRN is
AlexNet's, with alpha times the sum as in that paper. `--config.model.lrn=cuda_convnet` divides
alpha by the five maps, as the author's code does; `caffe` has k = 1 besides, as bvlc_googlenet.
Chosen by us: flips, photometric factors of 0.5 to 1.5, a running average over about the last 10,000
steps, and bicubic interpolation in evaluations.

The paper's 10 crops (which it does not describe; here AlexNet's) and 144 crops (sec. 7), with
--mode=evaluate:

    ... --config.evaluate.protocol=ten_crop
    ... --config.evaluate.protocol=multi_crop --config.evaluate.multi_scale=True

Small networks, such as for CIFAR-10: --config.model.width and .stem=small (docs/networks.md).

Measured: not on ImageNet. Only to see that the recipe learns, lrn was trained on 150 photographs of
it, each a class, as a folder (--config.view.size=96 --config.view.test_scale=112
--config.view.area="(0.5, 1.0)" --config.preprocess.high=1.0 --config.model.initializer=he
--config.model.bias_start=0.0 --config.batch_size=25 --config.schedule.decay_epochs=40.0
--config.optimizer.averaging=0.9 --config.optimizer.momentum_form=pytorch --config.epochs=400.0,
seed 0, CPU; stopped by hand at epoch 273). The error on their central crops was 43 % after 120
epochs, 3.3 after 220, 0.0 after 260, 2.0 at the end. With patches from 8 % of the area on, it was
97 % after 70 epochs.
"""

from ml_collections import ConfigDict

from configs.common import choose, imagenet

ARGUMENTS = ("lrn", "batch_norm")


def get_config(argument: str = "lrn") -> ConfigDict:
    """The config of one of ARGUMENTS. Raises ValueError for any other."""
    config = imagenet("googlenet")
    config.model.normalisation = choose("configs/googlenet.py", argument, ARGUMENTS)
    config.model.stem = "published"  # or small, for images of about 32x32
    config.model.width = 1.0  # factor on the maps and hidden units
    config.model.batch_norm = "per_device"  # or across_devices, with BatchNorm
    config.model.lrn = "published"  # AlexNet's; none, paper, cuda_convnet, caffe, within_map
    config.model.pooling = "published"  # table 1; max, average, overlapping, non_overlapping

    # Sec. 5
    config.model.auxiliary_heads = True
    config.model.regulariser = "dropout"
    config.model.drop_rate = 0.4 if argument == "lrn" else 0.2  # 0.2: torchvision's
    config.preprocess.mean = "channel"
    config.loss.auxiliary_weight = 0.3

    # Sec. 6
    config.view.update({"train": "area", "interpolation": "random"})
    config.augment.photometric = 0.5  # the factor is chosen here
    config.optimizer.momentum = 0.9
    config.optimizer.averaging = 0.9999  # over about 10,000 steps: chosen here
    config.schedule.update({"name": "exponential", "decay": 0.96, "decay_epochs": 8.0})

    # Caffe's bvlc_googlenet, because the paper does not say
    config.model.initializer = "xavier_fan_in"
    config.model.bias_start = 0.2
    config.epochs = 250.0  # 10,000,000 steps
    config.batch_size = 32
    config.optimizer.update({"momentum_form": "caffe", "weight_decay": 2e-4})
    config.schedule.learning_rate = 0.01

    config.evaluate.crops = "squares"  # sec. 7
    return config
