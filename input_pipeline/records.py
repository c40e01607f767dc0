"""TFDS sets that stay on the disk: images of any size, decoded as they are asked for.

Reads the `array_record` format by random access through `tfds.data_source`: no TensorFlow.
"""

import contextlib
import dataclasses
import pathlib
import threading

import numpy as np

from errors import UserError, one_line
from input_pipeline import tfds_arrays
from input_pipeline.split import Info, Split

try:
    import resource
except ImportError:  # Windows, which has no such limit
    resource = None

_LOCK = threading.Lock()
_OPEN_FILES = 65_536


def _allow_open_files() -> None:
    """Raises this process's limit of open files as far as it may.

    One stays open for each shard of a set: ImageNet has 1,024, which is also the usual limit.
    """
    if resource is None:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # macOS allows fewer than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@dataclasses.dataclass
class RecordSplit(Split):
    """One split. Pickles (a worker process opens the files anew); safe to read from threads."""

    info: Info
    directory: pathlib.Path
    split: str
    length: int

    def __len__(self) -> int:
        return self.length

    def __getstate__(self) -> dict:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @property
    def _features(self):
        """i -> the features of example i by name, as they are stored."""
        if "opened" not in self.__dict__:
            with _LOCK:
                if "opened" not in self.__dict__:  # by another thread, meanwhile
                    self.__dict__["opened"] = self._open()
        return self.__dict__["opened"]

    def _open(self):
        import tensorflow_datasets as tfds
        from tensorflow_datasets.proto import tf_example_pb2

        _allow_open_files()
        builder = tfds_arrays.builder(self.info.name, self.directory)
        # TFDS's own parsing takes twice the time, and the threads take turns in it.
        method = tfds.decode.DeserializeMethod.RAW_BYTES
        source = builder.as_data_source(split=self.split, deserialize_method=method)
        return lambda i: tf_example_pb2.Example.FromString(source[i]).features.feature

    def read(self, i: int) -> tuple[bytes | np.ndarray, int, str]:
        """The image, the label, and words for an error message.

        The image is encoded, or of a raw copy uint8 RGB [height, width, 3], read-only.

        Raises UserError for damaged or missing record files.
        """
        where = f"example {i} of {self.info.name} {self.split}"
        try:
            features = self._features(i)
            if "image" in features:
                image = features["image"].bytes_list.value[0]
            else:  # a raw copy's
                shape = features["image/shape"].int64_list.value
                values = features["image/value"].bytes_list.value[0]
                image = np.frombuffer(values, np.uint8).reshape(shape)
            label = features["label"].int64_list.value[0]
        except Exception as error:  # TFDS's and array_record's many kinds
            if "Too many open files" in str(error):
                raise UserError(
                    f"too many files are open to read {where} in {self.directory}: raise the limit"
                    " (`ulimit -n 4096`), then run the same command again"
                ) from error
            raise UserError(
                f"cannot read {where} in {self.directory} ({one_line(error)}): prepare it again"
            ) from error
        names = self.info.class_names
        name = f"{where} (class {names[label]})" if 0 <= label < len(names) else where
        return image, label, name
