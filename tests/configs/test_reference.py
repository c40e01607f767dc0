"""docs/config.md has what configs/schema.py says."""

from configs import reference, schema


def test_the_page_has_the_tables_of_the_schema():
    """If this fails, write the tables again: python -m configs.reference."""
    text = reference.PAGE.read_text(encoding="utf-8")
    assert sorted(reference.sections(text)) == sorted(schema.SECTIONS)
    assert reference.page(text) == text


def test_a_table_has_default_rule_and_meaning_of_each_field():
    before, after = "<!-- fields of config.loss -->\n", "<!-- end -->"
    page = reference.page(f"{before}| outdated |\n{after}\nprose")
    assert page.startswith(before) and page.endswith(f"{after}\nprose")
    assert "| `name` | `softmax` | `softmax`, `mse`, `map` | `softmax`: cross-entropy" in page
    assert "outdated" not in page
