"""What training prints."""

import types

from configs import lenet5
from train_lib import train
from train_lib.experiment import resolve


def test_the_opening_block_has_one_line_for_each_fact_in_use(tmp_path, capsys):
    config = lenet5.get_config()
    config.update({"seed": 7, "steps": 200, "num_devices": 1})
    state = types.SimpleNamespace(params={}, step=0)
    train.print_opening(resolve(config, tmp_path), state, None)
    lines = capsys.readouterr().err.splitlines()
    rows = dict(line.strip().split("  ", 1) for line in lines)
    assert list(rows) == [
        *("model", "data", "images", "augment", "devices", "batch", "rate", "update", "steps"),
        *("seed", "outputs"),
    ]
    assert rows["augment"].startswith("translate 2, scale 0.15")
    assert (rows["images"], rows["rate"], rows["seed"]) == ("32 x 32 x 1", "0.001, cosine", "7")
    assert rows["steps"] == "200 (2.219 epochs of 90.1)"
    config.augment.update({"translate": 0.0, "scale": 0.0, "squeeze": 0.0, "shear": 0.0})
    train.print_opening(resolve(config, tmp_path), state, None)
    assert "augment" not in capsys.readouterr().err
