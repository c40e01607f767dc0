"""Downloads and prepares a TFDS set in the format that training reads without TensorFlow.

    python -m input_pipeline.prepare mnist [--data_dir=DIR]

Needs a connection, and the optional extra: pip install '.[prepare]' (TFDS's builders use
TensorFlow to encode images). Training needs neither. A set that is already there is left alone.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

from errors import one_line


def main(argv: Sequence[str] | None = None) -> int:
    """Prepares one set; returns the exit status, after one line on standard error if not 0."""
    parser = argparse.ArgumentParser(
        prog="python -m input_pipeline.prepare", description=__doc__.splitlines()[0]
    )
    parser.add_argument("name", help="a TFDS set: mnist, fashion_mnist, cifar10, ...")
    parser.add_argument("--data_dir", default=None, help="where to put it (default: TFDS's rule)")
    arguments = parser.parse_args(argv)

    def fail(message: str) -> int:
        print(f"prepare: {message}", file=sys.stderr)
        return 2

    import tensorflow_datasets as tfds

    directory = pathlib.Path(arguments.data_dir).expanduser() if arguments.data_dir else None
    try:
        builder = tfds.builder(arguments.name, data_dir=directory, file_format="array_record")
    except tfds.core.DatasetNotFoundError:
        return fail(f"TFDS has no data set {arguments.name!r}: see its catalogue for the names")
    except Exception as error:
        return fail(f"cannot set up {arguments.name} ({one_line(error)})")
    if pathlib.Path(builder.data_dir, "dataset_info.json").exists():
        print(f"already there: {builder.data_dir}")
        return 0
    try:
        import tensorflow  # noqa: F401
    except ImportError:
        return fail("preparing a set needs TensorFlow: pip install '.[prepare]', then run again")
    try:
        builder.download_and_prepare()
    except KeyboardInterrupt:
        return fail("interrupted: run the same command again")
    except Exception as error:  # no network, no space, a server's error
        return fail(
            f"could not download and prepare {arguments.name} ({one_line(error)}): check the"
            " connection and the free space, then run the same command again"
        )
    print(f"prepared: {builder.data_dir}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
