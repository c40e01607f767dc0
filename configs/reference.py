"""The tables of docs/config.md, from `configs.schema`: python -m configs.reference writes them."""

import pathlib
import re

from configs.rules import Field
from configs.schema import SECTIONS

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "config.md"
# What stands between these comments is generated.
_TABLE = re.compile(r"(<!-- fields of config(\.\S+)? -->\n).*?(<!-- end -->)", re.DOTALL)


def page(text: str) -> str:
    """The text of the page, its tables replaced by those of the schema.

    Raises KeyError for a table of a section that does not exist.
    """

    def table(match: re.Match) -> str:
        section = (match[2] or "").removeprefix(".")
        return f"{match[1]}\n{_table(SECTIONS[section])}\n{match[3]}"

    return _TABLE.sub(table, text)


def sections(text: str) -> list[str]:
    """The sections of which a page has tables."""
    return [match[2].removeprefix(".") if match[2] else "" for match in _TABLE.finditer(text)]


def _table(fields: dict[str, Field]) -> str:
    header = ("| field | default | allowed | meaning |", "|---|---|---|---|")
    rows = (
        f"| `{name}` | {_default(field)} | {_allowed(field)} | {field.meaning} |"
        for name, field in fields.items()
    )
    return "\n".join((*header, *rows, ""))


def _default(field: Field) -> str:
    if isinstance(field.default, tuple):
        return f"`({', '.join(f'{value:.3g}' for value in field.default)})`"
    return f"`{field.default}`" if field.default != "" else "empty"


def _allowed(field: Field) -> str:
    if field.rule is None:
        return {bool: "`True`, `False`", float: "any number"}.get(type(field.default), "")
    if field.rule.choices:
        return ", ".join(f"`{name}`" for name in field.rule.choices)
    return field.rule.text


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
