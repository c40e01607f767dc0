"""Tests of every registered model, and of its variants."""

import contextlib
import functools
import itertools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import slow_where
from jax.interpreters import partial_eval
from ml_collections import ConfigDict

from configs.schema import base, choices
from errors import UserError
from models import layers, registry
from tests.models import random_weights
from train_lib.optimizers import make_optimizer

GRAY, TINY, MIDDLE, LARGE = (32, 32, 1), (8, 8, 3), (64, 64, 3), (224, 224, 3)
SMALL = (8, 8, 1)
SIDES = (8, 16, 32, 96, 224, 227)

# Run in numbers: every model as it is by default, and these variants.
RUN = [
    *((name, {}) for name in registry.MODELS),
    ("lenet5", {"subsampling": "max", "output": "softmax", "c3": "full"}),
    ("mlp", {"hidden": ()}),
    ("mlp", {"hidden": (30, 20), "input_drop_rate": 0.2}),
    ("connectivity", {"connection": "full"}),
    ("connectivity", {"connection": "shared", "bias": False}),
    ("resnet", {"depth": 50, "stride": "v1.5"}),
    *(("cuda_convnet", {"variant": variant}) for variant in ("26pct", "13pct", "11pct")),
    *(("maxout", {"variant": variant}) for variant in ("mnist_conv", "cifar10")),
]
# Traced only: each other value of each option of one model, and these variants. The shared options
# and those of LRN and pooling have tests of their own, BatchNorm across devices needs devices, and
# the padding of shortcuts needs shortcut A.
# Of many depths the first three: deeper networks repeat the same blocks, and take long.
TESTED_ELSEWHERE = {"lrn", "pooling", "batch_norm", "initializer", "shortcut_padding"}
TRACED = [
    *(
        (name, {option: value})
        for name, model in registry.MODELS.items()
        for option, rule in registry.options(name).items()
        if not hasattr(layers.Net, option) and option not in TESTED_ELSEWHERE
        for value in rule.choices
        if value != getattr(model, option) and (option != "depth" or value in rule.choices[:3])
        if (name, {option: value}) not in RUN
    ),
    *(("alexnet", {"variant": "one_tower", "lrn": lrn}) for lrn in ("none", "caffe")),
    ("alexnet", {"image_size": 227, "lrn": "cuda_convnet", "lrn_over": "tower"}),
    ("alexnet", {"pooling": "non_overlapping", "bias_start": 0.1}),
    ("alexnet", {"image_size": 32, "width": 0.1}),
    ("vgg", {"variant": "A", "width": 2.0}),
    ("googlenet", {"stem": "small", "width": 0.1}),
    ("googlenet", {"auxiliary_heads": False, "lrn": "caffe"}),
    ("googlenet", {"normalisation": "batch_norm", "auxiliary_heads": False}),
    *(("resnet", {"depth": 18, "shortcut": shortcut}) for shortcut in ("A", "C", "none")),
    ("resnet", {"depth": 50, "shortcut": "A", "shortcut_padding": "both_sides"}),
    ("resnet_cifar10", {"shortcut_padding": "both_sides"}),
    ("resnet", {"depth": 101}),
    ("resnet_cifar10", {"depth": 56, "zero_gamma": True}),
]


def label(case):
    return "-".join([case[0], *map(str, case[1].values())])


LARGE_VARIANTS = ("cifar10", "13pct", "11pct")


def is_large(case):
    name, options = case
    large = name in ("alexnet", "vgg", "googlenet", "resnet")
    return large or options.get("variant") in LARGE_VARIANTS


def is_deep(case):
    return case[0] in ("googlenet", "resnet", "resnet_cifar10")


run = pytest.mark.parametrize("case", slow_where(is_large, RUN), ids=label)
every = pytest.mark.parametrize("case", [*RUN, *TRACED], ids=label)


def create(name, classes=10, dtype="float32", **options):
    return registry.create({"name": name, "dtype": dtype, **options}, classes)


def smallest(name, **options):
    """(module, shape of an image) of the smallest of `SIDES` that a model takes."""
    size = {k: v for k, v in options.items() if k not in ("dtype", "initializer", "regulariser")}
    side, size = smallest_side(name, **size)
    return create(name, **options, **size), (side, side, 3)


@functools.cache
def smallest_side(name, **options):
    """(side, options of the model for this side)."""
    sizes = [{}, *({"image_size": side} for side in SIDES if "image_size" not in options)]
    for side, size in itertools.product(SIDES, sizes):
        with contextlib.suppress(ValueError, UserError):
            module = create(name, **options, **size)
            abstract(module, (side, side, 3), 1)
            return side, size
    raise AssertionError(f"{name} takes no image with a side of {SIDES}")


def has_batch_norm(module):
    normalisation = getattr(module, "normalisation", "batch_norm")
    return hasattr(module, "batch_norm") and normalisation == "batch_norm"


def draw(module, images):
    """(parameters, other variables) of a module."""
    variables = module.init(jax.random.key(0), images)
    return variables.pop("params"), variables


def train(module, params, rest, images, seed=1):
    """Logits, sown logits of the auxiliary heads, new statistics and sown objectives."""
    logits, state = module.apply(
        {"params": params, **rest},
        images,
        train=True,
        rngs={"dropout": jax.random.key(seed)},
        mutable=[*rest, "auxiliary", "objectives"],
    )
    return logits, jax.tree.leaves(state.pop("auxiliary", {})), state


def loss(module, params, rest, images, seed=1):
    """Softmax cross-entropy of all heads in training, with objectives; the result of `train`."""
    logits, heads, state = train(module, params, rest, images, seed)
    objectives = [objective.mean() for objective in jax.tree.leaves(state.pop("objectives", {}))]
    labels = jnp.arange(len(logits)) % logits.shape[-1]
    losses = [
        optax.softmax_cross_entropy_with_integer_labels(head, labels).mean()
        for head in (logits, *heads)
    ]
    return sum(losses + objectives), (logits, heads, state)


# These functions run once or twice. Not at level 0, where XLA computes a maximum and its argument
# separately: maxout's gradient is then NaN where they differ in the last bit.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 1})


def check_gradient(gradient):
    for path, leaf in jax.tree.leaves_with_path(gradient):
        assert np.isfinite(leaf).all(), path
        assert np.abs(leaf).max() > 0, path


def test_the_cases_have_every_model():
    assert {case[0] for case in RUN} == set(registry.MODELS)


@run
def test_training_and_evaluation(case):
    name, options = case
    # `he`: some networks' own initial weights are so small that a gradient vanishes in float32.
    module, shape = smallest(name, regulariser="dropout", initializer="he", **options)
    batch, classes = 8 if shape[0] < 96 else 2, 10
    images = np.random.default_rng(0).normal(size=(batch, *shape)).astype(np.float32)

    start = random_weights.variables(module, shape)
    params, rest = start.pop("params"), start

    @jit
    def trained(params, rest, images, seed):
        gradient, (logits, heads, state) = jax.grad(
            lambda params: loss(module, params, rest, images, seed), has_aux=True
        )(params)
        # NaN and infinity survive the maximum.
        return jax.tree.map(lambda leaf: jnp.abs(leaf).max(), gradient), logits, heads, state

    @jit
    def evaluated_with(params, rest, images, seed):
        rngs, variables = {"dropout": jax.random.key(seed)}, {"params": params, **rest}
        return module.apply(variables, images, rngs=rngs, mutable=["batch_stats"])

    def with_two_seeds(function):
        return jax.tree.map(
            lambda *two: np.stack(two), *(function(params, rest, images, seed) for seed in (0, 1))
        )

    gradient, logits, heads, state = with_two_seeds(trained)
    evaluated, unmoved = with_two_seeds(evaluated_with)
    for actual in (logits, *heads, evaluated):
        assert actual.shape == (2, batch, classes)
        assert actual.dtype == jnp.float32
        assert np.isfinite(actual).all()
    check_gradient(gradient)
    assert len(heads) == (2 if getattr(module, "auxiliary_heads", False) else 0)

    # Dropout by the key in training, not at all in evaluation. The linear classifier has none.
    assert (np.abs(logits[0] - logits[1]).max() > 0) == (getattr(module, "hidden", None) != ())
    np.testing.assert_array_equal(evaluated[0], evaluated[1])

    # Statistics: from 0 and 1 towards the batch's in training, fixed in evaluation.
    assert bool(jax.tree.leaves(rest)) == has_batch_norm(module)
    for path, start in jax.tree.leaves_with_path(rest):
        expected = {"mean": 0.0, "var": 1.0}[path[-1].key]
        np.testing.assert_array_equal(start, np.full_like(start, expected))
    moved = jax.tree.map(lambda a, b: np.abs(a - b[0]).max(), rest, state)
    assert all(change > 0 for change in jax.tree.leaves(moved)), moved
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[0]), dict(rest), dict(unmoved))


def abstract(module, shape, batch):
    images = jax.ShapeDtypeStruct((batch, *shape), jnp.float32)
    return images, jax.eval_shape(lambda x: draw(module, x), images)


@pytest.mark.parametrize("case", slow_where(is_deep, TRACED), ids=label)
def test_every_parameter_of_the_other_variants_is_used(case):
    name, options = case
    module, shape = smallest(name, regulariser="dropout", **options)
    images, (params, rest) = abstract(module, shape, 2)
    logits = jax.eval_shape(module.apply, {"params": params, **rest}, images)
    assert (logits.shape, logits.dtype) == ((2, 10), jnp.float32)

    gradient, _ = jax.eval_shape(
        jax.grad(lambda p, r, x: loss(module, p, r, x), has_aux=True), params, rest, images
    )
    assert jax.tree.map(jnp.shape, gradient) == jax.tree.map(jnp.shape, params)
    traced = jax.make_jaxpr(lambda p: loss(module, p, zeros(rest), zeros(images))[0])(params)
    _, used = partial_eval.dce_jaxpr(traced.jaxpr, [True])
    for (path, _), reaches in zip(jax.tree.leaves_with_path(params), used, strict=True):
        assert reaches, path


def zeros(tree):
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), tree)


@every
def test_bfloat16_is_for_the_computation_only(case):
    name, options = case
    module, shape = smallest(name, dtype="bfloat16", regulariser="dropout", **options)
    images, (params, rest) = abstract(module, shape, 2)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((params, rest)))
    logits, state = jax.eval_shape(
        lambda p, r, x: module.apply(
            {"params": p, **r},
            x,
            train=True,
            rngs={"dropout": jax.random.key(0)},
            capture_intermediates=True,
            mutable=True,
        ),
        params,
        rest,
        images,
    )
    assert logits.dtype == jnp.float32
    seen = jax.tree.leaves_with_path(state.pop("intermediates"))
    heads = state.pop("auxiliary", {})
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((state, heads)))
    assert len(seen) > 1
    for path, leaf in seen:
        module_path = [part.key for part in path if hasattr(part, "key")]
        # Logits are float32: the net's own, LeNet's RBF's, an auxiliary head's; so are images.
        ends = ["__call__"], ["aux1", "__call__"], ["aux2", "__call__"]
        rbf = getattr(module, "output", "") == "rbf" and module_path == ["output", "__call__"]
        on_image = module_path[0] in ("h0_dropout", "input_dropout")
        linear = options.get("hidden") == ()
        expected = jnp.bfloat16
        if module_path in ends or rbf or on_image or (linear and "dropout" in module_path[0]):
            expected = jnp.float32
        assert leaf.dtype == expected, module_path


# Activations and regularisers.

PAIRS = [(a, r) for a in layers.ACTIVATIONS for r in choices("model.regulariser")]
# Each activation once and each regulariser twice.
SOME = [(a, choices("model.regulariser")[i % 4]) for i, a in enumerate(layers.ACTIVATIONS)]
# Variants with fewer layers, or with more kinds of them, than the default.
FORMS = {
    "vgg": {"variant": "A"},
    "resnet": {"depth": 18},
    "cuda_convnet": {"variant": "26pct"},
    "maxout": {"variant": "mnist_conv"},
}
# Where activations and regularisers hardly meet: only the classifier has a regulariser.
HARDLY = tuple(n for n in registry.MODELS if "batch_norm" in registry.options(n))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", slow_where(lambda name: is_large((name, {})) or name in HARDLY, registry.MODELS)
)
def test_every_activation_and_regulariser_in_every_model(name):
    small, shape = smallest(name, **FORMS.get(name, {}))
    for activation, regulariser in SOME if name in HARDLY else PAIRS:
        module = small.clone(activation=activation, regulariser=regulariser)
        images, (params, rest) = abstract(module, shape, 2)
        gradient, (logits, _, _) = jax.eval_shape(
            jax.grad(lambda p, r, x, m=module: loss(m, p, r, x), has_aux=True),
            params,
            rest,
            images,
        )
        assert (logits.shape, logits.dtype) == ((2, 10), jnp.float32)
        assert jax.tree.map(jnp.shape, gradient) == jax.tree.map(jnp.shape, params)
        slopes = [k for k, _ in jax.tree.leaves_with_path(params) if k[-1].key == "slope"]
        assert bool(slopes) == activation.startswith("prelu")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "shape", "pairs"),
    [
        ("mlp", {"hidden": (30, 20)}, SMALL, SOME),
        # Each regulariser once.
        ("cuda_convnet", {"variant": "18pct"}, TINY, [SOME[i] for i in (2, 4, 5, 7)]),
    ],
)
def test_every_activation_and_regulariser_in_numbers(name, options, shape, pairs):
    images = np.random.default_rng(3).normal(size=(8, *shape)).astype(np.float32)
    for activation, regulariser in pairs:
        module = create(name, activation=activation, regulariser=regulariser, **options)

        variables = random_weights.variables(module, shape)

        @jit
        def both(variables, images, module=module):
            rest = {name: value for name, value in variables.items() if name != "params"}
            gradient, (logits, _, _) = jax.grad(
                lambda params: loss(module, params, rest, images), has_aux=True
            )(variables["params"])
            return gradient, logits, module.apply(variables, images)

        gradient, logits, evaluated = both(variables, images)
        assert np.isfinite(logits).all()
        assert np.isfinite(evaluated).all()
        check_gradient(gradient)


# PReLU's slopes (He 2015, "Delving Deep", sec. 2.1).


@pytest.mark.parametrize("regulariser", choices("model.regulariser"))
@pytest.mark.parametrize(
    ("name", "options", "shape", "widths"),
    [
        # Units of each layer that has an activation: all but the last.
        ("alexnet", {}, LARGE, [96, 256, 384, 384, 256, 4096, 4096]),
        ("vgg", {"variant": "A"}, LARGE, [64, 128, 256, 256, 512, 512, 512, 512, 4096, 4096]),
        ("resnet_cifar10", {}, TINY, [16] * 7 + [32] * 6 + [64] * 6),
        ("lenet5", {}, GRAY, [6, 6, 16, 16, 120, 84]),
    ],
)
def test_slopes_of_prelu(name, options, shape, widths, regulariser):
    for activation, expected in (
        ("prelu", [(width,) for width in widths]),
        ("prelu_shared", [()] * len(widths)),
    ):
        module = create(name, activation=activation, regulariser=regulariser, **options)
        _, (params, _) = abstract(module, shape, 1)
        leaves = jax.tree.leaves_with_path(params)
        actual = [leaf.shape for path, leaf in leaves if path[-1].key == "slope"]
        assert sorted(actual) == sorted(expected)


@pytest.mark.parametrize("decayed", [pytest.param("kernels", marks=pytest.mark.slow), "all"])
def test_slopes_start_at_a_quarter_and_do_not_decay(decayed):
    module = create("mlp", activation="prelu", hidden=(5, 4), regulariser="dropconnect")
    params, _ = draw(module, np.ones((1, *SMALL), np.float32))
    params = jax.tree.map(lambda leaf: leaf + 0.5 * (leaf == 0), params)  # biases of 0.5
    section = base().optimizer
    section.update(weight_decay=0.125, decayed=decayed, momentum=0.0)
    optimizer = make_optimizer(section, optax.constant_schedule(1.0))
    updates, _ = optimizer.update(zeros(params), optimizer.init(params), params)
    after = optax.apply_updates(params, updates)
    for layer in ("h1", "h2"):
        np.testing.assert_array_equal(after[layer]["slope"], 0.25)
    for layer in ("h1", "h2", "output"):
        before = params[layer]["kernel"]
        np.testing.assert_allclose(after[layer]["kernel"], 0.875 * before, rtol=1e-6)
        bias = 0.4375 if decayed == "all" else 0.5
        np.testing.assert_allclose(after[layer]["bias"], bias)


def test_blocks_with_gamma_zero_start_as_identities():
    # Goyal 2017: every block adds nothing at the start, so that its input goes through.
    module = create("resnet_cifar10", zero_gamma=True)
    images = np.random.default_rng(5).normal(size=(2, *TINY)).astype(np.float32)
    params, rest = draw(module, images)
    _, state = module.apply({"params": params, **rest}, images, capture_intermediates=True)
    seen = {k: v["__call__"][0] for k, v in state["intermediates"].items() if k != "__call__"}
    first = jax.nn.relu(seen["bn1"])
    np.testing.assert_array_equal(seen["conv2_3"], first)
    np.testing.assert_array_equal(seen["conv3_3"][..., :16], first[:, ::2, ::2])
    np.testing.assert_array_equal(seen["conv4_3"][..., :16], first[:, ::4, ::4])
    np.testing.assert_array_equal(seen["conv4_3"][..., 16:], 0)


# Refusals.


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("alexnett", {}, "model.name=alexnett: did you mean alexnet? choose one of lenet5, mlp"),
        (
            "inception",
            {},
            "choose one of lenet5, mlp, connectivity, filter_bank, alexnet, vgg, googlenet",
        ),
        ("vgg", {"dtype": "float16"}, "did you mean bfloat16? choose one of float32, bfloat16"),
        ("vgg", {"variant": "F"}, "variant=F: choose one of A, A-LRN, B, C, D, E, B-5x5"),
        ("vgg", {"depth": 16}, "model.depth is not an option of vgg: it has activation, drop_rate"),
        ("mlp", {"batch_norm": "per_device"}, "model.batch_norm is not an option of mlp"),
        ("lenet5", {"lrn_over": "tower"}, "model.lrn_over is not an option of lenet5"),
        ("resnet", {"lrn": "paper"}, "model.lrn is not an option of resnet"),
        ("mlp", {"hidden": (300, 0)}, "must be a tuple of whole numbers, such as (300, 100)"),
        ("mlp", {"hidden": 300}, "must be a tuple of whole numbers, such as (300, 100)"),
        ("resnet", {"depth": 20}, "choose one of 18, 34, 50, 101, 152"),
        ("resnet", {"stride": "v2"}, "choose one of v1, v1.5"),
        ("resnet", {"shortcut": "D"}, "model.shortcut=D: choose one of A, B, C, none"),
        ("resnet", {"batch_norm": "global"}, "choose one of per_device, across_devices"),
        ("resnet_cifar10", {"depth": 50}, "choose one of 20, 32, 44, 56, 110, 1202"),
        ("alexnet", {"image_size": 256}, "model.image_size=256: choose one of 224, 227"),
        ("vgg", {"width": 0.0}, "model.width=0.0: must be more than 0 and at most 4"),
        ("googlenet", {"width": 4.5}, "model.width=4.5: must be more than 0 and at most 4"),
        ("resnet", {"width": 0.5}, "model.width is not an option of resnet"),
        ("vgg", {"image_size": 100}, "model.image_size=100: must be a multiple of 32"),
        ("googlenet", {"auxiliary_heads": "yes"}, "auxiliary_heads=yes: choose one of False, True"),
        ("alexnet", {"lrn": "torch"}, "choose one of published, none, paper, cuda_convnet"),
        ("alexnet", {"activation": "gelu"}, "leaky_relu, prelu, prelu_shared, maxout"),
        ("alexnet", {"regulariser": "drop"}, "choose one of none, dropout, dropconnect, standout"),
        ("alexnet", {"drop_rate": 1.0}, "model.drop_rate=1.0: must be at least 0 and less than 1"),
        ("alexnet", {"drop_rate": True}, "must be at least 0 and less than 1"),
        ("alexnet", {"maxout_pieces": 0}, "must be a whole number from 2 to 1,000"),
        ("maxout", {"maxout_pieces": 1}, "must be 0 (as published) or at least 2"),
        ("mlp", {"initializer": "paper"}, "he_fan_out, glorot, lecun1998, xavier_fan_in"),
        ("mlp", {"initializer_scale": 0.0}, "must be more than 0 and less than 1,000,000"),
        ("mlp", {"initializer_scale": float("nan")}, "must be more than 0 and less than 1,000,000"),
        ("mlp", {"dropconnect_samples": 0}, "must be a whole number from 1 to 1,000,000"),
        ("connectivity", {"window": 2.5}, "must be a whole number from 1 to 1,000,000"),
    ],
)
def test_wrong_sections_are_refused(name, options, message):
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        registry.create({"name": name, "dtype": "float32", **options}, 10)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options", "shape", "message"),
    [
        ("alexnet", {}, (223, 224, 3), "too small: it is 223x224, and the network takes 224x224"),
        ("alexnet", {}, (256, 256, 3), "256x256, and the network takes 224x224"),
        ("alexnet", {"image_size": 227}, LARGE, "too small: it is 224x224, .* takes 227x227"),
        ("alexnet", {}, (200, 400, 3), "the image is too small: it is 200x400"),
        ("vgg", {}, (32, 32, 3), "the image is too small: it is 32x32, .* takes 224x224"),
        ("vgg", {}, (224, 256, 3), "clone\\(class_map=True\\)"),
        ("googlenet", {}, (78, 78, 3), "set model.auxiliary_heads=False"),
        ("googlenet", {"stem": "small"}, (19, 19, 3), "20x20 with model.stem=small"),
        ("vgg", {"image_size": 64}, LARGE, "224x224, and the network takes 64x64"),
        (
            "googlenet",
            {"auxiliary_heads": False},
            (16, 16, 3),
            "too small: a map of 1x1 is smaller",
        ),
        ("cuda_convnet", {}, (2, 2, 3), "the image is too small: a map of 1x1 is smaller"),
        ("lenet5", {}, (28, 28, 1), "LeNet-5 takes 32x32 images, not 28x28"),
        (
            "alexnet",
            {"variant": "one_tower", "lrn_over": "tower"},
            LARGE,
            "set model.lrn_over=all_maps",
        ),
        (
            "alexnet",
            {"lrn": "none", "lrn_over": "tower"},
            LARGE,
            "has no effect with model.lrn=none",
        ),
        (
            "maxout",
            {"pooling": "average"},
            SMALL,
            "mnist_dense has no pooling: set model.pooling=published",
        ),
        (
            "resnet",
            {"depth": 34, "stride": "v1.5"},
            MIDDLE,
            "has no bottleneck blocks: set model.stride=v1",
        ),
        ("resnet", {"shortcut": "none", "zero_gamma": True}, MIDDLE, "choose .* of A, B, C"),
        ("resnet_cifar10", {"shortcut": "none", "zero_gamma": True}, TINY, "of A, B, C"),
        ("resnet", {"shortcut_padding": "both_sides"}, MIDDLE, "only shortcut A is padded"),
    ],
)
def test_networks_and_images_that_do_not_fit_are_refused(name, options, shape, message):
    images = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    module = create(name, **options)
    with pytest.raises((UserError, ValueError), match=message):
        jax.eval_shape(lambda x: module.init(jax.random.key(0), x), images)


def test_maxout_refuses_images_too_small():
    for name, options, shape in (
        ("maxout", {"variant": "mnist_conv"}, (6, 6, 1)),
        ("maxout", {"variant": "cifar10"}, (2, 2, 3)),
    ):
        module = create(name, **options)
        images = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
        with pytest.raises(ValueError, match="too small"):
            jax.eval_shape(lambda x, m=module: m.init(jax.random.key(0), x), images)


def test_dropconnect_trains_at_the_native_size_only():
    module = create("alexnet", regulariser="dropconnect").clone(class_map=True)
    images, (params, rest) = abstract(module, (256, 256, 3), 1)
    assert jax.eval_shape(module.apply, {"params": params}, images).shape == (1, 2, 2, 10)
    with pytest.raises(ValueError, match="fc6 trains with DropConnect at its native size only"):
        jax.eval_shape(lambda p, x: train(module, p, rest, x), params, images)


@pytest.mark.parametrize("name", registry.MODELS)
def test_options_lrn_and_pooling_in_every_model_that_has_them(name):
    small, shape = smallest(name, **FORMS.get(name, {}))
    if name == "lenet5":
        small = small.clone(subsampling="max")
    images = jax.ShapeDtypeStruct((1, *shape), jnp.float32)

    def layers_of(**more):
        actual = []

        def record(call, args, kwargs, context):
            if context.method_name == "__call__":
                actual.append(context.module)
            return call(*args, **kwargs)

        module = small.clone(**more)
        with nn.intercept_methods(record):
            logits = jax.eval_shape(
                lambda x: module.init_with_output(jax.random.key(0), x)[0], images
            )
        assert logits.shape == (1, 10)
        norms = [type(m) for m in actual if "ResponseNorm" in type(m).__name__]
        pools = [(m.kind, m.window, m.stride) for m in actual if isinstance(m, layers.Pool)]
        return norms, pools

    allowed = registry.options(name)
    published_norms, published = layers_of()
    assert not published_norms or "lrn" in allowed
    for lrn in allowed["lrn"].choices if "lrn" in allowed else ():
        norms, _ = layers_of(lrn=lrn)
        kind = {"within_map": layers.LocalResponseNormWithinMap}.get(lrn, layers.LocalResponseNorm)
        if lrn == "published":
            assert norms == published_norms
        elif lrn == "none":
            assert norms == []
        else:
            assert set(norms) == {kind} and len(norms) >= len(published_norms)
    assert bool(published) == ("pooling" in allowed)
    for pooling in allowed["pooling"].choices if "pooling" in allowed else ():
        _, pools = layers_of(pooling=pooling)
        # The auxiliary heads' average pooling is theirs.
        changed = [p for p, q in zip(pools, published, strict=True) if q != ("average", 5, 3)]
        if pooling in ("max", "average"):
            assert {kind for kind, _, _ in changed} == {pooling}
        elif pooling != "published":
            side = {"overlapping": lambda w, s: w > s, "non_overlapping": lambda w, s: w == s}
            assert all(side[pooling](w, s) for _, w, s in changed if s > 1)


def test_trainable_subsampling_does_not_overlap():
    with pytest.raises(ValueError, match=r"set model\.subsampling to max or average"):
        draw(create("lenet5", pooling="overlapping"), np.zeros((1, *GRAY), np.float32))


def upgraded(**section):
    config = ConfigDict({"dtype": "float32", **section})
    registry.upgrade(config)
    return config.to_dict()


@pytest.mark.parametrize("lrn", ["published", "none"])
def test_sections_of_older_versions_lose_options_without_effect(lrn):
    actual = upgraded(name="resnet_cifar10", lrn=lrn, pooling="published")
    assert actual == upgraded(name="resnet_cifar10")
    assert actual["depth"] == 20 and actual["shortcut"] == "A"
    registry.create(actual, 10)


@pytest.mark.parametrize("name", ["vgg", "alexnet", "googlenet"])
def test_sections_without_a_width_have_the_published_one(name):
    assert upgraded(name=name)["width"] == 1.0
    assert upgraded(name=name).get("stem", "published") == "published"


def test_sections_of_older_versions_whose_retired_option_has_an_effect_are_refused():
    section = upgraded(name="lenet5", lrn="within_map")
    with pytest.raises(UserError, match=r"lrn is not an option of lenet5: it has activation"):
        registry.create(section, 10)
