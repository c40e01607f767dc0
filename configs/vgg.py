"""VGG on ImageNet (Simonyan, Zisserman 2015).

    python main.py --mode=summary --config=configs/vgg.py:D
    python main.py --config=configs/vgg.py:A --workdir=runs/vgg_A --config.dataset.data_dir=DATA

Arguments: D (default), A, A-LRN, B, C, E: the networks of table 1. B-5x5: the shallow network of
sec. 4.1, which has one 5x5 convolution in place of each two 3x3 convolutions of B.

As published (sec. 3.1): shorter side S = 256, a random 224x224 crop per image, flips, AlexNet's
noise along the principal colours, minus the mean RGB value; batch 256; momentum 0.9; weight decay
5e-4; rate 0.01, divided by 10 up to three times when the validation error stops improving; 74
epochs; dropout 0.5. The deep networks start with the first four convolutions and the fully
connected layers of a trained network A:

    python main.py --config=configs/vgg.py:D --workdir=runs/vgg_D --config.dataset.data_dir=DATA \\
        --config.init_from=runs/vgg_A \\
        --config.init_layers="('conv1_1/*','conv2_1/*','conv3_1/*','conv3_2/*','fc*')"

S = 384 is fine-tuned from S = 256, and a random S in 256 .. 512 from S = 384:

    ... --workdir=runs/vgg_D_384 --config.init_from=runs/vgg_D \\
        --config.schedule.learning_rate=1e-3 --config.view.train_scale="(384, 384)" \\
        --config.view.test_scale=384
    ... --workdir=runs/vgg_D_jitter --config.init_from=runs/vgg_D_384 \\
        --config.view.train_scale="(256, 512)" --config.view.test_scale=384

Published error (validation, dense, S = Q = 256), top-1 / top-5: A 29.6 / 10.4, A-LRN 29.7 / 10.5, B
28.7 / 9.9, C 28.1 / 9.4, D 27.0 / 8.8, E 27.3 / 9.0 %. B-5x5, central crop: top-1 7 % above B's.

Chosen here, because the paper is not clear:
- Weights N(0, 0.01^2). The paper prints a variance of 10^-2, but probably means the deviation, as
  He 2015 cites it. Literally: `--config.model.initializer_scale=0.1`. The paper found that Glorot's
  initialisation works as well: `--config.model.initializer=glorot`.
- Kernels decay, biases do not. "Stops improving" means five epochs without a better top-1 error.
- The momentum is Caffe's, with the rate inside, because the authors' code derives from Caffe.
- LRN's alpha in A-LRN multiplies the sum, as in AlexNet's paper. `--config.model.lrn=caffe`: alpha
  divided by the five maps, and k = 1; `cuda_convnet`: the same with k = 2.

Small networks, such as for CIFAR-10: --config.model.width and .image_size=32 (docs/networks.md).

Evaluations during training use the central crop. The paper's protocols (sec. 3.2, 4) are those of
table 3, table 4, and two more of table 5, each with --mode=evaluate:

    ... --config.evaluate.protocol=dense
    ... --config.evaluate.protocol=dense --config.evaluate.multi_scale=True
    ... --config.evaluate.protocol=multi_crop --config.evaluate.multi_scale=True
    ... --config.evaluate.protocol=dense_and_multi_crop --config.evaluate.multi_scale=True

Measured: not on ImageNet. Only to see that the recipe learns, A was trained on 150 photographs of
it, each a class, as a folder (--config.model.image_size=64 --config.view.size=64
--config.view.train_scale="(72, 72)" --config.view.test_scale=72 --config.preprocess.high=4.0
--config.model.initializer=he --config.batch_size=25 --config.schedule.plateau.patience=20
--config.epochs=200.0, resumed with 400, seed 0, CPU; stopped by hand at epoch 311). The error on
their central crops was 79 % after 100 epochs, 43 after 200, 4.0 after 280, 4.7 after 300, 5.3 at
the end. With Glorot's initialisation the loss was still that of guessing, 5.0, after 59 epochs.
"""

from ml_collections import ConfigDict

from configs.common import choose, imagenet

ARGUMENTS = ("D", "A", "A-LRN", "B", "C", "E", "B-5x5")


def get_config(argument: str = "D") -> ConfigDict:
    """The config of one of ARGUMENTS. Raises ValueError for any other."""
    config = imagenet("vgg")
    config.model.variant = choose("configs/vgg.py", argument, ARGUMENTS)
    config.model.image_size = 224  # or another multiple of 32, with view.size
    config.model.width = 1.0  # factor on the maps and hidden units
    config.model.lrn = "published"  # A-LRN's; none, paper, cuda_convnet, caffe, within_map
    config.model.pooling = "published"  # sec. 2.1; max, average, overlapping, non_overlapping
    config.preprocess.mean = "channel"  # sec. 2.1

    # Sec. 3.1
    config.model.initializer = "gaussian"
    config.model.initializer_scale = 0.01  # a deviation; printed as a variance of 10^-2
    config.model.update({"regulariser": "dropout", "drop_rate": 0.5})
    config.augment.lighting = "eigenvalues"  # AlexNet's
    config.epochs = 74.0  # 370,000 steps
    config.batch_size = 256
    config.optimizer.update({"momentum": 0.9, "weight_decay": 5e-4})
    config.schedule.update({"name": "plateau", "learning_rate": 0.01})

    config.optimizer.momentum_form = "caffe"  # chosen here: the authors' code derives from Caffe
    return config
