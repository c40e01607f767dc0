"""One run at a time in a workdir: a lock that the system drops with the process that holds it."""

import contextlib
import errno
import os
import pathlib
import socket
import sys
import time

from errors import UserError, reported

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

FILE = "lock"
# Seconds. Workers of a killed run may hold its lock for a moment longer.
_PATIENCE = 3.0
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)


@contextlib.contextmanager
def held(workdir: pathlib.Path, patience: float = _PATIENCE):
    """Holds the workdir's lock. A crash leaves the file, but not the lock.

    patience: seconds to wait. Prints a warning if the file system has no locks. Raises UserError,
    which names the process, while another process holds the lock.
    """
    path = workdir / FILE
    with reported(f"cannot write {path}", "choose another --workdir", OSError):
        file = path.open("a+")
    with file:
        _acquire(file, path, patience)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


def _acquire(file, path: pathlib.Path, patience: float) -> None:
    deadline = time.monotonic() + patience
    while fcntl is not None:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise UserError(
                f"{holder} is training in {path.parent}: wait for it, or choose another --workdir"
            ) from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise UserError(
                    f"cannot lock {path} ({error}): choose another --workdir"
                ) from error
            break
    print(f"{path.parent} cannot be locked: do not start a second run there", file=sys.stderr)
