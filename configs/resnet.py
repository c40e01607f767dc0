"""ResNet and plain networks on ImageNet (He, Zhang, Ren, Sun 2015).

    python main.py --mode=summary --config=configs/resnet.py:50
    python main.py --config=configs/resnet.py:50 --workdir=runs/resnet50 \\
        --config.dataset.data_dir=DATA

Arguments:
- 50 (default), 18, 34, 101, 152: shortcuts B, with projections where dimensions change.
- 18-A, 34-A: no projections, as in table 2. 34-C: projections everywhere, as in table 3.
- 50-v1.5, 101-v1.5, 152-v1.5: the stride in the 3x3 convolution of a bottleneck, not in the first
  1x1.
- plain-18, plain-34: no shortcuts.

As published (sec. 3.4): shorter side random in 256 .. 480, a random 224x224 crop, flips, minus the
mean image, AlexNet's noise along the principal colours; batch 256 (32 per device); momentum 0.9;
weight decay 1e-4; rate 0.1, divided by 10 when the error plateaus; 60e4 iterations; He's
initialisation. Published top-1 error (validation, ten crops): plain-18 27.94, plain-34 28.54, 18-A
27.88, 34-A 25.03, 34 24.52, 34-C 24.19, 50 22.85, 101 21.75, 152 21.43 %.

Chosen here: the momentum is Caffe's, with the rate inside the velocity, as the README of the
authors' released networks says ("v := momentum*v + lr*g"). Kernels decay, because the paper does
not say what does. A plateau is five epochs without a better top-1 error. (Fig. 4 drops at 30 and 60
epochs: `--config.schedule.name=steps --config.schedule.boundaries="(30.0, 60.0)"
--config.schedule.factors="(0.1, 0.01)"`.) The mean image is that of the central crops.

Evaluations during training use the central crop. The paper's ten crops, and its
"fully-convolutional form" at five scales, with --mode=evaluate:

    ... --config.evaluate.protocol=ten_crop
    ... --config.evaluate.protocol=dense --config.evaluate.scales="(224, 256, 384, 480, 640)"

The recipe that is common today: `--config.view.train=area --config.epochs=90.0
--config.schedule.name=steps --config.schedule.boundaries="(30.0, 60.0, 80.0)"
--config.schedule.factors="(0.1, 0.01, 0.001)"`.

Measured: not on ImageNet. Only to see that the recipe learns, 18 was trained on 150 photographs of
it, each a class, as a folder (--config.view.size=64 --config.view.train_scale="(72, 128)"
--config.view.test_scale=72 --config.batch_size=25 --config.schedule.for_batch=256
--config.epochs=60.0 --config.optimizer.momentum_form=pytorch, seed 0, CPU, 171 s). The error on
their central crops was 2.0 % at the end.
"""

from ml_collections import ConfigDict

from configs.common import choose, imagenet

ARGUMENTS = (
    *("50", "18", "34", "101", "152"),
    *("18-A", "34-A", "34-C"),
    *("50-v1.5", "101-v1.5", "152-v1.5"),
    *("plain-18", "plain-34"),
)


def get_config(argument: str = "50") -> ConfigDict:
    """The config of one of ARGUMENTS. Raises ValueError for any other."""
    choose("configs/resnet.py", argument, ARGUMENTS)
    config = imagenet("resnet", train_scale=(256, 480))
    depth, _, variant = argument.removeprefix("plain-").partition("-")
    config.model.depth = int(depth)
    config.model.stride = "v1.5" if variant == "v1.5" else "v1"
    config.model.pool1_padding = 1  # or 0, in ceil mode, as in the authors' released networks
    config.model.pooling = "published"  # table 1; max, average, overlapping, non_overlapping

    # Sec. 3.3, 4.1: A, B, C, or none for plain networks
    config.model.shortcut = variant if variant in ("A", "C") else "B"
    if argument.startswith("plain-"):
        config.model.shortcut = "none"

    config.model.shortcut_padding = "after"  # zero maps of shortcut A; or both_sides
    config.model.zero_gamma = False  # True: Goyal 2017
    config.model.batch_norm = "per_device"  # as the authors' eight GPUs; or across_devices

    # Sec. 3.4
    config.model.initializer = "he"
    config.preprocess.mean = "pixel"
    config.augment.lighting = "eigenvalues"  # AlexNet's
    config.epochs = 119.9  # 60e4 steps
    config.batch_size = 256
    config.optimizer.update({"momentum": 0.9, "weight_decay": 1e-4})
    config.schedule.update({"name": "plateau", "learning_rate": 0.1})

    config.optimizer.momentum_form = "caffe"  # README of the authors' released networks
    return config
