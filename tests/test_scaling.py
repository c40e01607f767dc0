"""A training step sends its gradient between eight devices, and very little else."""

import types

import jax
import pytest

from benchmarks import scaling

HLO = """
%body (p: (s32[], f32[6])) -> (s32[], f32[6]) {
  %all-reduce.3 = (f32[6]{0}, bf16[5,5,1,6]{3,2,1,0:T(8,128)}, /*index=2*/f32[]) all-reduce(%a, %b)
  %gte = f32[6]{0} get-tuple-element(%all-reduce.3), index=0, metadata={op_name="all-reduce(x)"}
  ROOT %all-to-all.1 = u8[16]{0} all-to-all(%d), dimensions={0}
}
ENTRY %main {
  %psum.1 = s32[] all-reduce-start(%e), channel_id=2, to_apply=%add
  %done = s32[] all-reduce-done(%psum.1)
  %ag = ((f32[4]{0}, pred[2]{0}), (f32[32]{0}, pred[16]{0})) all-gather-start(%f, %g)
  %permute = (f32[4,2]{1,0}, f32[4,2]{1,0}, u32[], u32[]) collective-permute-start(%h)
  %scatter = f64[3]{0} reduce-scatter(%i), dimensions={0}
}
"""


def test_every_form_of_a_collective_is_read():
    collectives = [(one.operation, one.bytes) for one in scaling.collectives(HLO)]
    assert collectives == [
        ("all-reduce", 6 * 4 + 150 * 2 + 4),
        ("all-to-all", 16),
        ("all-reduce", 4),
        ("all-gather", 32 * 4 + 16),  # results, not operands
        ("collective-permute", 8 * 4),
        ("reduce-scatter", 3 * 8),
    ]


STABLEHLO = """
  %0 = "stablehlo.all_reduce"(%382) <{replica_groups = dense<[[0, 1]]> : tensor<1x2xi64>}> ({
  ^bb0(%arg38: tensor<f32>, %arg39: tensor<f32>):
    %600 = stablehlo.add %arg38, %arg39 : tensor<f32>
    stablehlo.return %600 : tensor<f32>
  }) : (tensor<5x5x1x6xbf16>) -> tensor<5x5x1x6xbf16>
  %1:2 = "stablehlo.all_reduce"(%1, %2) ({
  }) : (tensor<f32>, tensor<3xi1>) -> (tensor<f32>, tensor<3xi1>)
  %2 = "stablehlo.all_gather"(%3) <{all_gather_dim = 0 : i64}> : (tensor<4xf32>) -> tensor<8xf32>
  %3 = stablehlo.add %2, %2 : tensor<8xf32>
"""


def test_every_collective_before_compilation_is_read():
    collectives = scaling.requested(types.SimpleNamespace(as_text=lambda: STABLEHLO))
    assert [(one.operation, one.sizes) for one in collectives] == [
        ("all-reduce", [300]),
        ("all-reduce", [4, 3]),
        ("all-gather", [32]),
    ]
    assert collectives[0].tensors == (("bf16", (5, 5, 1, 6)),)


# They repeat the blocks of the shallower recipes: one batch size shows their gradients.
DEEP = ("resnet:101", "resnet:152", "resnet_cifar10:56", "resnet_cifar10:110")


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(name, marks=[] if name.startswith(("lenet5", "mlp")) else pytest.mark.slow)
        for name in scaling.RECIPES
    ],
)
def test_every_recipe_sums_its_gradient_once_for_any_batch_size(recipe):
    """Each tensor, before compilation, which takes too long for most recipes."""
    exp = scaling.prepare(scaling.load(recipe))
    for share in (1,) if recipe in DEEP else (1, 2):
        lowered, state = scaling.lower(exp, share)
        collectives = scaling.requested(lowered)
        assert {one.operation for one in collectives} == {"all-reduce"}
        leaves = jax.tree.leaves((state.params, state.model_state))
        # The sums of loss, errors and examples for the log, and of the processes that stop.
        expected = [("f32", leaf.shape) for leaf in leaves] + [("f32", ())] * 3 + [("i32", ())]
        assert sorted(tensor for one in collectives for tensor in one.tensors) == sorted(expected)


def sent(recipe, share, **overrides):
    """The collectives of a recipe's step with `share` images a device, and its state's shapes."""
    config = scaling.load(recipe)
    config.update_from_flattened_dict(overrides)
    lowered, state = scaling.lower(scaling.prepare(config), share)
    return scaling.sent(lowered), state


SMALL = {"preprocess.crop": 16}


@pytest.mark.parametrize(
    ("recipe", "overrides", "parameters", "statistics", "shares"),
    [
        (
            "lenet5:mnist",
            {"steps_per_dispatch": 1},
            60_000,
            0,
            (1, 2),
        ),  # LeCun 1998; mlp: 50 in a loop
        ("mlp:300", {}, 785 * 300 + 301 * 10, 0, (1, 2)),
        # 0.27 million (He 2015, table 6); mean and variance of 7 layers of 16, 6 of 32, 6 of 64
        pytest.param(
            *("resnet_cifar10:20", SMALL, 269_722, 2 * (7 * 16 + 6 * 32 + 6 * 64), (1,)),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_compiled_step_sends_its_gradient_once_for_any_batch_size(
    recipe, overrides, parameters, statistics, shares
):
    for share in shares:
        collectives, state = sent(recipe, share, **overrides)
        assert {one.operation for one in collectives} == {"all-reduce"}
        # The sums of loss, errors and examples for the log, and of the processes that stop.
        assert sum(one.bytes for one in collectives) == 4 * (parameters + statistics + 4)
        # And tensor by tensor: no gradient is sent in place of another.
        leaves = jax.tree.leaves((state.params, state.model_state))
        expected = [leaf.size * leaf.dtype.itemsize for leaf in leaves] + [4] * 4
        assert sorted(size for one in collectives for size in one.sizes) == sorted(expected)


@pytest.mark.slow
def test_two_devices_that_share_alexnet_exchange_halves_of_the_published_maps():
    """Krizhevsky 2012, fig. 2: 13x13x128 maps before conv3, 6x6x128 and 2048 units for each GPU."""
    halves = {"conv3": 13 * 13 * 128, "fc6": 6 * 6 * 128, "fc7": 2048, "fc8": 2048}
    expected = {name: (4 * size, 4 * size) for name, size in halves.items()}
    assert scaling.exchanged() == expected | {"loss": (4 * 500, 0)}


def test_predictions_follow_the_closed_forms():
    row = {"macs": 10**9, "bytes": 10**8, "reductions": 2, "batch": 256, "share": 32}
    slow = scaling.Cluster(peak=1e14, on_host=8, inside=1e11, between=1e10, latency=1e-5)
    assert scaling.compute_seconds(10**9, 32, slow) == pytest.approx(192e9 / 30e12)
    inside = 2 * 7 / 8 * 1e8 / 1e11 + 2 * 3 * 2 * 3e-6
    assert scaling.reduce_seconds(10**8, 2, 8, slow) == pytest.approx(inside)
    between = 2 * 63 / 64 * 1e8 / 1e10 + 2 * 6 * 2 * 1e-5  # 19.93 ms beside 6.4 of computing
    assert scaling.reduce_seconds(10**8, 2, 64, slow) == pytest.approx(between)
    low, high = scaling.efficiencies(row, 32, 64, slow)
    assert low == pytest.approx(6.4 / (6.4 + 19.9275), rel=1e-4)
    assert high == pytest.approx(6.4 / (6.4 / 3 + 19.9275), rel=1e-4)
