"""Splits of TFDS sets that stay on disk: images of any size, decoded when needed.

Records are read by random access through `tfds.data_source`, without TensorFlow.
"""

import contextlib
import dataclasses
import pathlib
import threading

import numpy as np

from errors import UserError, one_line
from input_pipeline.split import Info, Split
from input_pipeline.tfds_sets import PreparedSet

try:
    import resource
except ImportError:  # Windows, which has no such limit
    resource = None

_LOCK = threading.Lock()
_OPEN_FILES = 65_536


def _allow_open_files() -> None:
    """Raises this process's limit of open files as far as allowed.

    One file stays open for each shard of a set: ImageNet has 1,024, which is also the usual limit.
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
    """A split of the set in `directory`. Can be pickled: a worker process opens its own files."""

    info: Info
    directory: pathlib.Path
    split: str
    length: int

    def __len__(self) -> int:
        return self.length

    def __getstate__(self) -> dict:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def _features(self, i: int):
        """The stored features of example i, by name. The first call opens the files."""
        if "_source" not in self.__dict__:
            with _LOCK:
                if "_source" not in self.__dict__:  # no other thread has opened them meanwhile
                    self.__dict__["_source"] = self._open()
        from tensorflow_datasets.proto import tf_example_pb2

        return tf_example_pb2.Example.FromString(self.__dict__["_source"][i]).features.feature

    def _open(self):
        import tensorflow_datasets as tfds

        _allow_open_files()
        builder = PreparedSet(self.info.name, self.directory).builder
        # TFDS's own parsing takes twice the time and does not run in parallel threads.
        method = tfds.decode.DeserializeMethod.RAW_BYTES
        return builder.as_data_source(split=self.split, deserialize_method=method)

    def read(self, i: int) -> tuple[bytes | np.ndarray, int, str]:
        """See `Split.read`. The image of a raw copy is uint8 RGB [height, width, 3], read-only.

        Raises UserError for damaged or missing record files.
        """
        name = f"example {i} of {self.info.name} {self.split}"
        try:
            features = self._features(i)
            if "image" in features:
                image = features["image"].bytes_list.value[0]
            else:  # a raw copy
                shape = features["image/shape"].int64_list.value
                values = features["image/value"].bytes_list.value[0]
                image = np.frombuffer(values, np.uint8).reshape(shape)
            label = features["label"].int64_list.value[0]
        except Exception as error:  # TFDS and array_record raise many types
            if "Too many open files" in str(error):
                raise UserError(
                    f"cannot read {name} in {self.directory}: too many files are open; raise the"
                    " limit (`ulimit -n 4096`), then run the same command again"
                ) from error
            raise UserError(
                f"cannot read {name} in {self.directory} ({one_line(error)}): prepare it again"
            ) from error
        class_names = self.info.class_names
        if 0 <= label < len(class_names):
            name = f"{name} (class {class_names[label]})"
        return image, label, name
