"""Files that --mode=export writes for other frameworks, opened by those."""

import jax
import numpy as np
from against import torch
from against import torchvision as tv

from configs.resnet import get_config
from train_lib import experiment
from train_lib.commands import export
from train_lib.evaluation.trained import Trained, load_pretrained

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def test_torchvision_opens_an_export_and_computes_the_same(tmp_path):
    config = get_config("18")
    config.view.update({"size": 64, "train_scale": (64, 64), "test_scale": 64})
    fields = {"mean": "given", "given_mean": MEAN, "deviation": DEVIATION, "high": 1.0}
    config.preprocess.update(fields)
    config.augment.lighting = "none"
    exp = experiment.resolve(config)
    draw = jax.jit(lambda: exp.module.init(jax.random.key(0), np.zeros((1, 64, 64, 3))))
    net = Trained(exp, list(exp.info.class_names), lambda: (3, jax.device_get(draw())))
    file = tmp_path / "net.safetensors"
    _, write = export.FORMS["torchvision"]
    write(file, net)

    from safetensors.torch import load_file  # needs torch, which `against` asks for

    theirs = tv.models.resnet18()
    theirs.load_state_dict(load_file(file), strict=True)
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.uint8)
    inputs = (images / 255.0 - MEAN) / DEVIATION
    inputs = torch.from_numpy(inputs.transpose(0, 3, 1, 2).astype(np.float32))
    with torch.no_grad():
        expected = torch.softmax(theirs.eval()(inputs), dim=1).numpy()
    np.testing.assert_allclose(net.predict(images), expected, rtol=1e-3, atol=1e-7)

    torch.save(theirs.state_dict(), tmp_path / "net.pth")  # and back
    config.update({"init_settings": ""})
    back = load_pretrained(config, tmp_path / "net.pth")
    jax.tree.map(np.testing.assert_array_equal, dict(back.variables), dict(net.variables))
