"""Property tests: a damaged weight file of another framework is read, or refused in one line."""

import pathlib
import tempfile

import numpy as np
import pytest
import safetensors.numpy
from damage import damaged, refusals
from foreign_files import caffemodel, write_keras, write_keras_3
from hypothesis import given
from hypothesis import strategies as st

from models import pretrained

KERNEL = np.random.default_rng(0).normal(size=(4, 3, 2, 2)).astype(np.float32)
BIAS = np.arange(4, dtype=np.float32)
BLOBS = [BIAS, BIAS, np.ones(1, np.float32)]
LAYERS = [("conv", "Convolution", [KERNEL, BIAS]), ("bn", "BatchNorm", BLOBS)]


def _keras() -> bytes:
    with tempfile.TemporaryDirectory() as root:
        path = pathlib.Path(root) / "net.h5"
        write_keras(path, {"conv": {"kernel": KERNEL, "bias": BIAS}}, group="model_weights")
        return path.read_bytes()


def _keras_3() -> bytes:
    with tempfile.TemporaryDirectory() as root:
        path = pathlib.Path(root) / "net.keras"
        write_keras_3(path, [("conv2d", "conv", [KERNEL, BIAS])])
        return path.read_bytes()


FILES = {
    ".caffemodel": caffemodel(LAYERS),
    ".h5": _keras(),
    ".keras": _keras_3(),
    ".safetensors": safetensors.numpy.save({"conv.weight": KERNEL, "conv.bias": BIAS}),
}


def read(content: bytes, suffix: str) -> None:
    with tempfile.TemporaryDirectory() as root:
        path = pathlib.Path(root) / f"net{suffix}"
        path.write_bytes(content)
        with refusals():
            pretrained.is_pretrained(path)
            for name, array in pretrained.read(path).tensors.items():
                assert isinstance(name, str) and isinstance(array, np.ndarray)
                assert array.nbytes < 1e6


@pytest.mark.parametrize("suffix", FILES)
@given(data=st.data())
def test_damaged_files_are_read_or_refused(suffix, data):
    read(data.draw(damaged(FILES[suffix])), suffix)


def test_whole_files_are_read():
    for suffix, content in FILES.items():
        with tempfile.TemporaryDirectory() as root:
            path = pathlib.Path(root) / f"net{suffix}"
            path.write_bytes(content)
            actual = pretrained.read(path).tensors
            assert any(np.array_equal(array, KERNEL) for array in actual.values()), suffix


def test_damaged_torch_files_are_read_or_refused():
    torch = pytest.importorskip("torch")
    with tempfile.TemporaryDirectory() as root:
        path = pathlib.Path(root) / "net.pth"
        torch.save({"conv.weight": torch.from_numpy(KERNEL)}, path)
        content = path.read_bytes()

    @given(damaged(content))
    def check(content):
        read(content, ".pth")

    check()
