"""Second derivatives in a run: when they are estimated, on what, and by which networks."""

import jax
import numpy as np
import pytest

from configs import resnet_cifar10
from configs.mlp import get_config
from errors import UserError
from input_pipeline.split import random_examples
from models import curvature
from train_lib import train
from train_lib.checkpoints import Checkpoints
from train_lib.experiment import KnownData, resolve
from train_lib.optimizers import Curvature
from train_lib.plan import make_plan
from train_lib.train import train_and_evaluate


def config_with_curvature(**fields):
    config = get_config("linear")
    config.update_from_flattened_dict(
        {
            "dataset.name": "digits",
            "num_devices": 1,
            "batch_size": 500,  # three steps in a pass of 1,442 images
            "optimizer.momentum": 0.0,
            "optimizer.curvature_examples": 50,
            "optimizer.mu": 0.02,
            "schedule.name": "constant",
            "schedule.learning_rate": 0.01,
            **fields,
        }
    )
    return config


@pytest.mark.slow
def test_the_estimate_is_of_some_images_at_the_beginning_of_a_pass(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "finish", lambda *_: None)
    fields = {"steps": 5, "checkpoint.every_steps": 3}  # pass 2 begins at step 3
    final = train_and_evaluate(config_with_curvature(**fields), tmp_path)
    _, at_3 = Checkpoints(tmp_path, read_only=True).restore_variables(3)
    exp = resolve(config_with_curvature())
    chosen = random_examples(exp.train_split, 50, exp.config.seed)
    images = exp.transform(chosen.images)
    expected = curvature.diagonal(exp.module, exp.loss, at_3, images, chosen.labels)
    states = jax.tree.leaves(final.opt_state, is_leaf=lambda n: isinstance(n, Curvature))
    (state,) = [s for s in states if isinstance(s, Curvature)]
    assert state.diagonal["output"]["kernel"].max() > 0
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b / 50, rtol=1e-5, atol=1e-8),
        state.diagonal,
        expected,
    )


def test_no_dispatch_extends_over_an_estimate():
    config = config_with_curvature(epochs=3.0, steps_per_dispatch=2)
    config.evaluate.every_epochs = config.checkpoint.every_epochs = 3.0
    plan = make_plan(config, 1442)
    assert plan.estimate_at == {0, 3, 6}
    assert [plan.dispatch(step) for step in (0, 2, 3, 5, 6, 8)] == [2, 1, 2, 1, 2, 1]
    config.optimizer.curvature_examples = 0
    assert make_plan(config, 1442).estimate_at == set()


def test_networks_with_normalisation_are_refused():
    config = resnet_cifar10.get_config("20")
    config.optimizer.curvature_examples, config.optimizer.mu = 500, 0.02
    info = resolve(config_with_curvature()).info
    known = KnownData(type(info)("made", (32, 32, 3), info.class_names))
    with pytest.raises(UserError, match=r"propagate through BatchNorm \(.*\): choose a network"):
        resolve(config, known=known)
