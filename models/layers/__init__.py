"""The layers of which every model is built.

Models convolve, pool, normalise and connect only through this package. So padding (explicit, in the
style of PyTorch), the dtype policy and fast formulations for a backend have one place. Parameters
are float32; `dtype` is the dtype of the computation.

Layers that compute have `cost(in_shape, out_shape) -> Cost`, which `models.summary` reads. Its
shapes leave the batch out: (height, width, channels) or (features,).
"""
# ruff: noqa: F401  (the names are for the users of the package)

from configs.rules import FRACTION, NUMBER
from models.layers.activations import ACTIVATIONS, Activation, leaky_relu, maxout, scaled_tanh
from models.layers.builder import BATCH_NORM, LRN, POOLING, Builder, widened
from models.layers.convolution import Conv, FullyConnected, LocalConv, TableConv
from models.layers.division import divided, joined, joined_output, parts
from models.layers.dropping import DropConnect, Dropout, Standout, example_keys, placed
from models.layers.extent import mask as inside
from models.layers.extent import padded
from models.layers.extent import valid as valid_sizes
from models.layers.initializers import Init
from models.layers.net import Net, check_size
from models.layers.normalization import (
    LRN_VARIANTS,
    BatchNorm,
    LocalResponseNorm,
    LocalResponseNormWithinMap,
    alexnet_norm,
)
from models.layers.options import (
    COUNT,
    INITIALIZERS,
    MULTIPLE_OF_32,
    PIECES_OR_PUBLISHED,
    SIZES,
    WIDTH,
    option,
)
from models.layers.pooling import KINDS as POOLING_KINDS
from models.layers.pooling import GlobalAveragePool, Pool, Subsampling
from models.layers.rbf import RBF
