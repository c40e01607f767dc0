"""The exceptions whose message is meant for the user: one line that says what is wrong, what to do.

`main.py` prints it without a traceback; any other exception is a defect of Canon and keeps its
traceback.
"""

import contextlib
import unicodedata


class UserError(Exception):
    """Bad input of any kind: configuration, image, checkpoint, missing data, full disk.

    One line whatever it quotes: the message is made `printable`.
    """

    exit_code = 2

    def __init__(self, message: str):
        super().__init__(printable(message))


class TryAgain(UserError):
    """What the same command, started again, may well mend: another process or machine is gone."""

    exit_code = 75  # EX_TEMPFAIL: schedulers may be told to start such a one again


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
    r"""A text as any terminal or text file takes it, on one line.

    A file name's bytes that are no UTF-8 become \xNN, line ends and control characters \n, \x1b ...
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
