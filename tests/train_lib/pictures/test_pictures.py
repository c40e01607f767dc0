"""The values in the figures against values that are computed in another way."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from errors import UserError
from models import inspection
from models.alexnet import AlexNet
from models.googlenet import GoogLeNet
from models.lenet import LeNet5
from models.mlp import MLP
from models.resnet import CifarResNet
from train_lib import pictures
from train_lib.pictures import panels, run_plots

cross_entropy = optax.losses.softmax_cross_entropy_with_integer_labels


def drawn(figure, path):
    """Writes the figure, and returns the arrays of its images."""
    run_plots.save(figure, path / "a.png")
    assert (path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert Image.open(path / "a.png").mode == "RGB"  # opaque, on light and dark pages
    return [np.asarray(i.get_array()) for axis in figure.axes for i in axis.get_images()]


def mlp(activation, hidden, **options):
    module = MLP(hidden=hidden, num_classes=3, activation=activation, **options)
    images = jax.random.normal(jax.random.key(1), (6, 4, 4, 1))
    return module, module.init(jax.random.key(0), images), images, jnp.arange(6) % 3


def test_filters_of_two_towers_have_frames_of_two_colours(tmp_path):
    kernel = np.zeros((11, 11, 3, 96), np.float32)
    kernel[..., 0, 50] = 1.0  # a red filter of the second tower
    one, two = drawn(pictures.filters(kernel, towers=2), tmp_path)
    assert one.shape == two.shape == (3 * 12 + 1, 16 * 12 + 1, 3)
    np.testing.assert_allclose(one[1, 1], 0.5)  # zero is grey
    np.testing.assert_allclose(two[6, 2 * 12 + 6], (1, 0.5, 0.5))
    frames = [sheet[0, 0] for sheet in (one, two)]
    assert np.abs(frames[0] - frames[1]).max() > 0.3


def test_filters_have_a_title_and_a_scale():
    kernel = np.full((5, 5, 1, 6), -0.5, np.float32)
    kernel[2, 2, 0, 3] = 0.25
    figure = pictures.filters(kernel)
    assert figure.get_suptitle() == "6 filters of 5x5 pixels"
    bar = figure.axes[-1]
    assert bar.get_ylabel() == "weight"
    assert bar.get_ylim() == (-0.5, 0.5)


def test_filters_of_many_channels_are_drawn_in_rows(tmp_path):
    kernel = np.random.default_rng(0).normal(size=(5, 5, 48, 256)).astype(np.float32)
    figure = pictures.filters(kernel)
    (sheet,) = drawn(figure, tmp_path)
    shown, channels = 24, 24
    assert sheet.shape == (shown * 6 + 1, channels * 6 + 1, 3)
    assert figure.get_suptitle() == (
        "the first 24 of 256 filters; input channels 0 to 23 of 48, side by side"
    )
    limit = np.abs(kernel).max()
    tile = sheet[7 * 6 + 1 : 8 * 6, 9 * 6 + 1 : 10 * 6, 0]
    np.testing.assert_allclose(tile, kernel[:, :, 9, 7] / limit / 2 + 0.5, atol=1e-6)
    (grey,) = drawn(pictures.filters(kernel[:, :, :1, :7]), tmp_path)
    assert (grey[..., 0] == grey[..., 1]).all()
    with pytest.raises(UserError, match=r"a kernel \[5, 5, 48, 256\] in 3 towers"):
        pictures.filters(kernel, towers=3)


def test_first_kernel_of_a_dense_network():
    shapes = {"h10": (300, 3), "h2": (16, 300), "output": (3, 3)}
    params = {name: {"kernel": np.zeros(shape)} for name, shape in shapes.items()}
    params["h2"]["kernel"][5, 7] = 1
    assert pictures.first_kernel(params) is None
    kernel = pictures.first_kernel(params, (4, 4, 1))
    assert kernel.shape == (4, 4, 1, 300)
    assert kernel[1, 1, 0, 7] == 1
    assert AlexNet().towers == 2
    assert AlexNet(variant="one_tower").towers == 1


def test_feature_maps_are_drawn_in_order(tmp_path):
    maps = np.zeros((6, 5, 80), np.float32)
    maps[2, 3, 17] = 4.0
    figure = pictures.feature_maps(maps, "conv9")
    (sheet,) = drawn(figure, tmp_path)
    assert sheet.shape == (8 * 7 + 1, 8 * 6 + 1, 3)
    assert np.argwhere((sheet == 1).all(-1)).tolist() == [[2 * 7 + 1 + 2, 1 * 6 + 1 + 3]]
    assert figure.get_suptitle() == "conv9 (the first 64 of 80)\nblack 0, white 4"
    (units,) = drawn(pictures.feature_maps(np.arange(84.0)), tmp_path)
    assert units.shape == (7, 12, 3)


@pytest.mark.slow
def test_histograms_of_weights_and_activations(tmp_path):
    module, variables, images, _ = mlp("relu", (8,) * 10)
    figure = pictures.weight_histograms(variables)
    drawn(figure, tmp_path)
    titles = [axis.get_title() for axis in figure.axes if axis.get_title()]
    names = [title.split("\n")[0] for title in titles]
    assert names == [*(f"h{n}" for n in range(1, 11)), "output"]
    kernel = variables["params"]["h10"]["kernel"]
    assert titles[9] == f"h10\n{kernel.mean():.2g} ± {kernel.std():.2g}"
    heights = [patch.get_height() for patch in figure.axes[9].patches]
    assert sum(heights) == kernel.size
    activations = inspection.activations(module, variables, images)
    figure = pictures.activation_histograms(activations)
    drawn(figure, tmp_path)
    titles = [axis.get_title() for axis in figure.axes if axis.get_title()]
    assert len(titles) == 21
    assert f"{np.mean(activations['h3_relu'] == 0):.0%} are 0" in titles[5]
    many = {f"layer{i}": np.ones(3) for i in range(100)}
    figure = pictures.activation_histograms(many)
    assert figure.get_suptitle().endswith("(24 of 100 layers)")


def test_gradient_norms_by_hand():
    module, variables, images, labels = mlp("tanh", (5, 4))
    norms = pictures.gradient_norms(module, variables, images, labels, cross_entropy)

    def loss(kernels):
        x = images.reshape(6, -1)
        for name in ("h1", "h2"):
            x = jnp.tanh(x @ kernels[name] + variables["params"][name]["bias"])
        logits = x @ kernels["output"] + variables["params"]["output"]["bias"]
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(6), labels])

    kernels = {name: variables["params"][name]["kernel"] for name in ("h1", "h2", "output")}
    expected = {name: float(jnp.sqrt(jnp.sum(g**2))) for name, g in jax.grad(loss)(kernels).items()}
    assert list(norms) == ["h1", "h2", "output"]
    assert norms == pytest.approx(expected, rel=1e-4)


def test_the_gradient_of_sigmoids_vanishes(tmp_path):
    # The derivative of a sigmoid is at most 1/4: ten layers are a factor of at most 4^-10 times
    # that of the weights, which He's initialisation makes such that rectifiers keep the norm.
    norms = {}
    for activation in ("sigmoid", "relu"):
        module, variables, images, labels = mlp(activation, (64,) * 10, initializer="he")
        norms[activation] = pictures.gradient_norms(
            module, variables, images, labels, cross_entropy
        )
    sigmoid, relu = (list(norms[name].values()) for name in ("sigmoid", "relu"))
    assert list(norms["relu"]) == [*(f"h{n}" for n in range(1, 11)), "output"]
    assert relu[0] > 0.1 * relu[9]
    assert sigmoid[0] < 1e-3 * sigmoid[9]
    assert sigmoid[0] < 1e-3 * relu[0]
    figure = pictures.gradient_norm_curves(norms)
    drawn(figure, tmp_path)
    axis = figure.axes[0]
    assert axis.get_yscale() == "log"
    assert [line.get_label() for line in axis.get_lines()] == ["sigmoid", "relu"]
    np.testing.assert_allclose(axis.get_lines()[0].get_ydata(), sigmoid)


def test_norms_of_gradients_whose_squares_are_below_float32():
    module, variables, images, labels = mlp("tanh", (5, 4))

    def tiny(logits, labels):
        return 1e-30 * cross_entropy(logits, labels)

    norms = pictures.gradient_norms(module, variables, images, labels, cross_entropy)
    tiny_norms = pictures.gradient_norms(module, variables, images, labels, tiny)
    assert tiny_norms == pytest.approx({n: 1e-30 * v for n, v in norms.items()}, rel=1e-5, abs=0)


def test_gradient_norms_of_batch_norm_across_devices():
    images, labels = jax.random.normal(jax.random.key(1), (4, 8, 8, 3)), jnp.arange(4) % 2
    norms = []
    for batch_norm in ("per_device", "across_devices"):
        module = CifarResNet(num_classes=2, depth=8, batch_norm=batch_norm)
        variables = jax.jit(module.init)(jax.random.key(0), images)
        norms.append(pictures.gradient_norms(module, variables, images, labels, cross_entropy))
    assert norms[0] == norms[1]
    assert list(norms[0])[:3] == ["conv1", "conv2_1/conv1", "conv2_1/conv2"]
    assert min(norms[0].values()) > 0


def test_gradient_norms_leave_out_auxiliary_heads_and_layers_without_kernels():
    module = GoogLeNet(num_classes=2, normalisation="batch_norm")
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 96, 96, 3)))
    from models import graph

    calls, _ = graph.trace(module, shapes, jax.ShapeDtypeStruct((1, 96, 96, 3), jnp.float32))
    names = graph.layers_with_kernels(calls, shapes["params"])
    assert names[:3] == ["conv1", "conv2_reduce", "conv2"]
    assert names[-1] == "fc"
    assert len(names) == 3 + 9 * 6 + 1


def test_dead_units_are_0_for_every_image(tmp_path):
    module = LeNet5(activation="relu", c3="full", subsampling="max", output="softmax")
    images = jax.random.normal(jax.random.key(1), (3, 32, 32, 1))
    variables = module.init(jax.random.key(0), images)
    params = jax.tree.map(jnp.copy, variables["params"])
    params["c1"]["bias"] = params["c1"]["bias"].at[:2].set(-1e3)  # two maps of six
    params["f6"]["bias"] = params["f6"]["bias"].at[:21].set(-1e3)  # a quarter of 84
    params["c5"]["bias"] = params["c5"]["bias"] + 1e3  # none
    activations = inspection.activations(module, {"params": params}, images)
    shares = pictures.dead_units(activations)
    assert list(shares) == ["c1_relu", "c3_relu", "c5_relu", "f6_relu"]
    assert shares["c1_relu"] == pytest.approx(2 / 6)
    assert shares["c5_relu"] == 0
    assert 0.25 <= shares["f6_relu"] <= 0.99
    one_unit_fires = np.zeros((2, 4, 4, 5))
    one_unit_fires[1, 3, 0, 2] = 1e-3
    names = ("a_leaky_relu", "a_prelu", "a_tanh", "a_relu")  # the first three pass gradients
    crafted = dict.fromkeys(names, one_unit_fires)
    assert pictures.dead_units(crafted) == pytest.approx({"a_relu": 0.8})
    figure = pictures.dead_unit_bars(shares)
    drawn(figure, tmp_path)
    widths = [bar.get_width() for bar in figure.axes[0].patches]
    assert widths == pytest.approx([100 * share for share in shares.values()])


def test_occlusion_of_a_network_that_depends_on_one_pixel(tmp_path):
    batch_sizes = []

    def probability(images):
        batch_sizes.append(len(images))
        return images[:, 5, 7, 0] / 255

    image = np.full((12, 14, 1), 255, np.uint8)
    heat = pictures.occlusion(probability, image, window=4, stride=2, fill=0)
    # Cells of 2x2; the 4x4 square on cell (i, j) covers rows 2i - 1 .. 2i + 2.
    rows = [i for i in range(6) if 2 * i - 1 <= 5 <= 2 * i + 2]
    columns = [j for j in range(7) if 2 * j - 1 <= 7 <= 2 * j + 2]
    expected = np.ones((6, 7))
    expected[np.ix_(rows, columns)] = 0
    np.testing.assert_array_equal(heat, expected)
    assert set(batch_sizes) == {16}  # so it compiles once
    assert (image == 255).all()
    larger = pictures.occlusion(lambda images: 1 - probability(images), image, 5, 5, fill=51)
    assert larger.shape == (3, 3)
    assert larger[1, 1] == pytest.approx(0.8)
    assert len(drawn(pictures.heat_on(image, heat, "7"), tmp_path)) == 3
    with pytest.raises(UserError, match="window=0"):
        pictures.occlusion(probability, image, 0, 1, 0)


def test_a_map_is_transparent_where_its_value_is_neutral():
    image = np.zeros((4, 4, 3), np.uint8)
    heat = np.array([[0.9, 0.9], [0.1, 1.0]])
    figure = pictures.heat_on(image, heat, "a 7", "probability", neutral=0.9)
    _, below = figure.axes[1].get_images()
    assert below.get_alpha()[0].tolist() == [0, 0]
    assert below.get_alpha()[1, 0] > below.get_alpha()[1, 1] > 0
    red, _, blue, _ = below.cmap(below.norm(0.1))  # hiding it lowers the probability
    assert red > 2 * blue
    assert (below.norm(0.9), below.norm(0.1)) == pytest.approx((0.5, 0), abs=1e-6)
    assert figure.axes[2].get_ylabel() == "probability"
    assert figure.get_suptitle() == "a 7"
    # Also where all values are above: hiding these places raises the probability.
    _, above = pictures.heat_on(image, 0.1 + heat, neutral=0.2).axes[1].get_images()
    assert above.cmap.name == "RdBu"
    axis = pictures.heat_on(image, np.ones((2, 2)), cell=3).axes[1]
    assert axis.get_xlim() == (-0.5, 3.5) and axis.get_ylim() == (3.5, -0.5)
    _, cells = axis.get_images()
    assert cells.get_extent() == [-0.5, 5.5, 5.5, -0.5]  # the image ends at 3.5
    _, saliency = pictures.heat_on(image, heat).axes[1].get_images()
    assert saliency.norm(0) == 0 and saliency.norm(1) == 1


def test_saliency_against_finite_differences():
    module = MLP(hidden=(6,), num_classes=3, activation="tanh")
    image = jax.random.normal(jax.random.key(1), (3, 4, 2))
    variables = module.init(jax.random.key(0), image[None])
    saliency = pictures.saliency(module, variables, image, 2)

    def logit(x):
        with jax.enable_x64():
            return float(module.apply(variables, jnp.asarray(x, jnp.float64)[None])[0, 2])

    expected = np.zeros((3, 4, 2))
    for place in np.ndindex(3, 4, 2):
        step = np.zeros((3, 4, 2))
        step[place] = 0.05
        expected[place] = abs(logit(image + step) - logit(image - step)) / 0.1
    np.testing.assert_allclose(saliency, expected.max(axis=-1), rtol=0.02, atol=1e-4)
    np.testing.assert_array_equal(saliency, pictures.saliency(module, variables, image[None], 2))


def test_receptive_fields_are_drawn_at_their_places(tmp_path):
    figure = pictures.receptive_field_on(
        np.zeros((32, 32, 1), np.uint8), {"c1": (3, 4, 5, 6), "c5": (0, 0, 32, 32)}
    )
    drawn(figure, tmp_path)
    line = figure.axes[0].get_lines()[0]
    assert line.get_label() == "c1: 5x6"
    assert (min(line.get_xdata()), max(line.get_xdata())) == (3.5, 9.5)
    assert (min(line.get_ydata()), max(line.get_ydata())) == (2.5, 7.5)


def test_curves_of_several_runs(tmp_path):
    records = [
        {"step": i, "epoch": i / 2, "train/loss": 2.0 / i, "test/top1_error": 0.5 / i}
        for i in range(1, 5)
    ]
    figure = pictures.curves({"plain-20": records, "$ResNet_20": records[:2], "empty": []})
    drawn(figure, tmp_path)
    errors, losses = figure.axes
    lines = errors.get_lines()
    assert [line.get_label() for line in lines] == ["plain-20 test", "$ResNet_20 test"]
    np.testing.assert_allclose(lines[0].get_ydata(), [50, 25, 50 / 3, 12.5])
    np.testing.assert_allclose(lines[0].get_xdata(), [0.5, 1, 1.5, 2])
    assert [line.get_linestyle() for line in (lines[0], losses.get_lines()[0])] == ["-", "--"]
    assert lines[0].get_color() != lines[1].get_color()
    single = run_plots.curves({"": records})
    assert [line.get_label() for line in single.axes[0].get_lines()] == ["test"]


def test_connections_of_c3(tmp_path):
    figure = pictures.c3_table()
    (table,) = drawn(figure, tmp_path)
    assert table.shape == (6, 16)
    # LeCun 1998: six maps of three, nine of four, one of all; 60 in all, and table I's last rows.
    assert table.sum(0).tolist() == [3] * 6 + [4] * 9 + [6]
    assert table.sum(1).tolist() == [10] * 6
    assert np.flatnonzero(table[5]).tolist() == [3, 4, 5, 8, 9, 10, 11, 13, 14, 15]
    assert len([text for text in figure.axes[0].texts if text.get_text() == "X"]) == 60


def test_codes_and_outputs_of_f6(tmp_path):
    assert len(drawn(pictures.rbf_codes(), tmp_path)) == 10
    from models.lenet import rbf_codes

    codes = rbf_codes().astype(np.float32)
    f6 = np.stack([codes[3], 0.5 * codes[7], -codes[1]])
    figure = pictures.rbf_codes(f6, labels=[3, 7, 1])
    images = drawn(figure, tmp_path)
    assert len(images) == 10 + 2 * 3
    titles = [axis.get_title() for axis in figure.axes]
    assert titles[20] == "code 3: 0.0"
    assert titles[21] == "code 7: 21.0"  # 84 times 0.25
    assert titles[22].startswith("code 1: 336.0\nnearest ")
    np.testing.assert_array_equal(images[10], codes[3].reshape(12, 7))
    assert [axis.get_title() for axis in pictures.rbf_codes(f6).axes][20] == "code 3: 0.0"


def test_dropout_masks_drop_the_given_share(tmp_path):
    figure = pictures.dropout_masks(np.linspace(0, 1, 900), 0.3, seed=0, count=4)
    whole, *masked = drawn(figure, tmp_path)
    red = [(image[..., 0] > image[..., 1] + 0.3) for image in masked]
    assert len(red) == 4
    for mask in red:
        assert 0.22 < mask.mean() < 0.38
    assert (red[0] != red[1]).any()
    np.testing.assert_array_equal(masked[0][~red[0]], whole[~red[0]])
    title = figure.axes[1].get_title()
    assert title == f"mask 1: {900 - red[0].sum()} kept"


class Linear(nn.Module):
    """Dropout before a linear layer: the mean logits over all masks are those of the evaluation."""

    @nn.compact
    def __call__(self, x, train=False):
        from models import layers

        return nn.Dense(4)(layers.Dropout(0.5, "train")(x, train))


def test_the_mean_over_dropout_masks_converges_to_the_evaluation(tmp_path):
    module, x = Linear(), jax.random.normal(jax.random.key(1), (8, 20))
    variables = module.init(jax.random.key(0), x)
    distances = pictures.dropout_average(module, variables, x, (1, 16, 1024), seed=0)
    assert distances["counts"] == [1, 16, 1024]
    one, some, many = distances["geometric"]
    assert one == pytest.approx(distances["arithmetic"][0], rel=1e-3)
    # The error of a mean falls with the root of the number: 4 and 32 times.
    assert 2 < one / some < 8
    assert 16 < one / many < 64
    # The arithmetic mean has another limit: the mean of the softmax over all masks.
    assert distances["arithmetic"][2] > 3 * many
    # The same from the mean over 4,096 masks that are drawn here.
    masks = jax.random.bernoulli(jax.random.key(5), 0.5, (4096, *x.shape))
    dense = variables["params"]["Dense_0"]
    logits = (2 * masks * x) @ dense["kernel"] + dense["bias"]
    test = jax.nn.softmax(x @ dense["kernel"] + dense["bias"])
    arithmetic = jnp.abs(jax.nn.softmax(logits).mean(0) - test).sum(-1).mean() / 2
    assert distances["arithmetic"][2] == pytest.approx(float(arithmetic), rel=0.15)
    figure = pictures.dropout_average_curve(distances)
    drawn(figure, tmp_path)
    assert len(figure.axes[0].get_lines()) == 3


@pytest.mark.parametrize("regulariser", ["dropconnect", "standout"])
def test_dropout_average_of_dropconnect_standout_and_no_regulariser(regulariser):
    module, variables, images, _ = mlp("relu", (16,), regulariser=regulariser)
    distances = pictures.dropout_average(module, variables, images, (1, 64), seed=0)
    assert distances["geometric"][0] > 1.5 * distances["geometric"][1] > 0
    module, variables, images, _ = mlp("relu", (16,))
    with pytest.raises(UserError, match="the network drops nothing"):
        pictures.dropout_average(module, variables, images, (1,), seed=0)


def test_the_gradient_of_max_pooling_goes_to_the_maxima(tmp_path):
    x = np.array([[1, 2, 0, 0], [3, 1, 0, 5], [0, 7, 7, 0], [7, 0, 0, 0]], np.float32)
    pooled, gradient = pictures.pool_routes(x, 2, 2)
    np.testing.assert_array_equal(pooled, [[3, 5], [7, 7]])
    # Of two 7s in a window, the upper one receives the gradient.
    expected = [[0, 0, 0, 0], [1, 0, 0, 1], [0, 1, 1, 0], [0, 0, 0, 0]]
    np.testing.assert_array_equal(gradient, expected)
    # Overlapping 3x3 of stride 1: the first 7, (2, 1), wins all four windows.
    pooled, gradient = pictures.pool_routes(x, 3, 1)
    np.testing.assert_array_equal(pooled, [[7, 7], [7, 7]])
    assert gradient[2, 1] == gradient.sum() == 4
    assert len(drawn(pictures.max_pool_routing(x, 3, 1), tmp_path)) == 3


def test_natural_order_and_evenly_spaced_names():
    assert panels.natural_order(["h10", "h2", "fc", "h1"]) == ["fc", "h1", "h2", "h10"]
    assert panels.evenly_spaced(list("abcdefghij"), 4) == ["a", "d", "g", "j"]
    assert panels.evenly_spaced(list("abc"), 4) == ["a", "b", "c"]
