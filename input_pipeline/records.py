"""TFDS sets that stay on the disk: images of any size, decoded as they are asked for.

Reads the `array_record` format by random access through `tfds.data_source`: no TensorFlow.
"""

import dataclasses
import functools
import pathlib
import threading

from errors import UserError, one_line
from input_pipeline import tfds_arrays
from input_pipeline.sources import Info

_LOCK = threading.Lock()


@dataclasses.dataclass
class Records:
    """One split. Pickles (a worker process opens the files anew); safe to read from threads."""

    info: Info
    directory: pathlib.Path
    split: str
    length: int
    labels = None  # not known without reading everything

    def __len__(self) -> int:
        return self.length

    def __getstate__(self) -> dict:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @functools.cached_property
    def _source(self):
        import tensorflow_datasets as tfds

        with _LOCK:  # two threads that open the files at once would do it twice
            builder = tfds_arrays.builder(self.info.name, self.directory)
            undecoded = {"image": tfds.decode.SkipDecoding()}
            return builder.as_data_source(split=self.split, decoders=undecoded)

    def read(self, i: int) -> tuple[bytes, int, str]:
        """The encoded image, the label, and words for an error message.

        Raises UserError for damaged or missing record files.
        """
        where = f"example {i} of {self.info.name} {self.split}"
        try:
            example = self._source[i]
        except Exception as error:  # TFDS's and array_record's many kinds
            raise UserError(
                f"cannot read {where} in {self.directory} ({one_line(error)}): prepare it again"
            ) from error
        label = int(example["label"])
        names = self.info.class_names
        name = f"{where} (class {names[label]})" if 0 <= label < len(names) else where
        return example["image"], label, name
