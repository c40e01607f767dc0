"""Which flag a wrong one stands for."""

import pytest

from configs import compare, resnet
from train_lib.commands import flag_checks

FIELDS = [f"config.{field}" for field in compare.flatten(resnet.get_config("18"))]
KNOWN = ["mode", "workdir", "images", "process_id", "log_dir", *FIELDS]


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("wrkdir", "workdir"),
        ("epochs", "config.epochs"),
        ("data_dir", "config.dataset.data_dir"),
        ("resume", ""),
        ("config.epoch", "config.epochs"),
        ("config.num_epochs", "config.epochs"),
        ("config.early_stopping", ""),
        ("config.lr", ""),
        ("config.optimiser.momentum", "config.optimizer.momentum"),
        ("config.optimizer.name", ""),
        ("config.dataset.batch_size", "config.batch_size"),
        ("config.dataset.path", ""),
        ("config.model.image_size", "config.view.size"),
        ("config.model.num_classes", ""),
        ("config.model.activaton", "config.model.activation"),
        ("config.weight_decay", "config.optimizer.weight_decay"),
    ],
)
def test_only_a_flag_that_is_meant_is_proposed(wrong, meant):
    assert flag_checks.nearest(wrong, KNOWN) == meant
