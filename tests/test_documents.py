"""What the documents say of files and versions."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "benchmarks" / "README.md", *(ROOT / "docs").glob("*.md")]


def anchors(text: str) -> set[str]:
    """The headings as GitHub links to them."""
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^a-z0-9 -]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if re.match(r"https?:", target):
            continue
        file, _, anchor = target.partition("#")
        found = path.parent / file if file else path
        assert found.exists(), target
        if anchor:
            assert anchor in anchors(found.read_text(encoding="utf-8")), target


def test_jax_for_accelerators_is_the_version_of_the_requirements():
    (version,) = re.findall(r"^jax==(.*)$", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    pins = [
        pin
        for path in DOCUMENTS
        for pin in re.findall(r"jax\[\w+\](\S{0,10})", path.read_text(encoding="utf-8"))
    ]
    assert len(pins) >= 4
    assert all(pin.startswith(f"=={version}") for pin in pins)
