"""The network of one layer of filters: its fixed weights, and that training leaves them alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.filter_bank import get_config
from errors import UserError
from models import filters, registry
from models.filter_bank import FilterBank
from train_lib.train import train_and_evaluate


def test_it_is_simple_cells_complex_cells_and_a_linear_classifier():
    network = FilterBank(maps=8, window=5, pool_window=3, pool_stride=2)
    x = np.random.default_rng(0).uniform(size=(2, 14, 12, 1)).astype(np.float32)
    variables = network.init(jax.random.key(1), x)
    simple = filters.simple_cells(x, 2**0.5 * filters.oriented_bank(5, 2), border="zero")
    one_phase = filters.complex_cells(simple, phases=1, window=3, stride=2)
    output = variables["params"]["output"]
    expected = one_phase.reshape(2, -1) @ output["kernel"] + output["bias"]
    assert np.allclose(network.apply(variables, x), expected, atol=1e-4)


def test_oriented_filters_of_colour_images_and_odd_numbers_of_maps():
    network = FilterBank(maps=6)
    kernel = network.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))["params"]["filters"][
        "kernel"
    ]
    assert kernel.shape == (7, 7, 3, 6)
    assert np.array_equal(kernel[:, :, 0], kernel[:, :, 2])
    assert np.allclose(np.square(kernel).sum(axis=(0, 1, 2)), 2, atol=1e-5)


@pytest.mark.parametrize("argument, moves", [("oriented", False), ("tuned", True)])
def test_fixed_filters_stay_and_tuned_ones_move(argument, moves, tmp_path):
    config = get_config(argument)
    config.steps = 3
    config.steps_per_dispatch = 1
    state = train_and_evaluate(config, str(tmp_path))
    kernel = np.asarray(state.params["filters"]["kernel"])
    assert np.array_equal(kernel, np.sqrt(np.float32(2)) * filters.oriented_bank(7, 4)) != moves
    assert np.allclose(kernel, 2**0.5 * filters.oriented_bank(7, 4), atol=0.1)
    assert np.any(state.params["output"]["bias"])


def test_even_windows_are_refused():
    section = {"name": "filter_bank", "dtype": "float32", "window": 6}
    with pytest.raises(UserError, match="window=6: must be an odd whole number"):
        registry.create(section, 10)
