"""Files with injuries, or of a stranger: pictures, weights, and what lies in a run's folder.

They give what they were, something of the right kind, or one line that names them; never a
traceback, and where the file has a checksum never another value. Numbers of cases: see
test_properties.py.
"""

import dataclasses
import io
import json
import pathlib
import resource
import struct
import sys
import tempfile
import zlib

import jax
import numpy as np
import pytest
import safetensors.numpy
from damage import DEEP, JSON, SOME, WORDS, damaged, refusals
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from configs import compare, mlp, schema
from errors import UserError, printable
from input_pipeline import copy_info, decode, images, views
from input_pipeline import statistics as statistics_lib
from input_pipeline.copy_info import CopyInfo
from train_lib import experiment, recorder
from train_lib import state as state_lib
from train_lib import workdir as workdir_lib
from train_lib.evaluation import ensemble
from train_lib.metric_writers import jsonl
from train_lib.pictures import run_plots
from train_lib.state import TrainState
from train_lib.weights import exported, warm_start

# ------------------------------------------------------------------------------------ pictures


def _samples() -> dict[str, bytes]:
    """Small pictures of all formats and most of their kinds."""
    y, x = np.mgrid[0:255:18j, 0:255:24j].astype(np.uint8)
    colour = Image.fromarray(np.stack([x, y, 255 - x], -1))
    with_alpha = Image.fromarray(np.stack([x, y, x, y], -1))
    exif = Image.Exif()
    exif[0x0112] = 6
    made = {
        "jpeg": (colour, "JPEG", {}),
        "progressive": (colour, "JPEG", {"progressive": True, "exif": exif}),
        "cmyk": (colour.convert("CMYK"), "JPEG", {}),
        "png": (colour, "PNG", {"exif": exif}),
        "palette": (colour.quantize(16), "PNG", {"transparency": 3}),
        "grey16": (Image.fromarray(x.astype(np.uint16) * 257), "PNG", {}),
        "bits": (colour.convert("1"), "PNG", {}),
        "webp": (colour, "WEBP", {"exif": exif}),
        "lossless": (with_alpha, "WEBP", {"lossless": True}),
        "moving": (colour, "WEBP", {"save_all": True, "append_images": [with_alpha]}),
        "bmp": (colour, "BMP", {}),
        "gif": (colour, "GIF", {"save_all": True, "append_images": [with_alpha]}),
        "tiff": (colour, "TIFF", {"compression": "tiff_lzw"}),
        "j2k": (colour, "JPEG2000", {}),
    }
    found = {}
    for name, (image, format, options) in made.items():
        stream = io.BytesIO()
        image.save(stream, format, **options)
        found[name] = stream.getvalue()
    return found


SAMPLES = _samples()
VIEW = views.View(8, "scale", (16, 16), False, (0.08, 1.0), (0.75, 1.5), "bilinear", 16)


def check_picture(data: bytes) -> None:
    with refusals(decode.BadImage):
        picture = decode.Picture(data)
        found = decode.decode(data)
        assert found.dtype == np.uint8
        assert found.shape == (picture.height, picture.width, 3)
        assert picture.height * picture.width <= Image.MAX_IMAGE_PIXELS
    for rng in (None, np.random.default_rng(0)):
        with refusals(decode.BadImage):
            assert VIEW.cut(data, rng)[0].shape == (8, 8, 3)
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        for shape in ((32, 32, 1), (8, 12, 3)):
            with refusals():
                assert images.read(file.name, shape, "auto")[0].shape == shape


@given(st.sampled_from(sorted(SAMPLES)).flatmap(lambda name: damaged(SAMPLES[name])))
def test_a_damaged_picture_is_a_picture_or_refused(data):
    check_picture(data)


def claiming(name: str, width: int, height: int) -> bytes:
    """A sample whose header says that it has another size."""
    data = bytearray(SAMPLES[name])
    if name == "png":
        data[16:24] = struct.pack(">II", width, height)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    elif name == "jpeg":
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = struct.pack(">HH", min(height, 65535), min(width, 65535))
    elif name == "bmp":
        data[18:26] = struct.pack("<II", width, height)
    elif name == "gif":
        data[6:10] = struct.pack("<HH", min(width, 65535), min(height, 65535))
    else:  # an animated WebP: the canvas of its VP8X header, 24 bits less one
        at = data.index(b"VP8X") + 12
        data[at : at + 6] = (
            struct.pack("<I", min(width, 2**24) - 1)[:3]
            + (struct.pack("<I", min(height, 2**24) - 1)[:3])
        )
    return bytes(data)


SIDES = st.sampled_from([1, 2, 24, 300, 5000, 9459, 9460, 16383, 40_000, 65_535, 2**24, 2**31 - 1])


@settings(max_examples=SOME)
@given(st.sampled_from(["png", "jpeg", "bmp", "gif", "moving"]), SIDES, SIDES)
def test_a_bomb_is_refused_without_its_memory(name, width, height):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    data = claiming(name, width, height)
    check_picture(data)
    most = 2**24 if name == "moving" else 2**31 if name in ("png", "bmp") else 65_535
    if min(width, most) * min(height, most) > Image.MAX_IMAGE_PIXELS:
        with pytest.raises(decode.BadImage):
            decode.decode(data)
        unit = 1 if sys.platform == "darwin" else 1024
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit
        assert grown < 10**8


@pytest.mark.parametrize(("width", "height"), [(1, 5000), (5000, 1), (1, 1), (2, 3)])
def test_a_picture_of_any_shape_is_fitted_in(width, height, tmp_path):
    Image.new("L", (width, height), 200).save(tmp_path / "a.png")
    found, _ = images.read(str(tmp_path / "a.png"), (32, 32, 1), "no")
    assert (found == 200).all()


# ------------------------------------------------------------------------------------- weights

CONFIG = mlp.get_config("4")
CONFIG.update_from_flattened_dict(
    {**{"dataset.name": "digits", "preprocess.mean": "pixel", "preprocess.low": 0.0}}
)
RNG = np.random.default_rng(0)
STATISTICS = statistics_lib.compute(list(RNG.integers(0, 256, (5, 8, 8, 1), np.uint8)), 5, "")


def _weights() -> exported.Weights:
    exp = experiment.resolve(CONFIG, known=experiment.KnownData(statistics=STATISTICS))
    shapes = state_lib.variable_shapes(exp.module, exp.input_shape)
    values = jax.tree.map(lambda leaf: RNG.normal(size=leaf.shape).astype(np.float32), shapes)
    return exported.Weights(CONFIG, exp.info, 7, dict(values), STATISTICS)


def _saved(stored: exported.Weights) -> bytes:
    with tempfile.TemporaryDirectory() as root:
        path = pathlib.Path(root) / "a.safetensors"
        exported.save(path, stored)
        return path.read_bytes()


WEIGHTS = _weights()
CONTENT = _saved(WEIGHTS)


def same(found, wanted) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def load(content: bytes) -> exported.Weights:
    """Also asks it as a member of an ensemble, and as what a run starts with."""
    with tempfile.TemporaryDirectory() as root:
        path = pathlib.Path(root) / "a.safetensors"
        path.write_bytes(content)
        config = CONFIG.copy_and_resolve_references()
        config.evaluate.ensemble = str(path)
        with refusals():
            for member in ensemble.find(config, pathlib.Path(root)):
                member.state()
        params = WEIGHTS.variables["params"]
        state = TrainState(step=0, params=params, model_state={}, opt_state=(), window={})
        with refusals():
            warm_start.load_into(state, str(path), ())
        return exported.load(path)


@given(damaged(CONTENT))
def test_damaged_weights_are_refused_or_the_same(content):
    with refusals():
        found = load(content)
        same(found.variables, WEIGHTS.variables)
        same(vars(found.statistics), vars(STATISTICS))
        assert compare.flatten(found.config) == compare.flatten(CONFIG)
        rest = (found.class_names, found.info.name, found.step)
        assert rest == (WEIGHTS.class_names, "digits", 7)


TENSORS = st.dictionaries(
    st.sampled_from(["params", "params/h1", "params/h1/kernel", "statistics", "statistics/image"])
    | st.sampled_from(
        ["statistics/mean", "statistics/examples", "", "/", "params//", "batch_stats"]
    )
    | WORDS.map(printable),
    st.tuples(
        st.sampled_from([np.float32, np.float64, np.int8, np.bool_, np.float16]),
        st.lists(st.integers(0, 3), max_size=4),
    ).map(lambda kind: np.zeros(kind[1], kind[0])),
    max_size=3,
)
METADATA = st.dictionaries(
    st.sampled_from(["config", "class_names", "dataset", "step", "canon"]),
    JSON.map(json.dumps) | st.sampled_from([DEEP, "9" * 5000, "-1", "", str(2**31), "{}"]),
    max_size=2,
)


@given(METADATA, TENSORS, st.booleans())
def test_weights_of_a_stranger_are_good_or_refused(metadata, tensors, keep):
    """A whole file, with its checksum."""
    with tempfile.TemporaryDirectory() as root:
        path = pathlib.Path(root) / "a.safetensors"
        path.write_bytes(CONTENT)
        with safetensors.safe_open(path, framework="numpy") as file:
            own = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() | metadata
    tensors = own | tensors if keep else tensors
    metadata = exported.with_checksum(metadata, tensors)
    with refusals():
        found = load(safetensors.numpy.save(tensors, metadata))
        assert found.class_names == [printable(name) for name in found.class_names]
        assert 0 <= found.step < 2**31


# -------------------------------------------------------------------------------- a run's folder

RECORDS = [
    {"step": 4, "epoch": 0.5, "train/loss": 2.0, "train/top1_error": 0.9},
    {"step": 8, "epoch": 1.0, "train/loss": 1.5, "test/loss": 1.2, "test/top1_error": 0.5},
]
COPY = CopyInfo("photos", 256, False, 95, "error", {"train": 10, "test": 2})


def _folder_files() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as root:
        path = pathlib.Path(root) / "a.npz"
        STATISTICS.save(path)
        statistics = path.read_bytes()
    description = {"name": "digits", "class_names": list("0123456789")}
    return {
        workdir_lib.CONFIG: compare.to_json(CONFIG).encode(),
        workdir_lib.DATASET: json.dumps(description).encode(),
        workdir_lib.STATISTICS: statistics,
        jsonl.FILE: "".join(json.dumps(record) + "\n" for record in RECORDS).encode(),
        copy_info.FILE: json.dumps(dataclasses.asdict(COPY)).encode(),
    }


FOLDER = _folder_files()
ANY_JSON = JSON.map(lambda value: json.dumps(value).encode()) | st.just(DEEP.encode())


def of(name: str):
    """The file with injuries; or, in place of a text file, any JSON, or its own with odd fields."""
    content = damaged(FOLDER[name])
    if name == workdir_lib.STATISTICS:
        return content
    text = FOLDER[name].decode()
    own = json.loads(text.splitlines()[0] if name == jsonl.FILE else text)
    fields = st.dictionaries(st.sampled_from(sorted(own)), JSON, min_size=1, max_size=3)
    return content | ANY_JSON | fields.map(lambda new: json.dumps(own | new).encode())


def check(name: str, content: bytes, read) -> None:
    with tempfile.TemporaryDirectory() as root:
        root = pathlib.Path(root)
        (root / name).write_bytes(content)
        with refusals():
            read(root)
        assert {path.name for path in root.iterdir()} <= {name, "events"}


@given(of(workdir_lib.CONFIG))
def test_a_damaged_config_is_good_or_refused(content):
    def read(root):
        for line in workdir_lib.different_fields(root, CONFIG):
            assert isinstance(line, str)
        schema.validate(workdir_lib.read_config(root))

    check(workdir_lib.CONFIG, content, read)


@given(of(workdir_lib.DATASET))
def test_damaged_class_names_are_names_or_refused(content):
    def read(root):
        names = list(workdir_lib.read_info(root).class_names)
        assert names and names == [printable(name) for name in names]

    check(workdir_lib.DATASET, content, read)


@given(of(workdir_lib.STATISTICS))
def test_damaged_statistics_are_refused_or_the_same(content):
    check(
        workdir_lib.STATISTICS,
        content,
        lambda root: same(vars(workdir_lib.read_statistics(root)), vars(STATISTICS)),
    )


@pytest.mark.parametrize(("old", "new"), [(b"(8, 8, 1)", b"(7, 8, 1)"), (b"<f8", b"<i8")])
def test_a_header_that_lost_rows_or_its_kind_is_noticed(old, new, tmp_path):
    """What is read of such an array ends before its checksum is looked at, or has the same size."""
    content = FOLDER[workdir_lib.STATISTICS]
    assert old in content
    (tmp_path / workdir_lib.STATISTICS).write_bytes(content.replace(old, new, 1))
    with pytest.raises(UserError, match="is damaged"):
        workdir_lib.read_statistics(tmp_path)


@given(of(copy_info.FILE))
def test_a_damaged_description_of_a_copy_is_one_or_refused(content):
    def read(root):
        copy = copy_info.read(root)
        assert copy.description
        copy.check_view(VIEW)

    check(copy_info.FILE, content, read)


@given(of(jsonl.FILE))
def test_damaged_records_are_left_out(content):
    def read(root):
        records = recorder.read(root)
        for record in records:
            assert type(record["step"]) is int and record["step"] >= 0
            assert all(np.isfinite(value) for value in record.values())
        run_plots.curves({"": records})

    check(jsonl.FILE, content, read)


@settings(max_examples=SOME)
@given(of(jsonl.FILE))
def test_a_run_goes_on_behind_damaged_records(content):
    def read(root):
        writer = recorder.Writer(root, 4)
        assert writer.last["step"] in (-1, 0, 1, 2, 3, 4)
        writer.write({"step": 5, "epoch": 0.6, "train/loss": 1.0})
        writer.close()
        assert recorder.read(root)[-1]["step"] == 5

    check(jsonl.FILE, content, read)
