"""Any config and any names of files and classes give a result, or one line that says what to do.

Few cases by default, the same ones each time; CANON_EXAMPLES=1000 makes so many of each property,
new ones each time.
"""

import ast
import contextlib
import io
import json
import os
import pathlib
import tempfile

import numpy as np
import pytest
from absl import flags
from damage import JSON, SOME, VALUES, WORDS, is_one_line, refusals
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict, config_flags
from PIL import Image

from configs import compare, lenet5, mlp, schema
from errors import UserError, printable
from input_pipeline import cache, copies
from input_pipeline.copy_info import CopyInfo
from input_pipeline.folder import ImageFolder
from train_lib import experiment, train, workdir
from train_lib.commands import flag_checks
from train_lib.evaluation import result_files
from train_lib.evaluation.metrics import Result
from train_lib.pictures import run_plots
from train_lib.plan import make_plan

ROOT = pathlib.Path(__file__).parents[1]

# ------------------------------------------------------------------------------------- configs

BASES = {
    "configs/lenet5.py": lenet5.get_config("digits"),
    "configs/mlp.py": mlp.get_config("20"),
}
BASES["configs/mlp.py"].dataset.name = "digits"
FIELDS = {path: compare.flatten(config) for path, config in BASES.items()}
OF_KIND = {
    bool: st.booleans(),
    int: st.integers(-2, 300) | st.integers(0, 2**33),
    float: st.floats(0, 10) | st.floats(),
    str: WORDS,
    list: st.lists(st.integers(1, 300) | st.floats(0, 3), max_size=3).map(sorted).map(tuple),
}


@st.composite
def cases(draw):
    """A config file, and one to three of its fields with values: of the right kind, or any."""
    path = draw(st.sampled_from(sorted(BASES)))
    names = draw(st.lists(st.sampled_from(sorted(FIELDS[path])), min_size=1, max_size=3))
    return path, {name: draw(OF_KIND[type(FIELDS[path][name])] | VALUES) for name in names}


def parsed(argv: list[str]) -> ConfigDict:
    """The config of a command line, as main.py reads it."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "", flag_values=values, sys_argv=argv)
    with flag_checks.as_one_line(argv):
        values(argv)
        list(values.config.items())
    return values.config


def check_config(config: ConfigDict, build: bool = False) -> None:
    """What main.py and the start of training do with a config, up to the data."""
    with refusals():
        schema.validate(config)
        plan = make_plan(config, 1442)
        assert 1 <= plan.next_boundary(0) <= plan.total_steps < 2**31
        compare.to_json(config)
        if build and config.dataset.name == "digits":
            train.check_memory(experiment.resolve(config))


def changed(path: str, fields: dict) -> ConfigDict:
    config = BASES[path].copy_and_resolve_references()
    for name, value in fields.items():
        with contextlib.suppress(TypeError, ValueError, OverflowError):  # ConfigDict's own checks
            config.update_from_flattened_dict({name: value})
    return config


@given(cases())
def test_any_command_line_gives_a_config_or_one_line(case):
    path, fields = case
    given = [f"--config.{k}={v if isinstance(v, str) else repr(v)}" for k, v in fields.items()]
    stderr = io.StringIO()
    try:
        with contextlib.redirect_stderr(stderr):
            config = parsed(["main.py", f"--config={path}", *given])
    except SystemExit as error:
        assert error.code == 2
        is_one_line(stderr.getvalue().removesuffix("\n"))
    else:
        check_config(config)


@given(cases())
def test_any_config_from_python_is_valid_or_refused(case):
    check_config(changed(*case))


@given(cases())
def test_any_config_builds_or_is_refused(case):
    check_config(changed(*case), build=True)


@given(st.sampled_from(sorted(FIELDS["configs/lenet5.py"])), JSON | VALUES)
def test_any_config_from_a_file_is_valid_or_refused(name, value):
    """Where no ConfigDict has checked the kind of a value."""
    stored = BASES["configs/lenet5.py"].to_dict()
    *sections, last = name.split(".")
    section = stored
    for part in sections:
        section = section[part]
    section[last] = value
    with contextlib.suppress(ValueError):  # what its readers say the file's name with
        check_config(workdir.config_from_json(json.dumps(stored)), build=True)


# --------------------------------------------------------------------------------------- names

FILES = st.binary(min_size=1, max_size=40).filter(  # any that a file can have
    lambda name: not set(name) & {0, ord("/")} and name not in (b".", b"..")
)


def everything(path) -> set[str]:
    return {str(p) for p in pathlib.Path(path).rglob("*")}


@given(WORDS, WORDS, st.lists(WORDS, max_size=3))
def test_no_name_leads_out_of_the_folder(dataset, split, ensemble):
    settings = {"dataset": dataset, "split": split, "protocol": "full", "scales": [256]}
    name = result_files.folder_name(settings | {"ensemble": ensemble})
    with tempfile.TemporaryDirectory() as root:
        name += cache.file_name(pathlib.Path(root), (dataset, split), (dataset, split))
    name += CopyInfo(dataset, 256, True, 0, "error", {}).name
    assert not set(name) & set("/\\\0\n") and not name.startswith(".")
    name.encode()
    with tempfile.TemporaryDirectory() as root:
        with refusals():
            result_files.make_folder(pathlib.Path(root) / "run", settings)
        found = everything(root)
        assert all(f"{p}/".startswith(f"{root}/run/") for p in found), found


@settings(max_examples=SOME)
@given(st.lists(FILES, min_size=2, max_size=3, unique=True), FILES)
def test_a_folder_of_any_names_is_a_data_set_or_refused(classes, picture):
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "PNG")
    with tempfile.TemporaryDirectory() as root:
        for name in classes:
            path = os.path.join(os.fsencode(root), b"data", name)
            try:
                os.makedirs(path)
                for copy in (b"1", b"2"):
                    with open(os.path.join(path, picture[:30] + copy + b".png"), "xb") as file:
                        file.write(stream.getvalue())
            except (FileExistsError, OSError):  # a file system that takes no such name
                return
        dataset = ImageFolder(f"{root}/data", test_fraction=0.5)
        before = everything(root)
        with refusals():
            split = dataset.load("test")
            names = split.info.class_names
            for i in range(len(split)):
                content, label, where = split.read(i)
                assert content == stream.getvalue()
                is_one_line(where)
                assert os.fsencode(split.id(i)).split(b"/")[0] in classes
                assert names[label] == printable(split.id(i).split("/")[0])
            write_reports(pathlib.Path(root) / "run", split)
        assert all(p.startswith(f"{root}/run") for p in everything(root) - before)


def write_reports(output: pathlib.Path, split) -> None:
    """Writes the files of an evaluation in which every image was misclassified."""
    count = len(split.info.class_names)
    classes = np.tile(np.arange(count)[::-1], (len(split), 1))
    classes = (classes + split.labels[:, None]) % count
    probabilities = np.full(classes.shape, 1 / count, np.float32)
    result = Result(0.0, 1.0, 1.0, len(split), classes, probabilities, split.labels)
    output.mkdir()
    line = {"dataset": split.info.name}
    result_files.write(output, line, result, split, lambda i: np.zeros((8, 8, 3), np.uint8))
    text = (output / "predictions.csv").read_text()
    assert len(text.splitlines()) == len(split) + 1


@settings(max_examples=SOME)
@given(st.lists(WORDS.map(printable), min_size=1, max_size=3))
@example(["$\\frac$"])
def test_a_contact_sheet_takes_any_caption(captions):
    picture = np.zeros((8, 8, 3), np.uint8)
    with tempfile.TemporaryDirectory() as root:
        figure = run_plots.contact_sheet(lambda i: picture, captions)
        run_plots.save(figure, pathlib.Path(root) / "a.png")
        assert everything(root) == {f"{root}/a.png"}


@pytest.mark.parametrize("split", ["../train", "a/b", "", ".", "a\nb", "/"])
def test_a_copy_refuses_names_of_splits_that_are_paths(split, tmp_path):
    with pytest.raises(UserError, match="has a split called"):
        copies.make({split: []}, CopyInfo("photos", 256, False, 95, "error", {}), tmp_path, 1)
    assert not everything(tmp_path)


def test_nothing_is_written_through_a_link(tmp_path):
    """Not even through a link with the name of the temporary file."""
    (tmp_path / "run").mkdir()
    outside = tmp_path / "outside"
    for name in ("config.json", f".config.json.{os.getpid()}"):
        (tmp_path / "run" / name).symlink_to(outside)
    workdir.write_text(tmp_path / "run" / "config.json", "{}")
    assert not outside.exists()
    assert not (tmp_path / "run" / "config.json").is_symlink()


# -------------------------------------------------------------------------------------- pickle


def test_nothing_is_unpickled():
    """Except CIFAR's Python files, whose reader refuses all but arrays (see test_originals)."""
    files = [ROOT / name for name in ("main.py", "command_line.py", "errors.py")]
    for name in ("configs", "input_pipeline", "models", "train_lib", "studies"):
        files += (ROOT / name).rglob("*.py")
    assert len(files) > 50
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            where = f"{file}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", "") or ""]
                roots = {name.partition(".")[0] for name in names}
                is_reader = file.name == "originals.py"
                assert is_reader or "pickle" not in roots, where
                assert not roots & {"cPickle", "dill", "cloudpickle", "joblib"}, where
                assert not roots & {"marshal", "shelve"}, where
            if isinstance(node, ast.Name):
                assert node.id not in ("eval", "exec", "__import__"), where
            if isinstance(node, ast.Attribute):
                if ast.unparse(node.value) == "pickle":
                    assert node.attr in ("Unpickler", "UnpicklingError"), where
                assert node.attr not in ("read_pickle", "fromfile", "pickle"), where
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                told = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
                of = ast.unparse(node.func)
                if of in ("np.load", "numpy.load"):
                    assert told.get("allow_pickle") is False, where
                if of == "torch.load":
                    assert told.get("weights_only") is True, where
