"""The one exception that means: the user can put this right.

Its message is one line that says what is wrong and what to do. `main.py` prints it without a
traceback; any other exception is a defect of Canon and keeps its traceback.
"""


class UserError(Exception):
    """Bad input of any kind: configuration, image, checkpoint, missing data, full disk."""

    exit_code = 2


def one_line(error: BaseException) -> str:
    """The first line of an exception's message, at most 200 characters, or else its type."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__


def printable(path: str) -> str:
    """A file's name as any terminal or text file takes it: bytes that are no UTF-8 as \\xNN."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
