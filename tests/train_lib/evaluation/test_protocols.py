"""Every protocol against plain loops over images, on one device and on eight."""

import csv
import dataclasses
import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs import googlenet, mlp, resnet_cifar10, vgg
from errors import UserError
from input_pipeline import crops, prepare, sources, views
from input_pipeline.split import ArraySplit
from train_lib import experiment, progress
from train_lib.commands import evaluate, predict
from train_lib.evaluation import ensemble, passes, protocols, result_files, trained
from train_lib.train import train_and_evaluate

pytestmark = pytest.mark.usefixtures("resnet_of_8_layers")

SIZE, SCALE = 16, 20
NAMES = ["blue", "green", "red"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Noisy images of many sizes, with one colour for each class. The test set has 7 (a prime)."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for part, count in (("train", 12), ("val", 7)):
        for i in range(count):
            name = NAMES[i % 3]
            folder = root / part / name
            folder.mkdir(parents=True, exist_ok=True)
            colour = np.eye(3)[2 - i % 3] * 60 + 90
            height, width = [(20, 33), (41, 30), (25, 25)][i % 3] if i % 2 else (24, 40)
            small = rng.normal(colour, 60, (height // 4, width // 4, 3)).clip(0, 255)
            image = Image.fromarray(small.astype(np.uint8)).resize((width, height))
            image.save(folder / f"{i}.png")
    return root


def config_of(kind, folder, **overrides):
    config = {"cifar": resnet_cifar10, "mlp": mlp}[kind].get_config()
    if kind == "cifar":
        config.model.depth = 8
    config.update_from_flattened_dict(
        {
            "dataset.name": "folder",
            "dataset.data_dir": str(folder),
            "view.size": SIZE,
            "view.train_scale": (SCALE, SCALE),
            "view.test_scale": SCALE,
            "preprocess.pad": 0,
            "preprocess.crop": 0,
            "preprocess.mean": "channel",
            "preprocess.low": 0.0,
            "preprocess.high": 4.0,
            "augment.crop": False,
            "batch_size": 6,
            "epochs": 3.0,
            "num_devices": 1,
            "steps_per_dispatch": 1,
            "schedule.name": "constant",
            "schedule.boundaries": (),
            "schedule.factors": (),
            "schedule.learning_rate": 0.02,
            "evaluate.every_epochs": 3.0,
            "evaluate.batch_size": 4,
            **overrides,
        }
    )
    return config


@pytest.fixture(scope="module")
def runs(pictures, tmp_path_factory, resnet_of_8_layers):
    """Two runs: a small ResNet with the mean colour, an MLP with a mean image of the square."""
    folder = tmp_path_factory.mktemp("runs")
    config = config_of("cifar", pictures)
    train_and_evaluate(config, folder / "cifar")
    square = {"view.square": True, "preprocess.mean": "pixel"}
    train_and_evaluate(config_of("mlp", pictures, **square), folder / "mlp")
    return folder


def opened(runs, kind, pictures, **overrides):
    if kind == "mlp":
        overrides = {"view.square": True, "preprocess.mean": "pixel", **overrides}
    config = config_of(kind, pictures, **overrides)
    (member,) = ensemble.find(config, runs / kind)
    return member.exp, member.state(), sources.load(config.dataset, "test")


def predicted(exp, state, split):
    meter = progress.Meter(len(split), "test")
    return passes.predict(protocols.of(exp).passes(), state, split, meter)


def softmax(logits):
    return np.asarray(jax.nn.softmax(jnp.asarray(logits, jnp.float32)), np.float64)


def forward(exp, state, module=None):
    """float32 [b, h, w, c], network input -> logits."""
    module = module or exp.module
    return jax.jit(lambda x: module.apply(state.variables(), x, train=False))


def rescaled(path, scales):
    """A picture file at each of the shorter sides, by Pillow."""
    picture = Image.open(path).convert("RGB")
    for side in scales:
        height, width = views.rescaled(picture.height, picture.width, side)
        yield np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))


def crop_by_crop(exp, state, split, kind, scales):
    """A loop over images, scales, crops and mirrors, one at a time."""
    network, result = forward(exp, state), []
    mean = exp.statistics.image if exp.config.preprocess.mean == "pixel" else exp.statistics.mean
    for i in range(len(split)):
        outputs = []
        for whole in rescaled(split.path(i), scales):
            for crop in crops.KINDS[kind](*whole.shape[:2], SIZE):
                part = whole[crop.top : crop.top + crop.side, crop.left : crop.left + crop.side]
                if crop.side != SIZE:
                    square = Image.fromarray(part)
                    how = Image.Resampling.BILINEAR, None, 2.0  # our reducing gap
                    part = np.asarray(square.resize((SIZE, SIZE), *how))
                y, x = crop.offset
                less = mean[y : y + SIZE, x : x + SIZE] if mean.ndim == 3 else mean
                pixels = (part - np.asarray(less, np.float32)) * np.float32(4 / 255)
                for one in (pixels, pixels[:, ::-1]):
                    outputs.append(softmax(network(one[None].astype(np.float32))[0]))
        result.append(np.mean(outputs, axis=0))
    return np.array(result)


@pytest.mark.parametrize("devices", [1, pytest.param(8, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("kind", "overrides", "crops_kind", "scales"),
    [
        ("mlp", {"evaluate.protocol": "ten_crop"}, "ten_crop", (SCALE,)),
        ("mlp", {"evaluate.protocol": "ten_crop", "evaluate.batch_size": 100}, "ten_crop", (20,)),
        (
            "cifar",
            {"evaluate.protocol": "multi_crop", "evaluate.scales": (16, 20, 30)},
            "grid",
            (16, 20, 30),
        ),
        (
            "cifar",
            {
                "evaluate.protocol": "multi_crop",
                "evaluate.crops": "squares",
                "evaluate.multi_scale": True,
            },
            "squares",
            (20, 52, 84, 116),
        ),
    ],
)
def test_crops_equal_a_plain_loop(runs, pictures, devices, kind, overrides, crops_kind, scales):
    exp, state, split = opened(runs, kind, pictures, num_devices=devices, **overrides)
    result, labels = predicted(exp, state, split)
    expected = crop_by_crop(exp, state, split, crops_kind, scales)
    np.testing.assert_allclose(result, expected, atol=2e-5)
    np.testing.assert_array_equal(labels, split.labels)
    assert expected.std() > 0.01


@pytest.fixture(scope="module")
def class_map():
    """(exp, state, an image) -> the ResNet's class map of this image alone.

    Each image is computed once: all of the tests evaluate the same run.
    """
    networks, maps = [], {}

    def compute(exp, state, image):
        if not networks:
            module = exp.module.clone(class_map=True, image_size=SIZE)
            networks.append(forward(exp, state, module))
        key = image.shape, image.tobytes()
        if key not in maps:
            maps[key] = np.asarray(networks[0](image[None]))[0]
        return maps[key]

    return compute


def dense_by_image(class_map, exp, state, split, scales, average="scores"):
    result, mean = [], np.asarray(exp.statistics.mean, np.float32)
    for i in range(len(split)):
        outputs = []
        for whole in rescaled(split.path(i), scales):
            pixels = (whole - mean) * np.float32(4 / 255)
            for one in (pixels, pixels[:, ::-1]):
                scores = class_map(exp, state, one.astype(np.float32)).reshape(-1, 3)
                if average == "scores":
                    outputs.append(softmax(scores.mean(axis=0)))
                else:
                    outputs.append(softmax(scores).mean(axis=0))
        result.append(np.mean(outputs, axis=0))
    return np.array(result)


@pytest.mark.parametrize("devices", [1, pytest.param(8, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("overrides", "scales", "average"),
    [
        ({}, (SCALE,), "scores"),
        pytest.param(
            {"evaluate.map_average": "probabilities"},
            (SCALE,),
            "probabilities",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"evaluate.scales": (20, 26, 31)},
            (20, 26, 31),
            "scores",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_dense_equals_the_network_on_each_image_alone(
    runs, pictures, class_map, devices, overrides, scales, average
):
    exp, state, split = opened(
        runs, "cifar", pictures, num_devices=devices, **{"evaluate.protocol": "dense", **overrides}
    )
    result, labels = predicted(exp, state, split)
    expected = dense_by_image(class_map, exp, state, split, scales, average)
    np.testing.assert_allclose(result, expected, atol=2e-5)
    np.testing.assert_array_equal(labels, split.labels)


@pytest.mark.slow
def test_dense_at_the_network_size_equals_the_crop_of_square_images(runs, tmp_path):
    for name in NAMES:
        for part in ("train", "val"):
            (tmp_path / part / name).mkdir(parents=True)
            noise = np.random.default_rng(len(name)).integers(0, 256, (SIZE, SIZE, 3))
            Image.fromarray(noise.astype(np.uint8)).save(tmp_path / part / name / "a.png")
    native = {"view.test_scale": SIZE, "view.train_scale": (SIZE, SIZE)}
    dense, _ = predicted(
        *opened(runs, "cifar", tmp_path, **native, **{"evaluate.protocol": "dense"})
    )
    grid, _ = predicted(
        *opened(runs, "cifar", tmp_path, **native, **{"evaluate.protocol": "multi_crop"})
    )
    np.testing.assert_allclose(dense, grid, atol=1e-5)  # all 25 crops are the image


@pytest.mark.slow
def test_dense_and_multi_crop_are_averaged(runs, pictures):
    def run(protocol):
        overrides = {"evaluate.protocol": protocol, "evaluate.scales": (20, 24)}
        return predicted(*opened(runs, "cifar", pictures, **overrides))[0]

    both = run("dense_and_multi_crop")
    np.testing.assert_allclose(both, (run("dense") + run("multi_crop")) / 2, atol=1e-6)
    np.testing.assert_allclose(both.sum(axis=1), 1, atol=1e-5)


@pytest.mark.slow
def test_images_of_many_sizes_need_few_compilations(runs, tmp_path):
    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        for i in range(40):
            folder = tmp_path / part / NAMES[i % 3]
            folder.mkdir(parents=True, exist_ok=True)
            height, width = rng.integers(20, 60, 2)
            Image.new("RGB", (int(width), int(height)), (9 * i % 256, 99, 0)).save(
                folder / f"{i}.png"
            )
    exp, state, split = opened(runs, "cifar", tmp_path, **{"evaluate.protocol": "dense"})
    (one,) = protocols.of(exp).passes()
    shapes = {batch["image"].shape for batch in one.batches(split)}
    sizes = {Image.open(split.path(i)).size for i in range(len(split))}
    assert len(sizes) > 30
    # A shorter side of 20, the longer one up to 59 in four lengths an octave, either way round.
    assert len(shapes) <= 2 * len({crops.bucket(n) for n in range(20, 60)}) == 16
    traced, loss = [], exp.loss

    def probabilities(logits):
        traced.append(0)
        return loss.probabilities(logits)

    exp = dataclasses.replace(exp, loss=dataclasses.replace(loss, probabilities=probabilities))
    (counted,) = protocols.of(exp).passes()
    passes.predict([counted], state, split, progress.Meter(len(split), "test"))
    assert len(traced) == len(shapes)  # each shape once, in however many batches it came
    assert sum(1 for _ in one.batches(split)) > len(shapes)


def test_ten_crops_cut_on_the_device_equal_a_plain_loop():
    """cuda-convnet cuts 24x24 of 32x32 pixels; this test cuts 6x6 of the digits."""
    config = mlp.get_config()
    config.update_from_flattened_dict(
        {
            "preprocess.crop": 6,
            "dataset.name": "digits",
            "evaluate.protocol": "ten_crop",
            "evaluate.batch_size": 100,
            "num_devices": 2,
        }
    )
    exp = experiment.resolve(config)
    from train_lib import optimizers
    from train_lib import state as state_lib
    from train_lib.distributed import parallel

    optimizer = optimizers.make_optimizer(config.optimizer, lambda step: 0.1)
    state = parallel.replicate(
        state_lib.create(exp.module, optimizer, 0, exp.input_shape), exp.devices
    )
    split = sources.load(config.dataset, "test")
    split = ArraySplit(split.info, split.images[:23], split.labels[:23])
    result, _ = predicted(exp, state, split)
    network, outputs = forward(exp, state), []
    low, high = config.preprocess.low, config.preprocess.high
    side = split.images.shape[1]
    for top, left in crops.corners_and_center(side, 6):
        part = split.images[:, top : top + 6, left : left + 6]
        for one in (part, part[:, :, ::-1]):
            pixels = low + one.astype(np.float32) * np.float32((high - low) / 255)
            outputs.append(softmax(network(pixels)))
    np.testing.assert_allclose(result, np.mean(outputs, axis=0), atol=1e-5)


def evaluated(runs, workdir, config):
    line = evaluate.evaluate_run(config, runs / workdir)
    return json.loads(line)


def test_an_ensemble_averages_probabilities_of_different_networks(runs, pictures, tmp_path):
    single = {}
    for kind in ("cifar", "mlp"):
        exp, state, split = opened(runs, kind, pictures)
        single[kind] = predicted(exp, state, split)[0]
    mean = (single["cifar"] + single["mlp"]) / 2
    config = config_of("cifar", pictures)
    config.evaluate.ensemble = f"{runs / 'cifar'},{runs / 'mlp'}"
    result = json.loads(evaluate.evaluate_run(config, tmp_path))
    assert result["loss"] == pytest.approx(-np.log(mean[np.arange(7), split.labels]).mean(), 1e-5)
    assert result["top1_error"] == pytest.approx((mean.argmax(1) != split.labels).mean())
    assert result["step"] == [6, 6]
    assert result["ensemble"] == [str(runs / "cifar"), str(runs / "mlp")]
    (folder_name,) = [path.name for path in (tmp_path / "evaluation").iterdir()]
    assert folder_name.startswith("folder_test_center_ensemble-")
    with open(tmp_path / "evaluation" / folder_name / "predictions.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [split.id(i) for i in range(7)]
    for row, probabilities, label in zip(rows, mean, split.labels, strict=True):
        assert row["label"] == NAMES[label]
        order = np.argsort(-probabilities, kind="stable")
        assert [row[f"class{k}"] for k in (1, 2, 3)] == [NAMES[i] for i in order]
        values = [float(row[f"probability{k}"]) for k in (1, 2, 3)]
        np.testing.assert_allclose(values, probabilities[order], rtol=1e-4)


def test_parts_of_a_split_have_different_folders():
    parts = ("train", "train[:5]", "train[5:]", "train[:5%]", "train[5%:]", "train[5:9]")
    parts += ("train[:-5]", "train[-5:]", "train[-9:-5]", "train[5:-9]")
    assert len({result_files.folder_name({"split": part}) for part in parts}) == len(parts)


def test_files_of_an_evaluation(runs, pictures):
    config = config_of("cifar", pictures, **{"evaluate.protocol": "dense"})
    line = evaluated(runs, "cifar", config)
    keys = ("dataset", "split", "protocol", "examples", "loss", "top1_error", "top5_error", "step")
    assert set(keys) < set(line)
    assert (line["examples"], line["scales"], line["protocol"]) == (7, [SCALE], "dense")
    assert line["images_per_second"] > 0
    folder = runs / "cifar" / "evaluation" / "folder_test_dense_20_scores"
    assert json.loads((folder / "result.json").read_text()) == line
    matrix = list(csv.reader((folder / "confusion.csv").open()))
    assert matrix[0][1:] == NAMES
    counts = np.array([[int(v) for v in row[1:]] for row in matrix[1:]])
    assert counts.sum(axis=1).tolist() == [3, 2, 2]
    assert 1 - np.trace(counts) / 7 == pytest.approx(line["top1_error"])
    classes = list(csv.DictReader((folder / "per_class.csv").open()))
    assert [float(c["top1_accuracy"]) for c in classes] == pytest.approx(
        np.diag(counts) / counts.sum(axis=1), rel=1e-5
    )
    assert all(float(c["top5_accuracy"]) == 1 for c in classes)
    for name in ("confusion_matrix.png", "misclassified.png"):
        Image.open(folder / name).verify()


def test_both_ways_to_evaluate_a_single_view_agree(runs, pictures):
    """`metrics.evaluate`, which training uses, and the probabilities that ensembles average."""
    config = config_of("cifar", pictures)
    line = evaluated(runs, "cifar", config)
    exp, state, split = opened(runs, "cifar", pictures)
    result, labels = predicted(exp, state, split)
    assert line["loss"] == pytest.approx(-np.log(result[np.arange(7), labels]).mean(), rel=1e-5)
    assert line["top1_error"] == pytest.approx((result.argmax(1) != labels).mean())


def test_predict_follows_the_protocol_and_writes_a_contact_sheet(runs, pictures, tmp_path):
    config = config_of("cifar", pictures, **{"evaluate.protocol": "dense"})
    config.predict.contact_sheet = str(tmp_path / "sheet.png")
    folder = pictures / "val"
    lines = predict.predict_images(config, runs / "cifar", [str(folder)]).splitlines()
    exp, state, split = opened(runs, "cifar", pictures, **{"evaluate.protocol": "dense"})
    result, _ = predicted(exp, state, split)
    assert len(lines) == 7
    for i, line in enumerate(lines):  # folders come in order, as the split's files
        best = result[i].argmax()
        assert line.startswith(f"{split.path(i)}: {NAMES[best]} ({100 * result[i, best]:.0f} %)")
    Image.open(tmp_path / "sheet.png").verify()


def test_predict_with_an_unreadable_file(runs, pictures, tmp_path, capsys):
    (tmp_path / "bad.jpg").write_bytes(b"nothing")
    Image.new("RGB", (40, 30), "red").save(tmp_path / "good.jpg")
    config = config_of("cifar", pictures)
    with pytest.raises(UserError, match=r"bad\.jpg"):
        predict.predict_images(config, runs / "cifar", [str(tmp_path)])
    config.dataset.on_bad_image = "skip"
    result = predict.predict_images(config, runs / "cifar", [str(tmp_path)]).splitlines()
    assert len(result) == 1
    assert "good.jpg" in result[0]
    assert "bad.jpg" in capsys.readouterr().err
    with pytest.raises(UserError, match="no image files"):
        predict.predict_images(config, runs / "cifar", [str(runs / "cifar" / "checkpoints")])


@pytest.mark.parametrize(
    ("kind", "overrides", "message"),
    [
        ("mlp", {"evaluate.protocol": "dense"}, "mlp cannot be applied to larger images"),
        ("mlp", {"evaluate.protocol": "full"}, "choose center"),
        ("cifar", {"evaluate.scales": (30,)}, "uses only one scale"),
        (
            "cifar",
            {"evaluate.protocol": "dense", "evaluate.scales": (12,)},
            "12 .* less than the 16 pixels",
        ),
        (
            "cifar",
            {"evaluate.protocol": "dense", "evaluate.scales": (30,), "evaluate.multi_scale": True},
            "set only one of them",
        ),
        (
            "cifar",
            {"evaluate.protocol": "dense", "evaluate.multi_scale": True},
            "stands for the scales of VGG, .*: give those of this network",
        ),
    ],
)
def test_protocols_that_do_not_fit_are_refused_in_one_line(
    runs, pictures, kind, overrides, message
):
    if kind == "mlp":
        overrides = {"view.square": True, "preprocess.mean": "pixel", **overrides}
    config = config_of(kind, pictures, **overrides)
    with pytest.raises(UserError, match=message):
        evaluate.evaluate_run(config, runs / kind)


def test_ten_crop_refuses_a_view_that_preprocessing_crops(pictures):
    """Preprocessing would crop all ten crops again."""
    overrides = {"evaluate.protocol": "ten_crop", "preprocess.crop": 12}
    with pytest.raises(UserError, match="makes 12 of them"):
        protocols.of(experiment.resolve(config_of("cifar", pictures, **overrides))).check()


def test_wrong_ensembles_are_refused(runs, pictures, tmp_path):
    config = config_of("cifar", pictures)
    config.evaluate.ensemble = f"{runs / 'cifar'},{tmp_path / 'nowhere'}"
    with pytest.raises(UserError, match="there is no run"):
        evaluate.evaluate_run(config, tmp_path)
    other = tmp_path / "pictures"
    for part in ("train", "val"):
        for name in ("cat", "dog", "fox"):
            (other / part / name).mkdir(parents=True)
            Image.new("RGB", (30, 30)).save(other / part / name / "a.png")
    train_and_evaluate(config_of("mlp", other, epochs=1.0), tmp_path / "other")
    config.evaluate.ensemble = f"{runs / 'cifar'},{tmp_path / 'other'}"
    picture = str(other / "val" / "cat" / "a.png")
    with pytest.raises(UserError, match="have different classes"):
        predict.predict_images(config, tmp_path, [picture])
    with pytest.raises(UserError, match="was trained on other classes"):
        evaluate.evaluate_run(config, tmp_path)
    with pytest.raises(UserError, match="was trained on other classes"):
        evaluate.evaluate_run(config_of("cifar", other), runs / "cifar")


def test_a_copy_of_squares_has_no_whole_images(runs, pictures, tmp_path):
    flags = (f"--shorter_side={SCALE}", "--square", f"--out={tmp_path}", "--processes=1")
    assert prepare.main([str(pictures), *flags]) == 0
    name = next(path.name for path in tmp_path.iterdir())
    config = config_of("cifar", tmp_path, **{"dataset.name": name, "view.square": True})
    for protocol, message in (("dense", "needs whole images"), ("multi_crop", "whole images")):
        config.evaluate.protocol = protocol
        with pytest.raises(UserError, match=message):
            evaluate.evaluate_run(config, runs / "cifar")
    config.evaluate.protocol, config.evaluate.scales = "ten_crop", (24,)
    with pytest.raises(UserError, match="prepare a larger copy"):
        evaluate.evaluate_run(config, runs / "cifar")
    config.evaluate.scales = ()
    assert evaluated(runs, "cifar", config)["examples"] == 7


def test_published_scales():
    def scales(config):
        config.evaluate.multi_scale = True
        protocol = protocols.of(experiment.resolve(config))
        protocol.check()
        return protocol.scales

    config = googlenet.get_config()
    config.evaluate.protocol = "multi_crop"
    assert scales(config) == (256, 288, 320, 352)
    config = vgg.get_config("A")
    config.evaluate.protocol = "multi_crop"
    assert scales(config) == (224, 256, 288)
    config.view.train_scale = (256, 512)
    assert scales(config) == (256, 384, 512)
    config.evaluate.protocol = "dense_and_multi_crop"
    assert scales(config) == (256, 384, 512)


@pytest.mark.parametrize(
    ("overrides", "expected", "refused"),
    [
        ({}, "full", ("center", "ten_crop")),
        ({"preprocess.pad": 0, "preprocess.crop": 24}, "center", ("full",)),
        ({"preprocess.pad": 4, "preprocess.crop": 0}, "full", ("dense",)),  # 40x40 of 32x32
    ],
)
def test_the_single_view_protocol_of_small_images(overrides, expected, refused):
    config = resnet_cifar10.get_config()
    config.update_from_flattened_dict(overrides)
    exp = experiment.resolve(config)
    assert protocols.of(exp).name == expected
    for protocol in refused:
        config.evaluate.protocol = protocol
        with pytest.raises(UserError, match=r"choose|less than the 40"):
            protocols.of(experiment.resolve(config)).check()


@pytest.mark.slow
def test_an_image_that_any_pass_cannot_read_is_not_counted(
    runs, pictures, tmp_path, capsys, monkeypatch
):
    """The long picture is too large at one of the two scales."""
    root = tmp_path / "pictures"
    shutil.copytree(pictures, root)
    long = root / "val" / "blue" / "0.png"
    Image.new("RGB", (1000, 20)).save(long)
    monkeypatch.setattr(crops, "LARGEST", 50_000)
    overrides = {"dataset.on_bad_image": "skip", "view.train_scale": (20, 20)}
    for protocol, scales in (("dense", (40, 20)), ("dense", (20, 40)), ("multi_crop", (20, 40))):
        line = evaluated(
            runs,
            "cifar",
            config_of(
                "cifar",
                root,
                **overrides,
                **{"evaluate.protocol": protocol, "evaluate.scales": scales},
            ),
        )
        assert line["examples"] == 6
    assert "is too large" in capsys.readouterr().err


def test_a_small_split_is_evaluated_in_small_batches(runs, pictures):
    overrides = {"evaluate.batch_size": 1000, "evaluate.protocol": "ten_crop"}
    exp, _, split = opened(runs, "mlp", pictures, **overrides)
    (one,) = protocols.of(exp).passes()
    assert [batch["label"].size for batch in one.batches(split)] == [7]
    overrides["evaluate.protocol"] = "dense"
    exp, _, split = opened(runs, "cifar", pictures, **overrides)
    (one,) = protocols.of(exp).passes()
    for batch in one.batches(split):
        assert batch["label"].size < 2 * (batch["index"] >= 0).sum()


def test_file_names_that_are_not_utf_8_are_escaped(runs, pictures, tmp_path):
    root = tmp_path / "pictures"
    shutil.copytree(pictures, root)
    odd = os.fsencode(root / "val" / "blue") + b"/caf\xe9.png"
    try:
        os.rename(root / "val" / "blue" / "0.png", odd)
    except OSError:  # macOS takes no such names
        pytest.skip("the file system takes no such names")
    line = evaluated(runs, "cifar", config_of("cifar", root))
    table = (runs / "cifar" / "evaluation" / "folder_test_center" / "predictions.csv").read_text()
    assert line["examples"] == 7
    assert r"caf\xe9.png" in table
    result = predict.predict_images(config_of("cifar", root), runs / "cifar", [str(root / "val")])
    assert r"caf\xe9.png" in result


def test_a_folder_that_cannot_be_written_is_refused_before_the_evaluation(
    runs, pictures, tmp_path, monkeypatch
):
    (tmp_path / "file").touch()
    monkeypatch.setattr(trained, "read_run", lambda *_: pytest.fail("weights were read"))
    config = config_of("cifar", pictures, **{"evaluate.ensemble": str(runs / "cifar")})
    with pytest.raises(UserError, match="cannot write to"):
        evaluate.evaluate_run(config, tmp_path / "file")
    config.predict.contact_sheet = str(tmp_path / "file" / "sheet.png")
    with pytest.raises(UserError, match="cannot write to"):
        predict.predict_images(config, runs / "cifar", [str(pictures / "val")])
