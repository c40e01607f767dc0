"""A checkpoint can be restored on any number of devices, and has one layout."""

import jax
import numpy as np
import pytest
from conftest import TINY

from configs.mlp import get_config
from errors import UserError
from train_lib import checkpoints, experiment, train
from train_lib.distributed import parallel
from train_lib.train import train_and_evaluate

COUNTS = (1, 2, 4, 8)


def config(devices):
    actual = get_config("10")
    actual.update_from_flattened_dict(
        TINY | {"dataset.name": "digits", "batch_size": 96, "epochs": 1.0, "num_devices": devices}
    )
    return actual


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """{number of devices: (workdir, final state)}."""
    actual = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "finish", lambda *_: None)
        for count in COUNTS:
            workdir = tmp_path_factory.mktemp(f"on{count}")
            actual[count] = (workdir, jax.device_get(train_and_evaluate(config(count), workdir)))
    return actual


def assert_same_bits(actual, expected):
    def same(a, b):
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())

    jax.tree.map(same, jax.device_get(actual), jax.device_get(expected))


@pytest.mark.slow
@pytest.mark.parametrize("saved_on", COUNTS)
@pytest.mark.parametrize("restored_on", COUNTS)
def test_a_checkpoint_is_restored_on_any_number_of_devices(trained, saved_on, restored_on):
    workdir, expected = trained[saved_on]
    exp = experiment.resolve(config(restored_on), workdir, read_only=True)
    like = exp.new_state()
    step, state = checkpoints.Checkpoints(workdir, read_only=True).restore(like)
    state = parallel.replicate(state, exp.devices)
    assert step == int(expected.step)
    assert len(state.params["h1"]["bias"].sharding.device_set) == restored_on
    assert_same_bits(state, expected)


def test_variables_are_read_without_the_config(trained):
    workdir, expected = trained[8]
    step, variables = checkpoints.Checkpoints(workdir, read_only=True).restore_variables()
    assert step == int(expected.step)
    assert_same_bits(variables["params"], expected.params)


def test_another_checkpoint_layout_is_refused(tmp_path, monkeypatch):
    state = {"params": {"w": np.arange(3.0)}}
    monkeypatch.setattr(checkpoints, "LAYOUT", 99)
    written = checkpoints.Checkpoints(tmp_path)
    written.save(1, state)
    written.close()
    monkeypatch.undo()
    for read_only in (True, False):
        with pytest.raises(UserError, match=r"checkpoint 1 in .* has layout 99; this version"):
            checkpoints.Checkpoints(tmp_path, read_only=read_only).restore(state)
    assert (tmp_path / "checkpoints" / "1").is_dir()  # nothing was moved
