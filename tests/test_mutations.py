"""The mutations of tests/stress/mutations.py still fit the code that they change."""

import pytest

from tests.stress.mutations import MUTATIONS, ROOT


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_line_that_a_mutation_replaces_occurs_once(name):
    file, before, _, test = MUTATIONS[name]
    assert (ROOT / file).read_text().count(before) == 1
    assert (ROOT / test.partition("::")[0]).exists()
