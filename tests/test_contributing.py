"""The examples of docs/contributing.md: a network, its config, a data source and a study."""

import pathlib
import re
import sys
import textwrap
import types

import jax
import numpy as np
import pytest

from configs.load import load
from input_pipeline import sources
from models import registry
from studies import engine
from studies.study import Results, Verdict
from train_lib import experiment
from train_lib import state as state_lib

TEXT = (pathlib.Path(__file__).parents[1] / "docs" / "contributing.md").read_text("utf-8")
BLOCKS = re.findall(r"^( *)```python\n(.*?)^ *```", TEXT, re.DOTALL | re.MULTILINE)
PLACES = ("models.mine", "configs.mine", "input_pipeline.mine", "studies.mine")


@pytest.fixture(autouse=True)
def modules(monkeypatch):
    """The four examples as modules, at their places."""
    for name, (_, block) in zip(PLACES, BLOCKS, strict=True):
        module = types.ModuleType(name)
        monkeypatch.setitem(sys.modules, name, module)
        exec(textwrap.dedent(block), module.__dict__)
    network, config, data, study = map(sys.modules.get, PLACES)
    monkeypatch.setitem(registry._ALL, "mine", network.Mine)
    monkeypatch.setitem(sources.EMBEDDED, "mine", data)
    monkeypatch.setattr(engine, "load", lambda n: config.get_config() if n == "mine" else load(n))
    return network, config, data, study


def test_the_recipe_trains_the_network_on_the_data(modules):
    config = modules[1].get_config()
    assert set(config.model) == {"name", "dtype", *registry.options("mine")}
    exp = experiment.resolve(config, read_only=True)
    shapes = state_lib.variable_shapes(exp.module, exp.input_shape)["params"]
    # 3x3 windows of 1 and 16 maps, then 7x7 places of 32 maps, each with a bias
    expected = 16 * (9 + 1) + 32 * (9 * 16 + 1) + 4 * (49 * 32 + 1)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == expected
    with pytest.raises(ValueError, match="choose one of small, large"):
        modules[1].get_config("middle")


def test_the_stripes_have_their_angles(modules):
    split = sources.load(modules[1].get_config().dataset, "test")
    assert len(split) == 200 and split.info.num_classes == 4
    assert split.images.dtype == np.uint8 and split.images.shape[1:] == (28, 28, 1)
    # The strongest frequency of an image lies across its stripes.
    spectrum = np.abs(np.fft.fft2(split.images[..., 0] - 127.5))[:, :14, :]  # y not negative
    y, x = np.unravel_index(spectrum.reshape(200, -1).argmax(axis=1), spectrum.shape[1:])
    x = np.where(x > 14, x - 28, x)
    found = np.degrees(np.arctan2(y, x)) % 180
    distance = np.abs((found - 45 * split.labels + 90) % 180 - 90)
    assert np.quantile(distance, 0.95) < 15


def test_the_study_has_valid_runs_and_a_verdict(modules):
    study = modules[3].STUDY
    jobs = engine.jobs(study.scales["smoke"], pathlib.Path("runs"))
    assert [job.config({}).dataset.name for job in jobs] == ["mine", "mine"]
    for convolutions, expected in (
        ([4.0, 4.5, 5.0], Verdict.REPRODUCED),
        ([4.0, 90.0, 60.0], Verdict.DIRECTION),
        ([80.0, 81.0, 82.0], Verdict.NOT_REPRODUCED),
    ):
        linear = {"test error, %": [75.0, 75.5, 74.5]}
        values = {"convolutions": {"test error, %": convolutions}, "linear": linear}
        assert study.verdict(Results(values)) == expected
