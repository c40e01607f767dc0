"""How a command ends: one line for an error, an exit status, and no other output."""

import contextlib
import logging
import os
import sys

from command_line import program


@contextlib.contextmanager
def errors_as_one_line():
    """Ends the process with one line for an error that the user can correct.

    Such an error has an `exit_code` (see `errors`), or is an OSError: a disk or a file is not
    available. Any other exception passes through: it is a defect.
    """
    silence_writes_of_failed_saves()
    try:
        yield
    except BrokenPipeError:  # nobody reads standard output any longer
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:  # outside of the training loop, which saves first
        exit_now(130, "interrupted")
    except Exception as error:
        status = getattr(error, "exit_code", 2 if isinstance(error, OSError) else None)
        if status is None:
            raise
        sys.stdout.flush()
        exit_now(status, str(error))


def exit_now(status: int, message: str = "") -> None:
    """Prints a message on standard error and exits without waiting for other threads.

    Python would wait for them. They may take minutes, as Orbax's threads do after a failed save,
    or have no end, as a step that waits for another process.
    """
    try:
        if message:
            print(f"{program()}: {message}", file=sys.stderr, flush=True)
    finally:  # even if standard error is closed
        os._exit(status)


def silence_libraries() -> None:
    """Hides the warnings of libraries, except JAX's that it was installed without GPU support."""
    from absl import logging as absl_logging

    absl_logging.set_verbosity(absl_logging.FATAL)
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.WARNING)


def silence_writes_of_failed_saves() -> None:
    """Hides the tracebacks that TensorStore's threads print for writes after a failed save."""

    def hook(unraisable):
        error = unraisable.exc_value
        if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
            sys.__unraisablehook__(unraisable)

    sys.unraisablehook = hook


@contextlib.contextmanager
def without_stdout():
    """Discards what the process writes to standard output, also from C++."""
    sys.stdout.flush()
    stdout, devnull = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    try:
        yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
        os.close(devnull)
