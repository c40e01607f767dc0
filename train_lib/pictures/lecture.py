"""The pictures of docs/lecture.md that need neither training nor a data set.

    python -m train_lib.pictures.lecture                            # all, to build/lecture
    python -m train_lib.pictures.lecture ten_crops --out=DIR        # one, to DIR/ten_crops.png

Photographs and digits are those that come with scikit-learn. Networks, augmentations and constants
are those of the recipes in configs/.
"""

import argparse
import functools
import io
import pathlib
import sys
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from sklearn.datasets import load_sample_image

import command_line
from command_line import expand
from configs.load import load
from errors import UserError, reported
from input_pipeline import digits, statistics
from models import filters, registry, summary
from models.receptive_fields import receptive_field
from train_lib import schedules
from train_lib.distributed import shell
from train_lib.pictures import (
    activation_curves,
    augmented,
    by_hand,
    dropout,
    evidence,
    filtered,
    lrn,
    network_drawing,
    network_sizes,
    pooling,
    weights,
)

OUTPUT = "build/lecture"
DOTS_PER_INCH = 110
# The lecture's example: an image of 6x6 pixels, two filters of 3x3, and the map of the first one.
IMAGE = ("100001", "010010", "001100", "100010", "010010", "001010")
FILTERS = {
    "diagonal": ((1, -1, -1), (-1, 1, -1), (-1, -1, 1)),
    "vertical": ((-1, 1, -1), (-1, 1, -1), (-1, 1, -1)),
}
DIAGONAL_MAP = ((3, -1, -3, -1), (-3, 1, 0, -3), (-3, -3, 0, 1), (3, -2, -2, -1))
# Maps at one position: one is strong.
RESPONSES = (30, 30, 60, 30, 30, 150, 30, 30, 60, 30, 30)


@functools.cache
def photograph(name: str) -> np.ndarray:
    """ "china" (a temple) or "flower": uint8 [427, 640, 3]."""
    return load_sample_image(f"{name}.jpg")


def module(name: str, channels: int = 3, **options) -> nn.Module:
    """The network of a config: "vgg:D". options: of its section `model`."""
    config = load(name)
    config.model.update(options)
    return registry.create(config.model, num_classes=10 if channels == 1 else 1000)


def description(name: str, pixels: int, channels: int = 3, **options) -> dict:
    """`summary.describe` of a config's network for square images."""
    return summary.describe(module(name, channels, **options), name, (pixels, pixels, channels))


def layers(name: str, pixels: int, channels: int = 3) -> Figure:
    """The layers of a config's network."""
    return network_drawing.draw_network(module(name, channels), (pixels, pixels, channels))


def image_filters() -> Figure:
    """Smoothing, edges and corners on a part of the temple."""
    grey = Image.fromarray(photograph("china")).convert("L")
    return filtered.filtered_figure(np.asarray(grey, np.float32)[60:190, 60:250] / 255)


def convolution_by_hand() -> Figure:
    """The lecture's image, its two filters, their maps, and max pooling."""
    image = np.array([[int(pixel) for pixel in row] for row in IMAGE])
    kernels = {f"{name} filter": np.array(kernel) for name, kernel in FILTERS.items()}
    return by_hand.convolution(image, kernels)


def perceptrons() -> Figure:
    """Twelve passes of Rosenblatt's rule."""
    return by_hand.perceptrons(passes=12)


def pooling_gradients() -> Figure:
    """Windows that do not overlap, as LeNet-5's."""
    return pooling.pooling_gradients(np.array(DIAGONAL_MAP), 2, 2)


def overlapping_pooling() -> Figure:
    """Windows of 3x3 at every pixel."""
    return pooling.pooling_gradients(np.array(DIAGONAL_MAP), 3, 1)


def lrn_gradient() -> Figure:
    """AlexNet's normalisation of RESPONSES, by the paper's formula."""
    return lrn.lrn_figure(np.array(RESPONSES))


def unit_inputs() -> np.ndarray:
    """Inputs of 24x36 units before their activation: a Gabor function on a photograph."""
    image = photograph("flower").mean(axis=-1)[100:316:9, 150:474:9] / 255
    kernel = filters.oriented_bank(5, angles=4)[..., 1:2]
    inputs = np.asarray(filters.convolve(image[None, ..., None], kernel, "reflect"))[0, ..., 0]
    return inputs / inputs.std()


def dropout_masks() -> Figure:
    """Five masks of dropout."""
    return dropout.dropout_masks(np.maximum(0, unit_inputs()), 0.5, seed=0, count=5)


def annealed_dropout() -> Figure:
    """A mask at five times of a training whose drop rate falls to zero."""
    config = load("mlp")
    config.schedule.drop_anneal_epochs = config.epochs
    scale = schedules.make_drop_scale(config.schedule, steps_per_epoch=100)
    scales = {
        f"{100 * share:g} % of training": float(scale(round(share * config.epochs * 100)))
        for share in (0.0, 0.25, 0.5, 0.75, 1.0)
    }
    return dropout.annealed_masks(np.maximum(0, unit_inputs()), 0.5, scales, seed=0)


def standout() -> Figure:
    """Standout's probabilities and masks, with the constants that configs have by default."""
    model = load("mlp").model
    alpha, beta = model.standout_alpha, model.standout_beta
    return dropout.standout_figure(unit_inputs(), alpha, beta, seed=0, count=4)


def alexnet_filters() -> Figure:
    """The 96 filters of both towers before training."""
    alexnet = module("alexnet")
    image = jnp.zeros((1, 224, 224, 3))
    params = jax.jit(alexnet.init)(jax.random.key(0), image)["params"]
    return weights.filters(params["conv1"]["kernel"], alexnet.towers)


def augmentation() -> Figure:
    """Rows of one photograph, each with a part of what AlexNet's or GoogLeNet's recipe does."""
    images = [photograph(name) for name in ("flower", "china")]
    colours = statistics.compute(images, len(images), "principal colours")

    def views(name: str, augment: dict, view: dict) -> np.ndarray:
        config = load(name)
        config.augment.update(augment)
        config.view.update(view)
        return augmented.training_views(config, images[0], 6, 0, colours)

    none = {"flip": False, "lighting": "none", "photometric": 0.0}
    colours_of_googlenet = {"photometric": load("googlenet").augment.photometric}
    cut, whole = {}, {"train": "center"}
    rows = {
        "AlexNet: random 224x224 pixels of the central 256x256, and flips": (
            *("alexnet", none | {"flip": True}, cut),
        ),
        "AlexNet: noise along the principal colours, as in the paper (eigenvalues)": (
            *("alexnet", none | {"lighting": "eigenvalues"}, whole),
        ),
        "the same, as in the author's code (deviations)": (
            *("alexnet", none | {"lighting": "deviations"}, whole),
        ),
        "GoogLeNet: 8 to 100 % of the area, aspect 3/4 to 4/3": ("googlenet", none, cut),
        "GoogLeNet: brightness, contrast and colour in random order": (
            *("googlenet", none | colours_of_googlenet, whole),
        ),
    }
    rows = {label: views(*options) for label, options in rows.items()}
    return augmented.rows_of_images(rows, "as in evaluation")


def small_augmentation() -> Figure:
    """LeNet-5's distortions of digits, and ResNet's crops of padded 32x32 images."""
    images, labels = digits.load("train")
    rows = {}
    for digit in (2, 5, 8):
        image = images[np.flatnonzero(labels == digit)[0]].reshape(digits.IMAGE_SHAPE)
        views = augmented.training_views(load("lenet5"), image, 10, digit)
        rows[f"LeNet-5, digits: {digit}"] = np.repeat(views, 3, axis=-1)
    config = load("resnet_cifar10")
    config.preprocess.mean = "none"
    small = photograph("flower")[13:413:13, 133:533:13][:31, :31]
    small = np.pad(small, ((0, 1), (0, 1), (0, 0)), "edge")
    rows["ResNet, CIFAR-10: padded by 4 pixels, random 32x32 pixels, flips"] = (
        augmented.training_views(config, small, 10, 0)
    )
    return augmented.rows_of_images(rows, "as in evaluation")


def ten_crops() -> Figure:
    """AlexNet's evaluation."""
    return augmented.ten_crops(photograph("flower"))


def many_crops() -> Figure:
    """The crops of VGG's and GoogLeNet's evaluations at one scale."""
    kinds = (("VGG's grid, S = 256", "grid", 256), ("GoogLeNet's squares, S = 256", "squares", 256))
    return augmented.many_crops(photograph("flower"), kinds)


def receptive_fields() -> Figure:
    """What units of VGG-16 see of a photograph: of the last layer before each pooling."""
    vgg = module("vgg:D")
    names = ("conv1_2", "conv2_2", "conv3_3", "conv4_3", "conv5_3")
    boxes = {name: receptive_field(vgg, (224, 224, 3), name) for name in names}
    return evidence.receptive_field_on(photograph("china")[101:325, 208:432], boxes)


def parameters() -> Figure:
    """The sizes of the networks for ImageNet."""
    networks = {"AlexNet": "alexnet", "VGG-16": "vgg:D", "VGG-19": "vgg:E"}
    networks |= {"GoogLeNet": "googlenet", "ResNet-34": "resnet:34", "ResNet-50": "resnet:50"}
    networks |= {"ResNet-152": "resnet:152"}
    return network_sizes.size_chart({k: description(v, 224) for k, v in networks.items()})


def bottleneck() -> Figure:
    """The weights of ResNet's blocks (He 2015, fig. 5)."""
    blocks = {
        "two 3x3, 256 maps\n(ResNet-34, conv4_2)": ("resnet:34", "conv4_2"),
        "1x1, 3x3, 1x1, 64 within 256 maps\n(ResNet-50, conv2_2)": ("resnet:50", "conv2_2"),
        "two 3x3, 64 maps\n(ResNet-34, conv2_2)": ("resnet:34", "conv2_2"),
    }
    return network_sizes.block_chart(
        {
            label: network_sizes.convolution_weights(description(name, 224), block)
            for label, (name, block) in blocks.items()
        }
    )


def connectivity_weights() -> dict[str, tuple[int, int]]:
    """Weights of the layer h1 for 200x200 pixels, and weights with biases, by connection."""

    def counts(connection: str) -> tuple[int, int]:
        options = {"connection": connection}
        layers = (
            description("connectivity", 200, 1, bias=bias, **options)["layers"][0]
            for bias in (False, True)
        )
        return tuple(layer["params"] for layer in layers)

    return {
        "full: each unit sees the image": counts("full"),
        "local: each unit sees 10x10 pixels": counts("local"),
        "shared: ten filters of 10x10": counts("shared"),
    }


def connectivity() -> Figure:
    """The weights of 400,000 units by their connections."""
    return network_sizes.connectivity_chart(connectivity_weights())


FIGURES: dict[str, Callable[[], Figure]] = {
    "image_filters": image_filters,
    "convolution_by_hand": convolution_by_hand,
    "perceptrons": perceptrons,
    "connectivity": connectivity,
    "lenet5_layers": functools.partial(layers, "lenet5", 32, 1),
    "pooling_gradients": pooling_gradients,
    "overlapping_pooling": overlapping_pooling,
    "lrn_gradient": lrn_gradient,
    "activation_functions": activation_curves.activation_functions,
    "stacked_sigmoids": activation_curves.stacked_sigmoids_figure,
    "dropout_masks": dropout_masks,
    "annealed_dropout": annealed_dropout,
    "standout": standout,
    "alexnet_layers": functools.partial(layers, "alexnet", 224),
    "alexnet_filters": alexnet_filters,
    "augmentation": augmentation,
    "small_augmentation": small_augmentation,
    "ten_crops": ten_crops,
    "many_crops": many_crops,
    "receptive_fields": receptive_fields,
    "googlenet_layers": functools.partial(layers, "googlenet", 224),
    "parameters": parameters,
    "bottleneck": bottleneck,
    "resnet_layers": functools.partial(layers, "resnet:34", 224),
}


def write(figure: Figure, path: pathlib.Path) -> None:
    """Writes a PNG file of 256 colours, which stays small. Raises UserError if it cannot."""
    rendered = io.BytesIO()
    figure.savefig(rendered, dpi=DOTS_PER_INCH, format="png", bbox_inches="tight")
    # Other methods lose the colours of thin lines on a photograph.
    method, dither = Image.Quantize.FASTOCTREE, Image.Dither.NONE
    picture = Image.open(rendered).convert("RGB").quantize(256, method, dither=dither)
    palette, background = picture.getpalette(), picture.getpixel((0, 0))
    palette[3 * background : 3 * background + 3] = (255, 255, 255)  # was almost white
    picture.putpalette(palette)
    with reported(f"cannot write {path}", "give another folder with --out", OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, optimize=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Draws figures. Returns the exit status, after one line on standard error if not 0."""
    parser = argparse.ArgumentParser(
        prog="python -m train_lib.pictures.lecture", description=__doc__.splitlines()[0]
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(FIGURES))
    parser.add_argument("--out", default=OUTPUT, help=f"folder (default: {OUTPUT})")
    arguments = parser.parse_args(argv)
    shell.silence_libraries()
    try:
        for name in arguments.names:
            if name not in FIGURES:
                raise UserError(f"no picture {name!r}: choose one of {', '.join(FIGURES)}")
        for name in arguments.names or FIGURES:
            path = expand(arguments.out) / f"{name}.png"
            write(FIGURES[name](), path)
            print(path, flush=True)
    except UserError as error:
        print(f"lecture: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    command_line.begin()
    with shell.errors_as_one_line():
        sys.exit(main())
