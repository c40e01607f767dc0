"""Which values of variables are possible."""

import jax.numpy as jnp
import numpy as np
import pytest

from models import sound

MEAN, VAR = ("batch_stats", "bn1", "mean"), ("batch_stats", "bn1", "var")


@pytest.mark.parametrize("library", [np, jnp])
def test_what_is_not_finite_and_negative_variances_are_not_possible(library):
    for value in (np.nan, np.inf, -np.inf):
        for path in (MEAN, VAR):
            assert not sound.is_sound(path, library.asarray([1.0, value, 2.0]))
    assert not sound.is_sound(VAR, library.asarray([1.0, -1e-30]))
    assert sound.is_sound(MEAN, library.asarray([1.0, -3e38]))
    assert sound.is_sound(VAR, library.asarray([0.0, 3e38]))
    assert sound.is_sound(VAR, library.zeros((0,)))


def test_the_first_fault_is_named():
    leaves = {MEAN: np.zeros(2), VAR: np.array([1.0, -1.0])}
    with pytest.raises(ValueError, match=r"^batch_stats/bn1/var is not finite or has a negative"):
        sound.check(leaves)
    sound.check({MEAN: np.full(2, -1.0)})
