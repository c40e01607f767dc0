"""Why a file could not be read or written: because of the file, or because of the machine."""

import errno
import os
import re

# The system's errors for a damaged file. Any other error (no descriptor, no memory, a disk or a
# server that does not answer) may come from an undamaged file.
_DAMAGE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.ELOOP)


def system_reason(error: BaseException) -> str | None:
    """The system's words for an error; None if it is not an error of the system."""
    number = _number(error)
    return None if number is None else os.strerror(number)


def reason_outside_file(error: BaseException | None) -> str | None:
    """Why a file could not be read, if the reason is not in the file; else None."""
    while error is not None:
        if isinstance(error, MemoryError):
            return "there is not enough memory"
        if "can't start new thread" in str(error):
            return "there are too many processes and threads"
        if _number(error) not in (None, *_DAMAGE):
            return system_reason(error)
        error = error.__cause__ or error.__context__
    return None


def _number(error: BaseException) -> int | None:
    """The system's number of an error; in TensorStore's errors it stands in the message."""
    in_text = re.search(r"os_error_code='(\d+)'", str(error))
    number = int(in_text.group(1)) if in_text else getattr(error, "errno", None)
    return number if isinstance(number, int) else None
