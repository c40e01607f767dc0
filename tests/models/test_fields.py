"""Receptive fields against perturbation of the image, pixel by pixel, and `models.summary`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from errors import UserError
from models.alexnet import AlexNet
from models.cuda_convnet import CudaConvnet
from models.googlenet import GoogLeNet
from models.lenet import LeNet5
from models.mlp import Connectivity
from models.receptive_fields import receptive_field
from models.resnet import CifarResNet
from models.summary import describe

# Average pooling and no normalisation over pixels: every pixel counts, in any picture.
NETS = {
    "lenet5": (LeNet5(subsampling="average"), (32, 32, 1)),
    "cuda_convnet": (CudaConvnet(variant="18pct", pooling="average", lrn="none"), (19, 22, 3)),
    "local": (CudaConvnet(variant="13pct", pooling="average", lrn="none"), (14, 14, 3)),
    "resnet": (CifarResNet(depth=8), (17, 17, 3)),
    "alexnet": (
        AlexNet(image_size=32, width=0.01, pooling="average", lrn="none", regulariser="none"),
        (32, 32, 3),
    ),
    "connectivity": (Connectivity(connection="local", maps=2, window=4), (9, 9, 1)),
}


def seen(module, shape, layer, place):
    """The bounding box of the pixels whose change changes the unit, by brute force."""
    # Weights of one sign: nothing cancels, and no rectifier is off.
    variables = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, *shape)))
    variables = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.1), variables)
    x = np.full((1, *shape), 0.1, np.float32)

    @jax.jit
    def unit(x):
        _, actual = module.apply(variables, x, capture_intermediates=True)
        actual = actual["intermediates"]
        for part in layer.split("/"):
            actual = actual[part]
        output = actual["__call__"][0]
        return output[0, *place].sum() if output.ndim == 4 else output[0].sum()

    before, changed = float(unit(x)), np.zeros(shape[:2], bool)
    for row, column in np.ndindex(*shape[:2]):
        other = x.copy()
        other[0, row, column] += 10
        changed[row, column] = float(unit(other)) != before
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    assert changed[np.ix_(rows, columns)].all()
    box = (rows[0], columns[0], rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1)
    return tuple(map(int, box))


@pytest.mark.parametrize(
    ("net", "layer", "place"),
    [
        ("lenet5", "s2", (3, 5)),
        ("lenet5", "c3", (9, 0)),
        ("lenet5", "s4", (2, 2)),
        ("lenet5", "c5", (0, 0)),
        ("cuda_convnet", "conv1", (0, 21)),
        ("cuda_convnet", "pool1", (8, 10)),
        ("cuda_convnet", "conv2", (1, 9)),
        ("cuda_convnet", "pool2", (3, 4)),
        ("local", "local3", (0, 1)),
        ("alexnet", "pool1", (14, 7)),
        ("alexnet", "conv3", (2, 6)),
        ("alexnet", "pool5", (0, 2)),
        ("connectivity", "h1", (0, 8)),
        ("connectivity", "h1_relu", (4, 4)),
        ("resnet", "conv3_1", (0, 8)),
        ("resnet", "conv3_1/conv1", (5, 0)),
        ("resnet", "conv2_1", (16, 3)),
    ],
)
def test_receptive_fields_are_the_pixels_that_change_a_unit(net, layer, place):
    module, shape = NETS[net]
    assert receptive_field(module, shape, layer, place) == seen(module, shape, layer, place)


@pytest.mark.parametrize(
    ("module", "shape"),
    [(AlexNet(), (224, 224, 3)), (GoogLeNet(), (640, 640, 3)), (LeNet5(), (32, 32, 1))],
)
def test_sizes_in_the_middle_are_those_of_the_summary(module, shape):
    if shape[0] == 640:
        module = module.clone(auxiliary_heads=False)
    checked = 0
    rows = describe(module, "net", shape)["layers"]
    for row in rows[:: 1 + len(rows) // 12]:
        side = row["receptive_field"]
        if side < shape[0] // 2 and len(row["output_shape"]) == 3:
            box = receptive_field(module, shape, row["name"])
            assert box[2:] == (side, side), row["name"]
            checked += 1
    assert checked >= 3


def test_fields_lie_a_stride_apart_and_begin_in_the_padding():
    # conv1: windows of 11, stride 4, 2 pixels of padding (Krizhevsky 2012, sec. 3.5).
    net = AlexNet()
    assert receptive_field(net, (224, 224, 3), "conv1", (0, 0)) == (0, 0, 9, 9)
    assert receptive_field(net, (224, 224, 3), "conv1", (1, 10)) == (2, 38, 11, 11)
    assert receptive_field(net, (224, 224, 3), "conv1", (54, 54)) == (214, 214, 10, 10)
    assert receptive_field(net, (224, 224, 3), "fc8") == (0, 0, 224, 224)


def test_unknown_layers_and_places_are_refused_in_one_line():
    with pytest.raises(UserError, match="no layer c9: the network has c1, c1_scaled_tanh, "):
        receptive_field(LeNet5(), (32, 32, 1), "c9")
    with pytest.raises(UserError, match=r"no position \(0, 28\) in c1: its map is 28x28"):
        receptive_field(LeNet5(), (32, 32, 1), "c1", (0, 28))
