"""This project's docstrings as reStructuredText, for Sphinx's autodoc.

A docstring is plain text: paragraphs, indented commands, lists with hyphens, code in backticks, and
lines "name: meaning" for parameters and fields.
"""

import inspect
import re
from collections.abc import Collection, Iterator


def process(app, what, name, obj, options, lines: list[str]) -> None:
    """Autodoc's event: replaces the lines of a docstring. It drops those of other packages."""
    package = (getattr(obj, "__module__", None) or name).partition(".")[0]
    if callable(obj) and package != name.partition(".")[0]:  # a field that holds jax.nn.softmax
        lines.clear()
    lines[:] = as_rst("\n".join(lines), parameters(obj)).splitlines()


def shorten(app, what, name, obj, options, signature: str, returned: str):
    """Autodoc's event: a signature without the two fields that Flax gives to every module."""
    short = re.sub(r"(, )?parent: [^()]*, name: str \| None = None\)$", ")", signature or "")
    return short or None, returned


def parameters(obj) -> set[str]:
    """The names of a function's parameters, or of a class's fields."""
    names = set(getattr(obj, "__annotations__", ()))
    try:
        return names | set(inspect.signature(obj).parameters)
    except (TypeError, ValueError):  # a module, or a class without a signature
        return names


def as_rst(text: str, names: Collection[str] = ()) -> str:
    """A docstring as reStructuredText. names: those that lines "name: meaning" may explain."""
    return "\n\n".join(_paragraph(part, names) for part in re.split(r"\n\s*\n", text) if part)


def _paragraph(text: str, names: Collection[str]) -> str:
    if text.startswith("  "):
        return "::\n\n" + text
    return "\n\n".join(_items(text, names))


def _items(text: str, names: Collection[str]) -> Iterator[str]:
    """The pieces of a paragraph: text, entries of a list, and explained names."""
    starts = "|".join(sorted(map(re.escape, names), key=len, reverse=True)) or r"(?!)"
    explained = rf"(?:{starts})(?:, (?:{starts}))*(?=: )"
    text = re.sub(rf"(?<=[.;]) (?={explained})", "\n", text)  # two in one line
    for piece in re.split(rf"\n(?=- |{explained})", text):
        line = " ".join(piece.split())
        if match := re.match(explained, line):
            yield f"* **{match[0]}**{_inline(line[match.end() :])}"
        elif line.startswith("- "):
            yield f"* {_inline(line[2:])}"
        else:
            yield _inline(line)


def _inline(text: str) -> str:
    """Text with its code marked and every other special character escaped."""
    pieces = re.split(r"`([^`]*)`", text)
    for i, piece in enumerate(pieces):
        pieces[i] = f"``{piece}``" if i % 2 else re.sub(r"([\\*|_`])", r"\\\1", piece)
    return "".join(pieces)
