"""Auxiliary heads, annealed drop rates, averages and BatchNorm in the steps."""

import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from configs.resnet_cifar10 import get_config
from configs.schema import base
from models import layers
from train_lib import losses
from train_lib import state as state_lib
from train_lib.distributed import parallel
from train_lib.optimizers import make_optimizer
from train_lib.steps import Recipe, make_eval_step, make_train_step, several
from train_lib.train import train_and_evaluate

LOSS = losses.make_loss({"name": "softmax"})


class WithHead(nn.Module):
    """A hidden layer with dropout, a classifier and an auxiliary classifier."""

    rate: float = 0.0

    @nn.compact
    def __call__(self, x, train=False, drop_scale=1.0):
        h = layers.FullyConnected(6, name="hidden")(x)
        h = layers.Dropout(self.rate, "test", name="drop")(h, train, drop_scale)
        auxiliary = layers.FullyConnected(3, name="head")(h)
        if train:
            self.sow("auxiliary", "logits", auxiliary)
        return layers.FullyConnected(3, name="output")(h)


def batch_of(count, devices=1):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (devices, count // devices, 2, 2, 1)).astype(np.uint8)
    labels = rng.integers(0, 3, (devices, count // devices)).astype(np.int32)
    return {"image": images, "label": labels}


def transform(images, keys=None, offsets=None):
    return images.astype(jnp.float32) / 255


def one_step(module, **options):
    devices = jax.devices()[:1]
    optimizer = optax.sgd(0.5)
    state = state_lib.create(module, optimizer, 0, (2, 2, 1))
    params = jax.device_get(state.params)
    step = make_train_step(Recipe(module, LOSS, optimizer, transform, **options))
    batch = batch_of(8)
    state, window = parallel.train_step(step, devices)(parallel.replicate(state, devices), batch)
    return params, batch, jax.device_get(state), jax.device_get(window)


def test_auxiliary_heads_add_their_weighted_loss_to_the_gradient_and_not_to_the_log():
    module = WithHead()
    params, batch, state, window = one_step(module, auxiliary_weight=0.3)
    x, labels = transform(batch["image"][0]), batch["label"][0]

    def expected_loss(params):
        h = x.reshape(8, -1) @ params["hidden"]["kernel"] + params["hidden"]["bias"]
        out = h @ params["output"]["kernel"] + params["output"]["bias"]
        head = h @ params["head"]["kernel"] + params["head"]["bias"]
        return LOSS(out, labels).mean() + 0.3 * LOSS(head, labels).mean(), LOSS(out, labels).sum()

    (_, logged), gradient = jax.value_and_grad(expected_loss, has_aux=True)(params)
    moved = jax.tree.map(lambda p, g: p - 0.5 * g, params, gradient)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), state.params, moved)
    assert np.abs(gradient["head"]["kernel"]).max() > 1e-6
    assert float(window["loss"]) == pytest.approx(float(logged), rel=1e-5)


def test_the_steps_use_the_annealed_drop_rate():
    """A scale of 0 is no dropout, in training and, with test-time scaling, in evaluation."""
    plain = one_step(WithHead())[2]
    annealed = one_step(WithHead(rate=0.9), drop_scale=lambda step: jnp.float32(0.0))[2]
    dropped = one_step(WithHead(rate=0.9))[2]
    jax.tree.map(np.testing.assert_array_equal, annealed.params, plain.params)
    difference = np.abs(dropped.params["hidden"]["kernel"] - plain.params["hidden"]["kernel"])
    assert difference.max() > 1e-5

    batch = batch_of(8) | {"mask": np.ones((1, 8), np.float32)}
    losses_of = {}
    for name, rate, scale in (("plain", 0.0, 1.0), ("end", 0.9, 0.0), ("start", 0.9, 1.0)):
        step = make_eval_step(WithHead(rate), LOSS, transform, lambda step, scale=scale: scale)
        sums, _ = parallel.eval_step(step, jax.devices()[:1])(plain, batch)
        losses_of[name] = float(sums["loss"])
    assert losses_of["plain"] == losses_of["end"] != losses_of["start"]


def test_averaged_parameters_are_evaluated_and_not_trained():
    """Compared with an explicit weighted mean of the parameters of a run without averaging."""
    optimizer, on, decay, steps = optax.sgd(0.5), jax.devices()[:1], 0.6, 4
    batch = batch_of(8)
    batches = jax.tree.map(lambda leaf: np.stack([leaf] * steps, axis=1), batch)
    plain = WithHead()
    state = parallel.replicate(state_lib.create(plain, optimizer, 0, (2, 2, 1)), on)
    step = parallel.train_step(make_train_step(Recipe(plain, LOSS, optimizer, transform)), on)
    trail = []
    for _ in range(steps):
        state, _ = step(state, batch)
        trail.append(jax.device_get(state.params))
    assert state.average is None

    start = state_lib.create(plain, optimizer, 0, (2, 2, 1), averaged=True)
    jax.tree.map(np.testing.assert_array_equal, start.average, start.params)
    step = make_train_step(Recipe(plain, LOSS, optimizer, transform, averaging=decay))
    actual, _ = parallel.train_step(several(step), on)(parallel.replicate(start, on), batches)
    weights = np.array([decay ** (steps - 1 - n) for n in range(steps)])
    expected = jax.tree.map(lambda *leaves: np.average(leaves, 0, weights), *trail)
    actual = jax.device_get(actual)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)  # noqa: E731
    jax.tree.map(close, actual.params, trail[-1])
    jax.tree.map(close, actual.average, expected)
    assert np.abs(actual.params["output"]["kernel"] - expected["output"]["kernel"]).max() > 1e-3

    batch |= {"mask": np.ones((1, 8), np.float32)}
    evaluate = parallel.eval_step(make_eval_step(plain, LOSS, transform), on)
    sums, _ = evaluate(actual, batch)
    logits = plain.apply({"params": expected}, transform(batch["image"][0]))
    assert float(sums["loss"]) == pytest.approx(
        float(LOSS(logits, batch["label"][0]).sum()), rel=1e-5
    )


class WithBatchNorm(layers.Net):
    """A convolution, BatchNorm and a classifier."""

    num_classes: int = 3
    batch_norm: str = layers.option("per_device", layers.BATCH_NORM)

    @nn.compact
    def __call__(self, x, train=False, drop_scale=1.0):
        build = self.builder(train, drop_scale)
        x = build.batch_norm(build.conv(x, 4, 2, "conv1", padding=1), "bn1")
        return build.classifier(build.activate(x, "conv1"), "fc")


@pytest.mark.parametrize("fixed", [(), ("bn1",)])
def test_frozen_values_do_not_move(fixed):
    """Neither by momentum, decay, max-norm and rounding, nor by the mean over three devices."""
    frozen = {f"conv1/{name}" for name in ("kernel", "bias")} | {"bn1/scale", "bn1/bias"}
    frozen |= {"bn1/mean", "bn1/var"} if fixed else set()
    section = base().optimizer
    section.update(weight_decay=0.1, decayed="all", max_norm=0.01, averaging=0.5)
    optimizer, on = make_optimizer(section, optax.constant_schedule(0.5)), jax.devices()[:3]
    module = WithBatchNorm(fixed_statistics=fixed)
    start = state_lib.create(module, optimizer, 0, (2, 2, 1), averaged=True)
    rng = np.random.default_rng(0)
    draw = lambda leaf: rng.uniform(0.1, 1, leaf.shape).astype(np.float32)  # noqa: E731
    params = jax.tree.map(draw, start.params)
    params["conv1"]["bias"][0] = -0.0
    statistics = jax.tree.map(draw, start.model_state)
    start = start.replace(params=params, model_state=statistics, average=params)
    recipe = Recipe(module, LOSS, optimizer, transform, averaging=0.5, frozen=frozenset(frozen))
    step, batch = parallel.train_step(make_train_step(recipe), on), batch_of(12, devices=3)
    state, record = step(parallel.replicate(start, on), batch)
    for _ in range(3):
        state, _ = step(state, batch)
    before = flatten_dict({"params": params, "average": params, **statistics})
    after = {"params": state.params, "average": state.average, **state.model_state}
    for path, leaf in flatten_dict(jax.device_get(after)).items():
        is_equal = np.array_equal(leaf, before[path])
        if path[0] != "average":  # whose -0.0 becomes 0.0
            is_equal = leaf.tobytes() == before[path].tobytes()
        assert is_equal == ("/".join(path[1:]) in frozen), path
    if fixed:  # training normalises as evaluation does
        images = transform(batch["image"].reshape(12, 2, 2, 1))
        logits = module.apply({"params": params, **statistics}, images)
        expected = float(LOSS(logits, batch["label"].reshape(12)).sum())
        assert float(record["loss"]) == pytest.approx(expected, rel=1e-5)


def everything_config():
    """BatchNorm, PReLU, and DropConnect whose rate is annealed, on small parts of digits."""
    config = get_config("20")
    config.update_from_flattened_dict(
        {
            "model.depth": 8,
            "model.activation": "prelu",
            "model.regulariser": "dropconnect",
            "model.dropconnect_samples": 20,
            "schedule.drop_anneal_epochs": 0.7,
            "dataset.name": "digits",
            "preprocess.crop": 8,
            "batch_size": 200,
            "num_devices": 1,
            "log_every_steps": 2,
            "schedule.name": "constant",
            "schedule.boundaries": (),
            "schedule.factors": (),
            "evaluate.every_epochs": 10.0,
            "epochs": 0.8,
            "checkpoint.every_steps": 3,
        }
    )
    return config


@pytest.mark.slow
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, resnet_of_8_layers):
    """BatchNorm statistics, random masks and annealed rates are exactly the same."""
    config = everything_config()
    whole = jax.device_get(train_and_evaluate(config, tmp_path))
    assert int(whole.step) == 6
    assert "slope" in whole.params["conv2_1"]["conv1_prelu"]
    shutil.rmtree(tmp_path / "checkpoints" / "6")  # as if it had been killed before
    again = jax.device_get(train_and_evaluate(config, tmp_path))
    jax.tree.map(np.testing.assert_array_equal, again, whole)


class Normalised(nn.Module):
    """A linear classifier of the normalised image."""

    axis: str | None = None

    @nn.compact
    def __call__(self, x, train=False, drop_scale=1.0):
        norm = layers.BatchNorm(use_running_average=not train, axis_name=self.axis, name="bn")
        return layers.FullyConnected(3, name="output")(norm(x))


@pytest.mark.parametrize(
    ("devices", "axis"),
    [(1, None), (2, None), (4, None), (8, None), (4, parallel.AXIS), (8, parallel.AXIS)],
)
def test_batch_norm_per_device_and_across_devices_against_numpy(devices, axis):
    """Two steps: the statistics of each batch, and the running statistics."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (16, 2, 2, 3)) * np.linspace(0.2, 1, 16)[:, None, None, None]
    images, labels = images.astype(np.uint8), rng.integers(0, 3, 16).astype(np.int32)
    batch = jax.tree.map(
        lambda leaf: leaf.reshape(devices, -1, *leaf.shape[1:]), {"image": images, "label": labels}
    )
    module, optimizer, on = Normalised(axis), optax.sgd(0.5), jax.devices()[:devices]
    start = state_lib.create(module, optimizer, 0, (2, 2, 3))
    # The output has weights of its own, so that a step changes the scale, and not 0 nor 1 at first.
    moved = jax.tree.map(lambda leaf: leaf + rng.normal(0, 0.3, leaf.shape), start.params)
    state = parallel.replicate(start.replace(params=jax.tree.map(np.float32, moved)), on)
    params = jax.tree.map(np.float64, moved)
    run = parallel.train_step(make_train_step(Recipe(module, LOSS, optimizer, transform)), on)

    x = images / 255
    running = {"mean": np.zeros(3), "var": np.ones(3)}
    for _ in range(2):
        state, window = run(state, batch)
        slices = [x] if axis else np.split(x, devices)
        means = [part.mean(axis=(0, 1, 2)) for part in slices]
        variances = [part.var(axis=(0, 1, 2)) for part in slices]
        for name, settled in (("mean", means), ("var", variances)):
            running[name] = 0.9 * running[name] + 0.1 * np.mean(settled, axis=0)
            np.testing.assert_allclose(
                state.model_state["batch_stats"]["bn"][name], running[name], rtol=1e-5
            )
        normal = np.concatenate(
            [
                (part - mean) / np.sqrt(variance + 1e-5)
                for part, mean, variance in zip(slices, means, variances, strict=True)
            ]
        )
        bn, output = params["bn"], params["output"]
        seen = normal * bn["scale"] + bn["bias"]
        logits = seen.reshape(16, -1) @ output["kernel"] + output["bias"]
        exponent = np.exp(logits - logits.max(axis=1, keepdims=True))
        share = exponent / exponent.sum(axis=1, keepdims=True)
        loss = -np.log(share[np.arange(16), labels]).sum()
        assert float(window["loss"]) == pytest.approx(loss, rel=1e-5)
        error = (share - np.eye(3)[labels]) / 16
        back = (error @ output["kernel"].T).reshape(x.shape)
        gradient = {
            "bn": {"scale": (back * normal).sum(axis=(0, 1, 2)), "bias": back.sum(axis=(0, 1, 2))},
            "output": {"kernel": seen.reshape(16, -1).T @ error, "bias": error.sum(axis=0)},
        }
        params = jax.tree.map(lambda p, g: p - 0.5 * g, params, gradient)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), dict(state.params), params
        )
