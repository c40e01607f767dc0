"""Stored configs, and differences between configs."""

import json

from conftest import tiny_config

from configs import compare


def test_differences_are_named_and_paths_may_differ():
    stored = compare.flatten(tiny_config())
    now = tiny_config(**{"batch_size": 50, "dataset.data_dir": "/elsewhere"})
    assert compare.differences(stored, now) == ["batch_size: 100 -> 50"]


def test_a_config_of_an_older_version_is_completed():
    config = tiny_config()
    stored = json.loads(compare.to_json(config))
    del stored["evaluate"]["scales"], stored["init_layers"], stored["predict"]
    stored["schedule"]["learning_rate"] = 0.5
    completed = compare.flatten(compare.from_json(json.dumps(stored)))
    expected = compare.flatten(config) | {"schedule.learning_rate": 0.5}
    assert completed == expected


def test_lists_of_a_stored_config_are_tuples():
    """So that the command line can override them, which checks their type."""
    config = tiny_config(**{"evaluate.scales": (28, 32)})
    stored = compare.from_json(compare.to_json(config))
    assert stored == config
    assert stored.evaluate.scales == (28, 32)


def test_a_field_that_no_longer_exists_is_a_difference():
    config = tiny_config()
    stored = json.loads(compare.to_json(config))
    stored["optimizer"]["nesterov"] = True
    differences = compare.differences(
        compare.flatten(compare.from_json(json.dumps(stored))), config
    )
    assert differences == ["optimizer.nesterov: True -> not there"]
