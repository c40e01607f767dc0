"""The formats of weight files. A file's content shows its format; its name may be any."""

import pathlib
import zipfile

# The format that a file with this suffix should have.
SUFFIXES = {
    ".safetensors": "safetensors",
    ".pth": "torch",
    ".pt": "torch",
    ".caffemodel": "Caffe",
    ".h5": "Keras",
    ".hdf5": "Keras",
    ".keras": "Keras",
}
INDEX = "index"  # lists the tensors of several files
INDEX_END = ".index.json"
KERAS_MEMBER = "model.weights.h5"  # of a .keras archive


def format_of(path: pathlib.Path) -> str:
    """The format of a file: a value of `SUFFIXES`, `INDEX`, or "" if it is none.

    The suffix decides for Caffe's files, which have no mark, and for files that are missing or
    damaged. Raises OSError if the file cannot be read, and BadZipFile for a damaged archive.
    """
    if path.name.endswith(INDEX_END):
        return INDEX
    by_suffix = SUFFIXES.get(path.suffix.lower(), "")
    if by_suffix == "Caffe" or not path.is_file():
        return by_suffix
    return _by_content(path) or by_suffix


def _by_content(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        start = file.read(9)
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        return "Keras"
    if start.startswith(b"PK\x03\x04") and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if KERAS_MEMBER in names:
            return "Keras"
        return "torch" if any(name.endswith("/data.pkl") for name in names) else ""
    if start[:1] == b"\x80" and start[1:2] in (b"\2", b"\3", b"\4", b"\5"):  # a pickle
        return "torch"
    header = int.from_bytes(start[:8], "little")  # length of the JSON text that follows
    is_safetensors = start[8:] == b"{" and header <= path.stat().st_size - 8
    return "safetensors" if is_safetensors else ""
