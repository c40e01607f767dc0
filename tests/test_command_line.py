"""The commands, run as a user runs them: each in a new process."""

import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import command_line
from errors import UserError

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = "--config=configs/lenet5.py"
SHORT = ("--config.epochs=5", "--config.batch_size=25", "--config.evaluate.every_epochs=1")


def run(*arguments, module=("main.py",), timeout=300):
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    # JAX warns where it cannot store a program that calls oneDNN.
    environment["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    # Shell commands of a notebook inherit the backend of its kernel, which only the kernel has.
    environment["MPLBACKEND"] = "of_a_kernel"
    return subprocess.run(
        [sys.executable, *module, *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def refused(done, *messages):
    """Checks that standard error is one line with these messages, and standard output is empty."""
    assert done.returncode != 0, done.stdout
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    for words in messages:
        assert words in lines[0], lines[0]
    assert done.stdout == ""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A short run's folder and what its command printed."""
    workdir = tmp_path_factory.mktemp("run") / "lenet5"
    return workdir, run(CONFIG, f"--workdir={workdir}", *SHORT)


def test_names_are_separated_by_commas_and_line_ends():
    split = command_line.split_names
    assert split("a.png, b c.png\nd.png\n") == ["a.png", "b c.png", "d.png"]
    assert split('"a,b.png",c"d.png,"e\nf.png"') == ["a,b.png", 'c"d.png', "e\nf.png"]
    assert split("") == split(" , ") == []
    with pytest.raises(UserError, match=r'^"a,b .*put names that contain commas in quotes'):
        split('"a,b')


def test_a_home_folder_that_does_not_exist_is_one_line(monkeypatch):
    monkeypatch.setenv("HOME", "/home/of/me")
    assert str(command_line.expand("~/runs/a")) == "/home/of/me/runs/a"
    with pytest.raises(UserError, match=r"^~no_such_user/a .*: give the path without ~$"):
        command_line.expand("~no_such_user/a")


@pytest.mark.parametrize("closed", ["", "1", "2", "0 1 2"])
def test_streams_accept_every_text_also_if_they_are_closed(tmp_path, closed):
    """A stream that is closed does not become the next file, into which libraries would print."""
    code = (
        "import command_line, os, sys; command_line.begin(); file = open(sys.argv[1], 'w');"
        r"print('caf\xe9 \u65e5 \udce4'); print('\u65e5', file=sys.stderr);"
        "sys.stdout.flush(); os.write(1, b'o'); os.write(2, b'e')"
    )
    streams = " ".join(f"{number}>&-" for number in closed.split())
    done = subprocess.run(
        ["sh", "-c", f'"$@" {streams}', "sh", sys.executable, "-c", code, tmp_path / "file"],
        cwd=ROOT,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "file").read_text() == ""
    assert done.stdout == ("" if "1" in closed else "caf\\xe9 \\u65e5 \\udce4\no")
    assert done.stderr == ("" if "2" in closed else "\\u65e5\ne")


def test_file_names_are_utf8_in_every_locale(tmp_path):
    (tmp_path / "\u65e5").touch()
    code = (
        "import command_line, os, sys; command_line.begin(); print(ascii(os.listdir(sys.argv[1])))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path],
        cwd=ROOT,
        env=os.environ | {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == (r"['\u65e5']" "\n", "")


def test_an_early_interrupt_is_one_line(tmp_path, monkeypatch):
    """Ctrl-C while the libraries are imported; here, the first one raises it."""
    (tmp_path / "absl.py").write_text("raise KeyboardInterrupt")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = run(CONFIG)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "main.py: interrupted\n")


def test_training_writes_the_files_that_it_prints(trained):
    workdir, done = trained
    assert done.returncode == 0, done.stderr
    assert "test error" in done.stdout
    assert str(workdir) in done.stdout
    for words in ("60,000 parameters", "1 x cpu", "25 per device", "1,442 to train", "epoch 5.0"):
        assert words in done.stderr
    names = {path.name for path in workdir.iterdir()}
    assert names == {
        "config.json",
        "dataset.json",
        "metrics.jsonl",
        "events",
        "checkpoints",
        "plots",
        "lock",
    }
    plots = ["confusion_matrix", "first_layer_filters", "learning_curves", "misclassified"]
    assert sorted(path.stem for path in (workdir / "plots").iterdir()) == plots
    for path in (workdir / "plots").iterdir():
        with Image.open(path) as picture:
            assert np.asarray(picture.convert("L")).std() > 5  # something is drawn
    last = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 289
    assert last["test/examples"] == 355
    assert 0 <= last["test/top1_error"] < 0.3
    assert f"{last['test/top1_error']:.2%}" in done.stdout
    events = (workdir / "events").iterdir()
    assert any(b"test/top1_error" in path.read_bytes() for path in events)


def test_evaluate_prints_one_json_line_last(trained):
    workdir, _ = trained
    done = run("--mode=evaluate", CONFIG, f"--workdir={workdir}", *SHORT)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.strip().splitlines()[-1])
    last = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])
    assert result["top1_error"] == last["test/top1_error"]
    assert result["loss"] == pytest.approx(last["test/loss"], rel=1e-6)
    expected = {
        "dataset": "digits",
        "split": "test",
        "protocol": "full",
        "examples": 355,
        "step": 289,
    }
    assert {k: result[k] for k in expected} == expected
    errors = ("top1_error", "top5_error", "mean_class_error")
    assert set(result) == {*expected, *errors, "loss", "images_per_second"}


def test_commands_on_a_run_need_no_config(trained, tmp_path, monkeypatch):
    """--config.NAME changes fields of the stored config. Differences are shown as with --config."""
    workdir, _ = trained
    given = run("--mode=evaluate", CONFIG, f"--workdir={workdir}", *SHORT)
    monkeypatch.setenv("HOME", str(workdir.parent))
    stored = run("--mode=evaluate", "--workdir=~/lenet5", "--config.evaluate.batch_size=50")
    assert stored.returncode == 0, stored.stderr
    expected, result = (json.loads(done.stdout.splitlines()[-1]) for done in (given, stored))
    for name in ("step", "examples", "top1_error", "top5_error"):
        assert result[name] == expected[name]
    assert result["loss"] == pytest.approx(expected["loss"], rel=1e-6)
    assert (
        run("--mode=summary", "--workdir", workdir).stdout == run("--mode=summary", CONFIG).stdout
    )
    folder = f"--workdir={workdir}"
    refused(run(folder, "--config.epochs=6"), "epochs: 5.0 -> 6.0", "--allow_config_change")
    refused(run(folder, "--config.epoch=6"), "did you mean --config.epochs?")
    refused(run(folder, "--config.epochs=long"), "--config.epochs=long", "type float")
    refused(
        run(f"--workdir={tmp_path}", "--config.epochs=6"), "--config=configs/", "--workdir of a"
    )
    # The repository's folder may have a colon in its name, which in --config begins an argument.
    (tmp_path / "a:b").symlink_to(ROOT)
    code = f"import runpy, sys; sys.argv[0] = '{tmp_path}/a:b/main.py';"
    code += "sys.path.insert(0, sys.argv[0][:-8]); runpy.run_path(sys.argv[0], run_name='__main__')"
    refused(run(folder, "--config.epoch=6", module=("-c", code)), "did you mean --config.epochs?")
    (tmp_path / "config.json").write_text("{")
    refused(run(f"--workdir={tmp_path}"), f"cannot read {tmp_path / 'config.json'}")


def test_predict_names_class_and_probability_of_each_image(trained, tmp_path):
    from input_pipeline import digits

    workdir, _ = trained
    images, labels = digits.load("train")
    paths = []
    for i in range(6):
        picture = Image.fromarray(images[i, ..., 0])
        if i % 2:  # a colour photograph of dark ink on paper, larger than the net's input
            picture = Image.fromarray(255 - np.asarray(picture.resize((90, 90)))).convert("RGB")
        paths.append(tmp_path / f"{i}.{'jpg' if i % 2 else 'png'}")
        picture.save(paths[-1])
    joined = ",".join(map(str, paths))
    done = run("--mode=predict", CONFIG, f"--workdir={workdir}", f"--images={joined}", *SHORT)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.strip().splitlines()
    assert len(lines) == 6
    hits = 0
    for path, label, line in zip(paths, labels[:6], lines, strict=True):
        assert line.startswith(f"{path}: ")
        words = line.removeprefix(f"{path}: ").removeprefix("looks most like ")
        hits += words[0] == str(label)
        (percent, *_) = re.findall(r"\((\d+) %\)", words)
        assert 0 < int(percent) <= 100
        assert line.endswith("; dark on light: inverted") == (path.suffix == ".jpg")
    assert hits >= 5


def test_the_sample_picture_is_recognised(trained):
    """A short training is enough."""
    done = run("--mode=predict", f"--workdir={trained[0]}", "--images=docs/images/seven.png")
    words = done.stdout.removeprefix("docs/images/seven.png: ").removeprefix("looks most like ")
    assert words.startswith("7"), done.stdout + done.stderr


def test_inspect_prints_the_files_that_it_writes(trained):
    workdir, _ = trained
    flags = (CONFIG, f"--workdir={workdir}", *SHORT)
    refused(run("--mode=inspect", "--layer=c9", *flags), "no layer c9", "c1, c1_scaled_tanh")
    assert not (workdir / "inspection").exists()
    done = run("--mode=inspect", "--layer=s4", *flags)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    written = {path.name for path in (workdir / "inspection").iterdir()}
    assert [line.split(": ")[0] for line in lines] == ["written"] * len(lines)
    assert {pathlib.Path(line.removeprefix("written: ")).name for line in lines} == written
    assert {"filters.png", "parameters.txt", "feature_maps_1.png", "f6_and_codes.png"} <= written
    assert "params/c3/kernel" in (workdir / "inspection" / "parameters.txt").read_text()


def test_summary_as_json_and_as_table():
    done = run("--mode=summary", CONFIG, "--format=json")
    result = json.loads(done.stdout)
    assert result["total"] == {"params": 60000, "macs": 328096, "connections": 340908}
    assert result["input_shape"] == [32, 32, 1]
    layer = {
        "name": "c3",
        "type": "TableConv",
        "output_shape": [10, 10, 16],
        "params": 1516,
        "macs": 150000,
        "connections": 151600,
        "receptive_field": 14,
        "stride": 2,
    }
    assert layer in result["layers"]
    table = run("--mode=summary", CONFIG).stdout
    assert "340,908" in table
    assert "1,516" in table


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        ((CONFIG, "--workdir=x", "--images=a.png"), ("--images is for --mode=predict or inspect",)),
        (
            (CONFIG, "--mode=evaluate", "--workdir=x", "--output=a"),
            ("--output is for --mode=export",),
        ),
        ((CONFIG, "--mode=summary", "--format=jax"), ("choose one of table, json",)),
        ((CONFIG, "--workdir=x", "--format=json"), ("with --mode=train: leave it out",)),
        (("--config.epochs=1", CONFIG), ("put --config=FILE before",)),
        ((CONFIG, "--config.bach_size=64"), ("config.bach_size", "--config.batch_size")),
        ((CONFIG, "--config.model.activaton=relu"), ("--config.model.activation",)),
        ((CONFIG, "--config.learning_rate=1"), ("--config.schedule.learning_rate",)),
        ((CONFIG, "--config.checkpoint=3"), ("config.checkpoint has every_epochs, every_steps",)),
        ((CONFIG, "--config.model.depth=3"), ("config.model has activation, c3, drop_rate, ",)),
        ((CONFIG, "--mode=predict", "--workdir=README.md"), ("is a file", "init_from=README.md")),
        ((CONFIG, "--config.dataset=mnist"), ("--config.dataset.name",)),
        ((CONFIG, "--wrkdir=x"), ("--workdir",)),
        ((CONFIG, "--config.batch_size=many"), ("--config.batch_size=many", "type int")),
        ((CONFIG, "--config.epochs=long"), ("--config.epochs=long", "type float")),
        ((CONFIG, "--config.batch_size=0"), ("config.batch_size=0", "1 or more")),
        ((CONFIG, "--config.optimizer.layer_rates=0.1"), ("must be a mapping in quotes",)),
        ((CONFIG, "--config.model.name=lenet"), ("lenet5",)),
        ((CONFIG, "--config.model.subsampling=maximum"), ("trainable, average, max",)),
        (("--config=configs/lenet5.py:cifar",), ("digits, mnist",)),
        (("--config=configs/lenet.py",), ("configs/lenet.py",)),
        (("--config=configs",), ("cannot load the config configs (Is a directory)",)),
        ((), ("there is no run in", "--config=")),
        (("--mode=evaluate", "--config.epochs=2.0"), ("there is no run in", "--config=")),
        (("--workdir=" + 300 * "x",), ("xxx", "File name too long", "--workdir")),
        ((CONFIG, "--mode=evaluat"), ("mode", "evaluate")),
        ((CONFIG, "more"), ("more is not a flag",)),
        ((CONFIG, "--mode=predict"), ("--images",)),
        ((CONFIG, "--mode=evaluate"), ("no run in",)),
        ((CONFIG, "--mode=inspect"), ("no run in",)),
        ((CONFIG, "--layer=c1"), ("--layer is for --mode=inspect",)),
        ((CONFIG, "--process_id=1"), ("--coordinator, --num_processes and --process_id",)),
        ((CONFIG, "--distributed", "--mode=export"), ("--mode=export runs in one process",)),
        ((CONFIG, "--distributed"), ("neither SLURM", "--coordinator")),
        (
            (CONFIG, "--coordinator=host:70000", "--num_processes=2", "--process_id=0"),
            ("--coordinator=host:70000", "HOST:PORT"),
        ),
        (
            ("--config=configs/lenet5.py:mnist", "--config.dataset.data_dir=/nowhere"),
            ("python -m input_pipeline.prepare mnist", "/nowhere"),
        ),
    ],
)
def test_mistakes_are_one_line(tmp_path, arguments, messages):
    workdir = tmp_path / "run"
    refused(run(f"--workdir={workdir}", *arguments), *messages)
    assert not workdir.exists()


def test_a_run_needs_a_folder_that_can_be_written(tmp_path):
    refused(run(CONFIG), "--workdir=DIR")
    (tmp_path / "file").write_text("")
    refused(run(CONFIG, f"--workdir={tmp_path / 'file'}"), "cannot write to", "--workdir")


def test_unreadable_images_are_one_line(trained, tmp_path):
    workdir, _ = trained
    (tmp_path / "a.png").write_text("text")
    for name, messages in (("a.png", "as an image"), ("b.png", "no image file")):
        flags = (f"--workdir={workdir}", f"--images={tmp_path / name}", *SHORT)
        refused(run("--mode=predict", CONFIG, *flags), name, messages)


def test_evaluating_with_another_model_is_refused(trained):
    workdir, _ = trained
    flags = ("--config.model.subsampling=max", *SHORT)
    done = run("--mode=evaluate", CONFIG, f"--workdir={workdir}", *flags)
    refused(done, "model.subsampling: trainable -> max")


def test_missing_devices_are_one_line(trained, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cuda,tpu")
    done = run(CONFIG, "--mode=evaluate", f"--workdir={trained[0]}")
    refused(done, "JAX finds no devices", "JAX_PLATFORMS=cpu")
    assert run(CONFIG, "--mode=summary").returncode == 0  # which needs none


def test_preparing_an_unknown_set_is_one_line(tmp_path):
    done = run("no_such_set", f"--data_dir={tmp_path}", module=("-m", "input_pipeline.prepare"))
    refused(done, "no_such_set")


def test_no_tensorflow_in_a_training_process():
    code = (
        "import sys, train_lib.train, train_lib.commands.evaluate, input_pipeline.tfds_sets,"
        " tensorflow_datasets; sys.exit('tensorflow' in sys.modules)"
    )
    assert run(code, module=("-c",)).returncode == 0
