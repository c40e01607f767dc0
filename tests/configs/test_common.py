"""What the config files share."""

import copy

import pytest
from absl import flags
from ml_collections import ConfigDict, FrozenConfigDict, config_flags

from configs import alexnet, compare, resnet
from configs.common import scale_with_size
from train_lib.commands.flag_checks import ConfigParser


def scales(config):
    return config.view.size, config.view.train_scale, config.view.test_scale


def from_command_line(*arguments):
    """The config that main.py gets from its arguments."""
    values, argv = flags.FlagValues(), ["main.py", *arguments]
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    values["config"].parser = ConfigParser(values["config"].parser)
    values(argv)
    return values.config


def test_scales_follow_the_size_until_they_are_given(tmp_path):
    """64 of 73 to 137 pixels is as 224 of 256 to 480."""
    (tmp_path / "config.json").write_text(compare.to_json(resnet.get_config("18")))
    stored = f"--config={tmp_path}/config.json"
    for config in (stored, "--config=configs/resnet.py:18"):
        for given, expected in (
            ((), (224, (256, 480), 256)),
            (("view.size=64",), (64, (73, 137), 73)),
            (("view.size=64", "view.test_scale=80"), (64, (73, 137), 80)),
            (("view.train_scale=(64, 96)", "view.size=64"), (64, (64, 96), 73)),
            (("view.test_scale=300",), (224, (256, 480), 300)),
        ):
            arguments = [config, *(f"--config.{field}" for field in given)]
            assert scales(from_command_line(*arguments)) == expected


def test_a_config_whose_scales_follow_is_stored_and_copied_with_their_values():
    config = resnet.get_config("18")
    config.view.size = 64
    stored = compare.from_json(compare.to_json(config))
    assert compare.differences(compare.flatten(config), stored) == []
    for copied in (copy.deepcopy(config), ConfigDict(config.to_dict()), FrozenConfigDict(config)):
        assert scales(copied) == (64, (73, 137), 73)
    stored.view.size = 32
    assert scales(stored) == (32, (73, 137), 73)  # a stored config keeps what it says


@pytest.mark.parametrize(("size", "expected"), [(0, 256), (112, 128), (448, 512)])
def test_both_scales_stay_equal_also_where_a_recipe_does_not_cut(size, expected):
    """A mean image, as AlexNet's, needs equal scales. Without a size, scales belong to 224."""
    config = alexnet.get_config()
    config.view.size = size
    assert scales(config) == (size, (expected, expected), expected)
    view = ConfigDict({"size": 0, "train_scale": (256, 256), "test_scale": 256})
    scale_with_size(view)
    view.size = size
    assert (view.train_scale, view.test_scale) == ((expected, expected), expected)
