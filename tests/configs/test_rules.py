"""Rules for single values, at their limits."""

import math

import pytest
from ml_collections import ConfigDict

from configs import rules
from errors import UserError

VALUES = (-0.1, 0, 0.5, 1, 1.1, 2, math.nan, math.inf, True, False)


@pytest.mark.parametrize(
    ("rule", "allowed"),
    [
        (rules.between(0, 1), [0, 0.5, 1]),
        (rules.between(0, 1, "[)"), [0, 0.5]),
        (rules.between(0, 1, "(]"), [0.5, 1]),
        (rules.between(0, 1, "()"), [0.5]),
        (rules.POSITIVE, [0.5, 1, 1.1, 2]),
        (rules.FROM_1, [1, 1.1, 2]),
        (rules.whole(1, 2), [1, 2]),
    ],
)
def test_numbers(rule, allowed):
    assert [value for value in VALUES if rule.allows(value)] == allowed


@pytest.mark.parametrize(
    ("values", "allowed"), [((2, 3), True), ((2, 2), True), ((3, 2), False), ((2,), False)]
)
def test_a_pair_is_a_range(values, allowed):
    assert rules.pair(rules.SIDE).allows(values) == allowed


def test_the_nearest_choice_is_named():
    with pytest.raises(UserError, match=r"name=linaer: did you mean linear\? choose one of linear"):
        rules.one_of("linear cosine").check("name", "linaer")


@pytest.mark.parametrize(
    ("value", "default", "message"),
    [
        (True, 1, "must be of type int, such as 1"),
        (2**31, 1, "must be less than 2\\^31"),
        (math.inf, 1.0, "must be a finite number"),
        ("a\0b", "", "no file or data set can have this name"),
        ([1], "", "must be of type str"),
        ({}, {}, "must be of type dict"),
    ],
)
def test_values_of_another_type_are_refused(value, default, message):
    with pytest.raises(UserError, match=f"^field=.*: {message}"):
        rules.check_type("field", value, default)


def test_ints_and_lists_of_json_are_accepted():
    for value, default in ((1, 1.0), ([1], ()), (ConfigDict({"c1": 1.0}), {})):
        rules.check_type("field", value, default)
