"""Pre-training layer by layer, and fine-tuning from it: configs/rbm.py, then configs/mlp.py."""

import shutil

import jax
import numpy as np
import optax
import pytest

from configs import mlp, rbm
from errors import UserError
from models.rbm import RBMStack
from train_lib import losses, steps
from train_lib import state as state_lib
from train_lib.checkpoints import Checkpoints
from train_lib.distributed import parallel
from train_lib.evaluation.trained import load_run
from train_lib.experiment import resolve
from train_lib.train import train_and_evaluate
from train_lib.weights import warm_start
from train_lib.workdir import write_description

TINY = {"dataset.name": "digits", "num_devices": 1, "steps": 4, "steps_per_dispatch": 1}


def config_of(sizes, module=rbm, **overrides):
    config = module.get_config(sizes)
    config.update_from_flattened_dict({**TINY, "checkpoint.every_steps": 2, **overrides})
    return config


@pytest.fixture(scope="module")
def stacks(tmp_path_factory):
    """The folders of a run of one layer (not trained), and of two layers that starts from it."""
    root = tmp_path_factory.mktemp("stacks")
    exp = resolve(config_of("12"))
    (root / "one").mkdir()
    write_description(root / "one", exp.config, exp.info, None, exp.train_examples)
    state = exp.new_state()
    state = state.replace(params=jax.tree.map(lambda leaf: leaf + 0.25, state.params))
    checkpoints = Checkpoints(root / "one")
    checkpoints.save(4, state)
    checkpoints.close()
    train_and_evaluate(config_of("12-8", init_from=str(root / "one")), root / "two")
    return root / "one", root / "two"


def test_layers_before_the_last_keep_their_values_exactly(stacks):
    """Weight decay and momentum are on."""
    one, two = (load_run(folder).params for folder in stacks)
    for name in ("kernel", "bias", "visible_bias"):
        assert one["h1"][name].tobytes() == two["h1"][name].tobytes()
        assert np.any(two["h2"][name])
    initial = resolve(config_of("12-8", init_from="RUN")).new_state().params["h2"]["kernel"]
    assert np.any(two["h2"]["kernel"] != initial)


def test_a_resumed_run_equals_an_uninterrupted_one(stacks, tmp_path):
    config = config_of("12-8", init_from=str(stacks[0]))
    shutil.copytree(stacks[1], tmp_path, dirs_exist_ok=True)
    whole = load_run(tmp_path).params
    shutil.rmtree(tmp_path / "checkpoints" / "4")  # as if it had been killed before
    again = jax.device_get(train_and_evaluate(config, tmp_path)).params
    jax.tree.map(np.testing.assert_array_equal, again, whole)


def test_the_fine_tuned_network_starts_as_the_pretrained_one(stacks):
    changes = {"model.activation": "sigmoid", "preprocess.low": 0.0, "preprocess.high": 1.0}
    exp = resolve(config_of("12-8", mlp, init_from=str(stacks[1]), **changes))
    state, origin = warm_start.warm_start(exp, exp.new_state())
    assert (origin.drawn, origin.changed) == ([], [])
    assert origin.unused == ["h1/visible_bias", "h2/visible_bias"]
    pretrained = load_run(stacks[1])
    images = np.random.default_rng(0).uniform(size=(3, 28, 28, 1)).astype(np.float32)
    logits = exp.module.apply({"params": state.params}, images)
    expected = pretrained.module.apply(pretrained.variables, images)
    np.testing.assert_allclose(logits, expected, rtol=1e-5)


def test_the_sizes_of_the_devices_parts_do_not_change_a_step():
    """The objective is in the gradient of the step, with the same samples on three devices."""
    module, optimizer = RBMStack(num_classes=3, hidden=(6,), cd_steps=2), optax.sgd(1.0)
    start = jax.device_get(state_lib.create(module, optimizer, 0, (2, 2, 1)))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (12, 2, 2, 1)).astype(np.uint8)
    labels = rng.integers(0, 3, 12).astype(np.int32)
    loss = losses.make_loss({"name": "softmax"})
    recipe = steps.Recipe(module, loss, optimizer, lambda images, *_: images / np.float32(255))
    moved = {}
    for count in (1, 3):
        on = jax.devices()[:count]
        batch = {"image": images.reshape(count, -1, 2, 2, 1), "label": labels.reshape(count, -1)}
        step = parallel.train_step(steps.make_train_step(recipe), on)
        moved[count] = jax.device_get(step(parallel.replicate(start, on), batch)[0].params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), moved[1], moved[3])
    # 12 images, and visible units of 0 or 1 in the chain: F(v0) - F(vk) moves b by v0 - vk.
    difference = moved[1]["h1"]["visible_bias"] - (images / 255).mean(axis=0).reshape(-1)
    np.testing.assert_allclose(12 * difference, np.round(12 * difference), atol=1e-4)
    assert np.any(np.round(12 * difference))


@pytest.mark.parametrize(
    ("sizes", "source", "overrides", "message"),
    [
        ("12-8", "", {}, "config.init_layers needs config.init_from"),
        ("12-8-6", "one", {}, "it has no h2, and config.optimizer.frozen keeps it"),
        ("13-8", "one", {}, r"h1/bias has the shape \[12\] in the source and \[13\]"),
        ("12", "", {"preprocess.low": -0.1}, "rbm takes pixels from 0 to 1"),
        ("12", "", {"preprocess.mean": "pixel"}, "rbm takes pixels from 0 to 1"),
        ("12", "", {"model.activation": "relu"}, "activation=relu: choose one of sigmoid"),
        ("12", "", {"model.hidden": ()}, r"hidden=\(\): must be a tuple of whole numbers, such as"),
        ("12", "", {"model.cd_steps": 0}, "must be a whole number from 1"),
        (
            *("12", "", {"optimizer.curvature_examples": 10, "optimizer.mu": 1.0}),
            r"second derivatives do not propagate through RBM \(h1\)",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(sizes, source, overrides, message, stacks):
    name = source and str(stacks[0].parent / source)
    with pytest.raises(UserError, match=message) as caught:
        exp = resolve(config_of(sizes, init_from=name, **overrides))
        warm_start.warm_start(exp, exp.new_state())
    assert "\n" not in str(caught.value)


def test_the_layers_of_a_perceptron_are_not_those_of_a_stack(stacks):
    exp = resolve(config_of("12-8", init_from="RUN"))
    perceptron = resolve(config_of("12-8", mlp)).new_state().variables()
    message = "it has no h1/visible_bias, and config.optimizer.frozen keeps it"
    with pytest.raises(UserError, match=message):
        warm_start.load_into(exp.new_state(), "RUN", ("h1/*",), (1, perceptron), exp.frozen)
    # A value that is not frozen may be missing.
    warm_start.load_into(exp.new_state(), "RUN", ("h1/*",), (1, perceptron))
