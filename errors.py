"""Exceptions for errors that the user can correct: one line says what is wrong and what to do.

`main.py` prints their message without a traceback. Any other exception is a defect of Canon and
keeps its traceback.
"""

import contextlib
import unicodedata


class UserError(Exception):
    """Bad input of any kind: configuration, image, checkpoint, missing data, full disk.

    The message is made `printable`, so it is one line even if it quotes a file name.
    """

    exit_code = 2

    def __init__(self, message: str):
        super().__init__(printable(message))


class TryAgain(UserError):
    """An error that may not recur when the command is run again, such as a lost process."""

    exit_code = 75  # EX_TEMPFAIL: schedulers can be told to restart a command with this status


@contextlib.contextmanager
def reported(problem: str, advice: str, *kinds: type[Exception]):
    """Turns exceptions of these kinds (none given: all) into a UserError; a UserError stays.

    Its message is "PROBLEM (first line of the exception): ADVICE".
    """
    caught = kinds or (Exception,)
    try:
        yield
    except UserError:
        raise
    except caught as error:
        raise UserError(f"{problem} ({one_line(error)}): {advice}") from error


def one_line(error: BaseException) -> str:
    """The first line of an exception's message, at most 200 characters, or else its type."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__


def printable(text: str) -> str:
    r"""A text on one line, which any terminal or text file can show.

    Bytes of a file name that are not UTF-8 become \xNN. Line ends and other control characters
    become \n, \x1b, ...
    """
    if text.isprintable():
        return text
    return "".join(map(_shown, text))


def _shown(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte, by surrogateescape
        return f"\\x{ord(character) - 0xDC00:02x}"
    if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp"):
        return character.encode("unicode_escape").decode()
    return character
