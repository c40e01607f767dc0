"""Pairs of devices that share AlexNet: the same training as on one device, in half the memory."""

import collections
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import scaling
from configs import alexnet as recipe_of_alexnet
from configs import mlp, schema
from errors import UserError
from input_pipeline.split import Info
from models import alexnet
from train_lib import experiment, losses, optimizers
from train_lib import state as state_lib
from train_lib.commands import evaluate, export, predict
from train_lib.distributed import parallel, processes
from train_lib.steps import Recipe, first_not_finite, make_eval_step, make_train_step
from train_lib.train import train_and_evaluate
from train_lib.workdir import read_config

CONFIG = schema.base()
CONFIG.optimizer.update({"momentum_form": "caffe", "weight_decay": 5e-4, "max_norm": 1.5})
LOSS = losses.make_loss(CONFIG.loss)
RATE, BATCH, CLASSES = 0.01, 4, 10
# Large weights, so that masks and both towers matter from the first step on.
MODULE = alexnet.AlexNet(
    CLASSES, image_size=32, width=0.05, lrn_over="tower", initializer="he", bias_start=0.1
)
OPTIMIZER = optimizers.make_optimizer(CONFIG.optimizer, lambda step: RATE)
ON = {
    "one": lambda: jax.devices()[:1],
    "pair": lambda: [tuple(jax.devices()[:2])],
    "two pairs": lambda: [tuple(jax.devices()[:2]), tuple(jax.devices()[2:4])],
}


def transform(images, keys=None, offsets=None):
    return images.astype(jnp.float32) / 64 - 2


def batch_on(devices):
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (BATCH, 32, 32, 3), dtype=np.uint8),
        "label": rng.integers(0, CLASSES, BATCH).astype(np.int32),
        "mask": np.array([1, 1, 0, 1], np.float32),
    }
    n = len(devices)
    return {name: leaf.reshape(n, BATCH // n, *leaf.shape[1:]) for name, leaf in batch.items()}


@pytest.fixture(scope="module")
def start():
    state = state_lib.create(MODULE, OPTIMIZER, 0, (32, 32, 3))
    # Velocities, so that their halves matter, too.
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda leaf: (
            leaf + 1e-3 * rng.normal(size=leaf.shape).astype(np.float32) if leaf.ndim else leaf
        ),
        jax.device_get(state),
    )


@pytest.fixture(scope="module")
def trained(start):
    """name of ON -> (states after 1, 2, 3 steps, their records, the compiled step's text)."""
    cache = {}

    def on(name):
        if name not in cache:
            devices, states, records = ON[name](), [], []
            recipe = Recipe(MODULE, LOSS, OPTIMIZER, transform)
            step = parallel.train_step(make_train_step(recipe), devices)
            state, batch = parallel.replicate(start, devices), batch_on(devices)
            batch = parallel.scatter({k: batch[k] for k in ("image", "label")}, devices)
            # Compiled once: it refuses a state that is laid out in another way than the first.
            step = step.lower(state, batch).compile()
            for _ in range(3):
                state, record = step(state, batch)
                states.append(jax.tree.map(jnp.copy, state))  # the next step reuses its memory
                records.append(jax.device_get(record))
            cache[name] = states, records, step.as_text()
        return cache[name]

    return on


def assert_close(actual, expected, tolerance=1e-5):
    """Each array, relative to its largest value."""
    expected = jax.device_get(expected)
    for (path, a), b in zip(
        jax.tree.leaves_with_path(jax.device_get(actual)), jax.tree.leaves(expected), strict=True
    ):
        assert a.shape == b.shape
        bound = tolerance * max(np.abs(b).max(), 1e-30)
        np.testing.assert_allclose(a, b, rtol=0, atol=bound, err_msg=str(path))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pair", "two pairs"])
def test_three_steps_equal_those_on_one_device(trained, start, name):
    (one, one_records, _), (states, records, _) = trained("one"), trained(name)

    def gradients(states):  # the first update's: v = 0.9 v + rate (g + wd w)
        is_kernel = jax.tree.map(lambda leaf: leaf.ndim > 1, start.params)
        return jax.tree.map(
            lambda new, old, w, decays: (new - 0.9 * old) / RATE - decays * 5e-4 * w,
            velocity(states[0]),
            velocity(start),
            start.params,
            is_kernel,
        )

    def velocity(state):
        (trace,) = (s for s in state.opt_state if hasattr(s, "trace"))
        return jax.device_get(trace.trace)

    assert_close(gradients(states), gradients(one))
    for actual, expected in zip(states, one, strict=True):
        assert_close(actual.params, expected.params)
        assert_close(velocity(actual), velocity(expected))
    for actual, expected in zip(records, one_records, strict=True):
        assert_close(actual, expected)
    moved = jax.tree.map(
        lambda a, b: np.abs(a - b).max(), jax.device_get(states[2].params), start.params
    )
    assert min(jax.tree.leaves(moved)) > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pair", "two pairs"])
def test_each_device_holds_half_of_the_parameters(trained, name):
    state = trained(name)[0][2]
    sizes = collections.Counter()
    for leaf in jax.tree.leaves(state):
        for shard in leaf.addressable_shards:
            sizes[shard.device] += shard.data.nbytes
    assert set(sizes) == {device for pair in ON[name]() for device in pair}
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    assert whole > 2 * 4 * state_lib.count_parameters(state)  # with velocities
    assert max(sizes.values()) < 0.51 * whole


def exchanges(images):
    """(operation, shape) where the towers meet: conv3, fc6, fc7, fc8 and the logits."""
    maps, conv5, units = 12, 12, 204  # 256 and 4096 times the width of 0.05, as even numbers
    meetings = [(7, 7, maps), (3, 3, conv5), (1, 1, units), (1, 1, units)]
    gathers = [("all-gather", (images, *shape)) for shape in [*meetings, (1, 1, CLASSES)]]
    # Backwards, each device gets the gradient of its half. That of the logits needs no exchange.
    scatters = [("reduce-scatter", (images, h, w, maps // 2)) for h, w, maps in meetings]
    return gathers + scatters


@pytest.mark.slow
def test_a_pair_exchanges_maps_only_where_the_towers_meet(trained):
    _, _, text = trained("pair")
    actual = [
        (one.operation, shape)
        for one in scaling.collectives(text)
        for dtype, shape in one.tensors
        if dtype == "f32"
    ]
    assert sorted(actual) == sorted(exchanges(BATCH))
    others = [one for one in scaling.collectives(text) if one.tensors[0][0] != "f32"]
    # Which of the gradients, and the loss, are not finite: one number each.
    assert [(one.operation, one.tensors) for one in others] == [("all-reduce", (("s32", (17,)),))]


@pytest.mark.slow
def test_two_pairs_also_sum_the_gradients_of_each_half(trained):
    states, _, text = trained("two pairs")
    halves = [leaf.addressable_shards[0].data.shape for leaf in jax.tree.leaves(states[0].params)]
    sums = [("all-reduce", shape) for shape in [*halves, (), (), ()]]  # loss, errors, examples
    actual = [
        (one.operation, shape)
        for one in scaling.collectives(text)
        for dtype, shape in one.tensors
        if dtype == "f32"
    ]
    assert sorted(actual) == sorted(exchanges(BATCH // 2) + sums)


@pytest.mark.slow
def test_an_evaluation_of_two_pairs_equals_that_of_one_device(start):
    results = {}
    for name in ("one", "two pairs"):
        devices = ON[name]()
        step = parallel.eval_step(make_eval_step(MODULE, LOSS, transform), devices)
        state = parallel.replicate(start, devices)
        results[name] = jax.device_get(step(state, parallel.scatter(batch_on(devices), devices)))
    sums, examples = results["two pairs"]
    assert_close(sums, results["one"][0])
    assert sums["examples"] == 3
    expected = {k: v.reshape(2, BATCH // 2, 5) for k, v in results["one"][1].items()}
    np.testing.assert_array_equal(examples["classes"], expected["classes"])
    assert_close(examples["probabilities"], expected["probabilities"])


@pytest.mark.parametrize(("unit", "bad"), [(None, -1), (0, 1), (3, 1)])
def test_all_devices_know_of_a_value_that_is_not_finite(unit, bad):
    """The value is on one device of a pair."""
    gradient = {"a": np.zeros((2, 4), np.float32), "b": np.zeros((2, 4), np.float32)}
    if unit is not None:
        gradient["b"][1, unit] = np.inf

    def step(state, batch):
        return state, first_not_finite(state, jnp.float32(0))[None]

    devices = ON["pair"]()
    step = parallel.train_step(step, devices)
    _, found = step(parallel.replicate(gradient, devices), np.zeros((1, 1), np.float32))
    assert [int(shard.data[0]) for shard in found.addressable_shards] == [bad] * 2


def config_of(**overrides):
    config = recipe_of_alexnet.get_config()
    config.update_from_flattened_dict(
        {
            **{"model.image_size": 32, "model.width": 0.02, "model.lrn_over": "tower"},
            **{"model.initializer": "he", "model.bias_start": 0.0},
            **{"dataset.name": "digits", "view.size": 0, "preprocess.pad": 2},
            **{"preprocess.mean": "none", "preprocess.high": 4.0, "augment.lighting": "none"},
            **{"view.square": False, "augment.flip": False, "steps": 6, "batch_size": 8},
            **{"num_devices": 2, "devices_per_network": 2, "checkpoint.every_steps": 3},
            **{"schedule.name": "constant", "schedule.learning_rate": 0.01},
            **{"log_every_steps": 1, "evaluate.batch_size": 400},
            **overrides,
        }
    )
    return config


class Death(BaseException):
    pass


def train_until(step, config, workdir, monkeypatch):
    """Kills a training when it is about to copy the batch after `step`."""
    scatter, seen = parallel.scatter, []

    def scatter_and_die(batch, devices):
        seen.append(batch)
        if len(seen) > step:
            raise Death
        return scatter(batch, devices)

    with monkeypatch.context() as patch:
        patch.setattr(parallel, "scatter", scatter_and_die)
        with pytest.raises(Death):
            train_and_evaluate(config, workdir)


@pytest.mark.slow
def test_a_run_moves_between_a_pair_and_one_device(tmp_path, monkeypatch):
    pair, one = config_of(), config_of(num_devices=1, devices_per_network=1)
    expected = jax.device_get(train_and_evaluate(pair, tmp_path / "pair"))
    alone = jax.device_get(train_and_evaluate(one, tmp_path / "one"))
    assert_close(alone.params, expected.params)

    train_until(4, pair, tmp_path / "killed", monkeypatch)
    resumed = jax.device_get(train_and_evaluate(pair, tmp_path / "killed"))
    jax.tree.map(np.testing.assert_array_equal, resumed, expected)

    for first, then, name in ((pair, one, "to_one"), (one, pair, "to_pair")):
        workdir = tmp_path / name
        train_until(4, first, workdir, monkeypatch)
        with pytest.raises(UserError, match=r"devices_per_network: . -> .*--allow_config_change"):
            train_and_evaluate(then, workdir)
        moved = train_and_evaluate(then, workdir, allow_config_change=True)
        assert int(moved.step) == 6
        assert_close(moved.params, expected.params)

    config = read_config(tmp_path / "pair")
    config.num_devices = 1  # on a machine with one device
    found = json.loads(evaluate.evaluate_run(config, tmp_path / "pair"))
    last = json.loads((tmp_path / "pair" / "metrics.jsonl").read_text().splitlines()[-1])
    assert found["top1_error"] == pytest.approx(last["test/top1_error"])
    assert found["loss"] == pytest.approx(last["test/loss"], rel=1e-5)
    line = predict.predict_images(config, tmp_path / "pair", ["docs/images/seven.png"])
    assert line.startswith("docs/images/seven.png: ")
    line = export.export_run(config, tmp_path / "pair", "")
    assert f"({state_lib.count_parameters(expected):,} parameters, step 6)" in line


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"model.variant": "one_tower", "model.lrn_over": "all_maps"}, "only .*two_tower has two"),
        ({"model.lrn_over": "all_maps"}, r"set config\.model\.lrn_over=tower"),
        ({"model.activation": "prelu_shared"}, r"set config\.model\.activation=prelu"),
        ({"model.regulariser": "dropconnect"}, r"set config\.model\.regulariser=dropout"),
        (
            {"optimizer.curvature_examples": 10, "optimizer.mu": 0.1},
            "does not work with config.optimizer.curvature_examples",
        ),
        ({"num_devices": 3}, r"divide the number of devices, which is 3 \(of 8\): set another"),
        ({"num_devices": 1}, r"which is 1 .* or config\.devices_per_network=1"),
        ({"devices_per_network": 3}, "choose one of 1, 2"),
    ],
)
def test_what_two_devices_cannot_share_is_refused(overrides, message):
    with pytest.raises(UserError, match=message):
        experiment.resolve(config_of(**overrides))


def test_other_networks_odd_classes_and_several_processes_are_refused(monkeypatch):
    config = mlp.get_config("10")
    config.update({"devices_per_network": 2})
    with pytest.raises(UserError, match=r"alexnet\.py:two_tower has .*: set config\.devices"):
        schema.validate(config)
    odd = experiment.KnownData(Info("digits", (28, 28, 1), tuple("01234")))
    with pytest.raises(UserError, match=r"number of classes \(5\) must be even"):
        experiment.resolve(config_of(), known=odd)
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(UserError, match="works in one process only"):
        parallel.local_devices(4, 2)


def test_a_batch_must_divide_over_the_pairs():
    parallel.check_batch_size(6, ON["two pairs"]())
    with pytest.raises(UserError, match=r"number of pairs of devices \(2\): use 8"):
        parallel.check_batch_size(7, ON["two pairs"]())
