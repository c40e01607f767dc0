"""A net with another framework's weights: its settings, its values, and what is left of the file.

The file is of torchvision's kind, written here; tests/models and tests/parity look at all kinds.
"""

import json
import re
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from configs import compare
from configs.load import load
from configs.resnet import get_config
from errors import UserError
from input_pipeline import imagenet
from models import pretrained
from models.resnet import ResNet
from train_lib import experiment
from train_lib import state as state_lib
from train_lib import workdir as workdir_lib
from train_lib.checkpoints import Checkpoints
from train_lib.commands import evaluate, export, summary
from train_lib.evaluation import ensemble
from train_lib.evaluation.trained import load_pretrained, load_run
from train_lib.train import train_and_evaluate
from train_lib.weights import foreign, warm_start

GIVEN = {"view.size", "view.test_scale", "view.train_scale"}  # small pictures
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLASSES = ["ant", "bee", "cat"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder of random photographs, and weights of torchvision's ResNet-18 for its classes."""
    root = tmp_path_factory.mktemp("foreign")
    rng = np.random.default_rng(0)
    for name in CLASSES:
        for part, count in (("train", 4), ("val", 3)):
            (root / "data" / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (32, 32, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(root / "data" / part / name / f"{i}.png")
    module = ResNet(depth=18, num_classes=3)
    variables = jax.jit(module.init)(jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
    variables["params"]["fc"]["kernel"] *= 3  # so that the classes differ
    tensors = pretrained.to_torchvision(module, jax.device_get(variables), (32, 32, 3))
    safetensors.numpy.save_file(tensors, root / "net.safetensors")
    return root


def config_of(root, **fields):
    config = get_config("18")
    config.update_from_flattened_dict(
        {
            "dataset.name": "folder",
            "dataset.data_dir": str(root / "data"),
            "view.size": 32,
            "view.train_scale": (32, 32),
            "view.test_scale": 32,
            "init_from": str(root / "net.safetensors"),
            "num_devices": 1,
            **fields,
        }
    )
    return config


def pictures(root):
    paths = sorted((root / "data" / "val").glob("*/*.png"))
    return paths, np.stack([np.asarray(Image.open(path)) for path in paths])


def by_hand(root):
    module = ResNet(depth=18, num_classes=3)
    tensors = safetensors.numpy.load_file(root / "net.safetensors")
    variables = pretrained.from_torchvision(module, tensors, (32, 32, 3))
    inputs = (pictures(root)[1] / np.float32(255) - np.float32(MEAN)) / np.float32(DEVIATION)
    return np.asarray(jax.nn.softmax(module.apply(variables, inputs)))


def test_weights_set_their_settings_except_given_ones(root, tmp_path, capsys):
    config = config_of(root)
    settled = foreign.settle(config, given=GIVEN)
    assert settled.preprocess.given_mean == MEAN
    assert settled.preprocess.deviation == DEVIATION
    assert (settled.preprocess.mean, settled.preprocess.high) == ("given", 1.0)
    assert (settled.view.size, settled.view.test_scale) == (32, 32)
    assert config.preprocess.mean == "pixel"  # a copy was changed
    assert "sets preprocess.mean=given, " in capsys.readouterr().err
    assert foreign.settle(settled) is settled  # once
    assert foreign.settle(config).view.size == 224
    # A size that is given has a scale of its own: 32, not the 256 of the weights' 224.
    settled = foreign.settle(config, given={"view.size"})
    assert (settled.view.size, settled.view.test_scale) == (32, 32)
    config.init_settings = ""
    assert foreign.settle(config) is config
    # Another mean that is given has a preprocessing of its own.
    config.init_settings, config.preprocess.mean = "auto", "none"
    settled = foreign.settle(config, given={"preprocess.mean"})
    assert settled.preprocess.to_dict() == config.preprocess.to_dict()
    # A run goes before the file.
    workdir = tmp_path / "run"
    (workdir / "checkpoints" / "3").mkdir(parents=True)
    workdir_lib.write_text(workdir / "config.json", compare.to_json(config_of(root)))
    assert foreign.settle(config, workdir, read_only=True) is config


@pytest.mark.slow
def test_a_weight_file_is_evaluated_and_exported_without_a_run(root, tmp_path, capsys):
    config = foreign.settle(config_of(root), given=GIVEN)
    line = json.loads(evaluate.evaluate_run(config, tmp_path))
    assert f"there is no run in {tmp_path}: using config.init_from=" in capsys.readouterr().err
    expected, labels = by_hand(root), np.repeat([0, 1, 2], 3)
    assert (line["examples"], line["step"]) == (9, 0)
    assert line["top1_error"] == np.mean(expected.argmax(axis=1) != labels)
    loss = -np.log(expected[np.arange(9), labels]).mean()
    assert line["loss"] == pytest.approx(loss, rel=1e-4)
    config = config_of(root, init_from="")  # as a member of an ensemble, with what is given
    config.evaluate.ensemble = str(root / "net.safetensors")
    config.view.update({"size": 24, "test_scale": 24})
    (exp,) = (member.exp for member in ensemble.find(config, tmp_path, given=GIVEN))
    assert (exp.input_shape, exp.config.preprocess.given_mean) == ((24, 24, 3), MEAN)
    config = foreign.settle(config_of(root), given=GIVEN)
    export.export_run(config, tmp_path, str(tmp_path / "own.safetensors"))
    net = load_run(tmp_path / "own.safetensors")
    assert list(net.class_names) == CLASSES
    assert str(root) not in compare.to_json(net.config)  # another machine has no such path
    np.testing.assert_allclose(net.predict(pictures(root)[1]), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_load_pretrained(root, capsys):
    config = config_of(root, **{"dataset.name": "imagenet2012", "dataset.data_dir": "/nowhere"})
    config.init_settings = ""
    config.preprocess.update(
        {"mean": "given", "given_mean": MEAN, "deviation": DEVIATION, "high": 1.0}
    )
    net = load_pretrained(config, root / "net.safetensors")
    assert list(net.class_names) == ["0", "1", "2"]
    paths, images = pictures(root)
    np.testing.assert_allclose(net.predict(images), by_hand(root), rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(net.predict(paths), net.predict(images))
    named = load_pretrained("resnet:18", root / "net.safetensors", class_names=CLASSES)
    assert list(named.class_names) == CLASSES
    assert named.input_shape == (224, 224, 3)
    assert named.config.view.test_scale == 256
    config = load("resnet:18")
    config.view.test_scale = 232
    kept = load_pretrained(config, root / "net.safetensors", given=["view.test_scale"])
    assert kept.config.view.test_scale == 232
    assert kept.config.preprocess.given_mean == named.config.preprocess.given_mean
    for call, message in (
        (("resnet:19", "net.safetensors"), "choose one of 50, 18"),
        (("resnext:50", "net.safetensors"), "model=resnext: did you mean resnet"),
        (("resnet:50", "net.safetensors"), "the weights do not fit the model: "),
        (("vgg:A", "net.safetensors"), "do not fit the model: .*missing"),
        (("lenet5", "net.safetensors"), "torchvision has no lenet5"),
        (("resnet:18", "data"), "is not a weight file of another framework"),
        (("resnet:18", "no.pth"), "no weight file .*no.pth"),
        (("resnet:18", "no.safetensors"), "no weight file .*no.safetensors: check the path"),
    ):
        with pytest.raises(UserError, match=message) as error:
            load_pretrained(call[0], root / call[1])
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="has 3 classes, not 2"):
        load_pretrained("resnet:18", root / "net.safetensors", class_names=["a", "b"])


def test_weights_for_a_thousand_classes_give_words(root, tmp_path, monkeypatch):
    tensors = safetensors.numpy.load_file(root / "net.safetensors")
    tensors["fc.weight"] = np.zeros((1000, 512), np.float32)
    tensors["fc.bias"] = np.zeros(1000, np.float32)
    safetensors.numpy.save_file(tensors, tmp_path / "net.safetensors")
    config = config_of(root, **{"view.train_scale": (256, 256)})  # a data set of three classes
    for model in ("resnet:18", config):
        net = load_pretrained(model, tmp_path / "net.safetensors")
        assert net.class_names[388] == "n02510455"  # as ImageNet's data set has it
        monkeypatch.setattr(type(net), "predict", lambda self, pictures: np.eye(1000)[[388, 0]])
        assert [best[0] for (best, *_) in net.top([])] == ["giant panda", "tench"]


def test_a_suffix_may_be_in_capitals(root, tmp_path):
    shutil.copy(root / "net.safetensors", tmp_path / "NET.SAFETENSORS")
    (tmp_path / "CUT.PTH").write_bytes((root / "net.safetensors").read_bytes()[:1000])
    expected = load_pretrained("resnet:18", root / "net.safetensors").params
    actual = load_pretrained("resnet:18", tmp_path / "NET.SAFETENSORS").params
    jax.tree.map(np.testing.assert_array_equal, actual, expected)
    with pytest.raises(UserError, match=r"CUT\.PTH"):
        load_pretrained("resnet:18", tmp_path / "CUT.PTH")


def test_a_damaged_file_is_reported_as_such(root, tmp_path):
    path = tmp_path / "cut.safetensors"
    path.write_bytes((root / "net.safetensors").read_bytes()[:-1])
    with pytest.raises(UserError, match=r"cut\.safetensors .*: it is damaged, or is not a file of"):
        load_pretrained("resnet:18", path)


def test_a_summary_shows_the_network_of_the_weights(root, capsys):
    def shape(given):
        config = config_of(root, **{"view.train_scale": (256, 256)})
        return json.loads(summary.summarise(config, "json", given))["input_shape"]

    assert shape(GIVEN) == [32, 32, 3]
    assert shape({"view.train_scale"}) == [224, 224, 3]
    assert (
        "view.size=224, view.test_scale=256, view.interpolation=bilinear, model.pool1_padding=1"
        in capsys.readouterr().err
    )


def test_with_a_list_of_names_the_config_sets_the_preprocessing(root, tmp_path, capsys):
    config = config_of(root)
    config.preprocess.update({"mean": "given", "given_mean": MEAN, "deviation": DEVIATION})
    config.preprocess.high = 1.0
    entries = pretrained.torchvision.FRAMEWORK.entries(ResNet(depth=18, num_classes=3))
    names = {"/".join(entry.path[1:]): entry.key for entry in entries if entry.path}
    (tmp_path / "names.json").write_text(json.dumps(names))
    net = load_pretrained(config, root / "net.safetensors", tmp_path / "names.json")
    message = capsys.readouterr().err
    assert "net.safetensors does not show these settings" in message
    assert "preprocess.mean=given" in message and "model.shortcut_padding=after" in message
    actual = net.predict(pictures(root)[1])
    np.testing.assert_allclose(actual, by_hand(root), rtol=1e-3, atol=1e-5)
    (tmp_path / "names.json").write_text(json.dumps(names | {"fc/bias": "fc.bais"}))
    with pytest.raises(UserError, match=r"fc\.bais.* did you mean fc\.bias\?"):
        load_pretrained(config, root / "net.safetensors", tmp_path / "names.json")


def test_a_resumed_run_does_not_need_its_list_of_names(root, tmp_path):
    config = config_of(root, init_names="names.json")  # which does not exist
    with pytest.raises(UserError, match=r"cannot read the names in names\.json"):
        foreign.settle(config)
    settled = config.copy_and_resolve_references()
    settled.init_settings = ""
    (tmp_path / "config.json").write_text(json.dumps(settled.to_dict()))
    assert foreign.settle(config, tmp_path) == settled


@pytest.mark.slow
def test_a_resumed_run_does_not_need_the_weight_file(root, tmp_path, capsys):
    """With another number of classes, all but the last layer are loaded."""
    shutil.copytree(root / "data", tmp_path / "data")
    for part in ("train", "val"):
        shutil.rmtree(tmp_path / "data" / part / "cat")
    shutil.copy(root / "net.safetensors", tmp_path)
    fields = {"init_layers": ("!fc/*",), "epochs": 1.0, "batch_size": 8, "augment.lighting": "none"}

    def config():
        return foreign.settle(config_of(tmp_path, **fields), tmp_path / "run", GIVEN)

    state = train_and_evaluate(config(), tmp_path / "run")
    message = capsys.readouterr().err
    assert re.search(r"net\.safetensors: .*conv1, conv2_1/bn1, ", message)
    assert "drawn  fc" in message
    assert state.params["fc"]["bias"].shape == (2,)
    start = Checkpoints(tmp_path / "run", read_only=True).restore_variables(0)[1]
    tensors = safetensors.numpy.load_file(root / "net.safetensors")
    kernel = np.transpose(tensors["layer1.0.conv1.weight"], (2, 3, 1, 0))
    np.testing.assert_array_equal(start["params"]["conv2_1"]["conv1"]["kernel"], kernel)
    (tmp_path / "net.safetensors").unlink()
    fields["epochs"] = 2.0
    assert train_and_evaluate(config(), tmp_path / "run", allow_config_change=True).step == 2
    assert tuple(load_run(tmp_path / "run").config.preprocess.given_mean) == MEAN
    # It is asked without being told again.
    fields["init_from"] = ""
    settled = config_of(tmp_path, **fields | {"init_layers": ()})
    settled = foreign.settle(settled, tmp_path / "run", GIVEN, read_only=True)
    assert json.loads(evaluate.evaluate_run(settled, tmp_path / "run"))["step"] == 2
    del fields["init_from"]
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(UserError, match=r"config\.init_from=.*there is no such file"):
        train_and_evaluate(config(), tmp_path / "run")


def test_weight_files_that_do_not_fit_are_one_line(root, tmp_path):
    config = config_of(root, **{"model.depth": 34})
    with pytest.raises(UserError, match=r"net\.safetensors: the weights do not fit .* missing"):
        evaluate.evaluate_run(foreign.settle(config, given=GIVEN), tmp_path)
    content = (root / "net.safetensors").read_bytes()
    (tmp_path / "cut.pth").write_bytes(content[:1000])
    with pytest.raises(UserError, match=r"file of another framework: .*load_pretrained opens it"):
        load_run(root / "net.safetensors")
    config = config_of(root, init_from="net.bin")
    with pytest.raises(UserError, match=r"config\.init_from=net\.bin: give a run's folder, or a"):
        evaluate.evaluate_run(config, tmp_path)
    config = config_of(root, init_from=str(tmp_path), init_names="names.json")
    with pytest.raises(UserError, match="is not a file of another framework: leave"):
        foreign.settle(config)
    config = config_of(root, init_from=str(tmp_path / "cut.pth"))
    with pytest.raises(UserError, match=r"cut\.pth"):
        foreign.settle(config)


def exported_with_names(root, path, names):
    """The file of `root`, as --mode=export --format=torchvision writes it."""
    tensors = safetensors.numpy.load_file(root / "net.safetensors")
    metadata = {"class_names": json.dumps(names), "settings": "{}"}
    safetensors.numpy.save_file(tensors, path, metadata)
    return str(path)


def classes_in_evaluation(monkeypatch, tmp_path, config):
    """(class names of the network, class names and labels of the split), without computing it."""

    class Reached(Exception):
        pass

    def reach(members, split, title):
        raise Reached(tuple(members[0].class_names), split.info.class_names, list(split.labels))

    monkeypatch.setattr(ensemble, "evaluate", reach)
    with pytest.raises(Reached) as reached:
        evaluate.evaluate_run(config, tmp_path)
    return reached.value.args


def settled(root, **fields):
    return foreign.settle(config_of(root, **fields), given=GIVEN)


def started(config):
    """Compares the classes, as the start of a run does."""
    exp = experiment.resolve(config)
    shapes = state_lib.variable_shapes(exp.module, exp.input_shape)
    warm_start._check_class_order(exp, shapes)


def test_the_names_in_a_file_decide_its_classes(root, tmp_path, monkeypatch):
    other = exported_with_names(root, tmp_path / "other.safetensors", ["ant", "bee", "dog"])
    with pytest.raises(
        UserError, match=r"other\.safetensors was trained on other classes \(3: ant,"
    ):
        evaluate.evaluate_run(settled(root, init_from=other), tmp_path)
    names = ("cat", "ant", "bee")
    turned = exported_with_names(root, tmp_path / "turned.safetensors", names)
    config = settled(root, init_from=turned)
    actual = classes_in_evaluation(monkeypatch, tmp_path, config)
    assert actual == (names, names, [1] * 3 + [2] * 3 + [0] * 3)
    with pytest.raises(
        UserError, match=r"classes cat, ant, bee, \.\.\. and folder has them in ano"
    ):
        started(config)
    config.init_layers = ("!fc/*",)
    started(config)


def folders_of(root, tmp_path, names):
    """A config whose data set has the folders `names`."""
    for part in ("train", "val"):
        for name, new in zip(CLASSES, names, strict=True):
            shutil.copytree(root / "data" / part / name, tmp_path / "data" / part / new)
    return settled(tmp_path, init_from=str(root / "net.safetensors"))


def test_of_imagenet_only_known_names_are_brought_into_its_order(root, tmp_path, monkeypatch):
    config = folders_of(root, tmp_path, ("Shark-fish", "gold_fish", "tench"))
    assert foreign.class_names_of(experiment.resolve(config, read_only=True))[0] == "Shark-fish"
    published = dict(n1="tench", n2="goldfish", n3="shark fish")
    monkeypatch.setattr(imagenet, "class_names", lambda: published)
    names = ("tench", "gold_fish", "Shark-fish")
    actual = classes_in_evaluation(monkeypatch, tmp_path, config)
    assert actual == (names, names, [2] * 3 + [1] * 3 + [0] * 3)
    with pytest.raises(UserError, match=r"another order"):
        started(config)
    published["n1"] = "eel"
    for command in (evaluate.evaluate_run, lambda config, _: started(config)):
        with pytest.raises(
            UserError, match=r"tench is not a name of a class .*by WordNet.*'!fc/\*'"
        ):
            command(config, tmp_path)
    with pytest.raises(UserError, match=r"its 3 classes are, and tench is not a name"):
        load_pretrained(config, config.init_from)


def test_numbers_in_the_same_text_and_other_counts_of_classes_are_refused(root, tmp_path):
    config = folders_of(root, tmp_path, ("class_0", "class_10", "class_2"))
    for command in (evaluate.evaluate_run, lambda config, _: started(config)):
        with pytest.raises(
            UserError,
            match=r"zeros .*ImageFolder .* to 00_class_0, 01_class_10, 02_class_2, .*'!fc/\*',",
        ):
            command(config, tmp_path)
    for number, name in enumerate(("class_0", "class_10", "class_2")):
        for part in ("train", "val"):
            folder = tmp_path / "data" / part / name
            folder.rename(folder.with_name(f"{number:02}_{name}"))
    assert foreign.class_names_of(experiment.resolve(config))[1] == "01_class_10"
    for part in ("train", "val"):
        shutil.rmtree(tmp_path / "data" / part / "01_class_10")
    with pytest.raises(UserError, match=r"has 3 classes and folder has 2: give .*leave the last"):
        evaluate.evaluate_run(config, tmp_path)


def test_folders_with_numbers_as_names_are_in_the_order_of_the_weights(root, tmp_path, monkeypatch):
    """As text 10 comes before 2. Of published weights for ImageNet, class 2 is the number 2."""
    config = folders_of(root, tmp_path, ("0", "10", "2"))
    for command in (evaluate.evaluate_run, lambda config, _: started(config)):
        with pytest.raises(
            UserError, match=r"the folders 0, 10, 2, \.\.\. are in the order of text"
        ):
            command(config, tmp_path)
    monkeypatch.setattr(
        imagenet, "class_names", lambda: dict(n1="tench", n2="goldfish", n3="shark")
    )
    names = ("0", "2", "10")
    actual = classes_in_evaluation(monkeypatch, tmp_path, config)
    assert actual == (names, names, [0] * 3 + [2] * 3 + [1] * 3)
    exp = experiment.resolve(config, read_only=True)
    assert foreign.class_names_of(exp) == names  # for predictions
    with pytest.raises(
        UserError, match=r"classes 0, 2, 10, .* another order .*rename them, or leave"
    ):
        started(config)
