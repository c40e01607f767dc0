"""What a command owes the shell: one line for an error, an exit status, and no other output."""

import contextlib
import logging
import os
import pathlib
import sys


@contextlib.contextmanager
def errors_as_one_line():
    """Ends the process with one line on standard error for an error that the user can correct.

    Such an error has an `exit_code` (see `errors`), or is an OSError: a disk, a file or a
    descriptor is not available. Any other exception passes through: it is a defect.
    """
    silence_writes_of_failed_saves()
    program = pathlib.Path(sys.argv[0]).name
    try:
        yield
    except BrokenPipeError:  # nobody reads standard output any longer
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        status = getattr(error, "exit_code", 2 if isinstance(error, OSError) else None)
        if status is None:
            raise
        print(f"{program}: {error}", file=sys.stderr)
        exit_now(status)
    except KeyboardInterrupt:  # before the training loop, which saves first
        print(f"{program}: interrupted", file=sys.stderr)
        sys.exit(130)


def exit_now(status: int) -> None:
    """Exits without waiting for other threads.

    Python would wait for them, and they may wait without end, as in a step of several processes,
    or for minutes, as Orbax's threads do after a failed save.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def silence_libraries() -> None:
    """Hides the libraries' warnings; Canon prints its own.

    JAX's warning that a GPU exists but JAX was installed without support for it stays visible.
    """
    from absl import logging as absl_logging

    absl_logging.set_verbosity(absl_logging.FATAL)
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.WARNING)


def silence_writes_of_failed_saves() -> None:
    """Hides the tracebacks of writes that end after their save has failed.

    TensorStore's threads print one for each, around the one line that says what failed.
    """

    def hook(unraisable):
        error = unraisable.exc_value
        if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
            sys.__unraisablehook__(unraisable)

    sys.unraisablehook = hook


@contextlib.contextmanager
def without_stdout():
    """Discards what the process writes to standard output, C++ libraries included."""
    sys.stdout.flush()
    stdout, devnull = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    try:
        yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
        os.close(devnull)
