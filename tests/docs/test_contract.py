"""docs/contract.md: what the code cites is there."""

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "contract.md"
SOURCES = [path for folder in ("src", "tests", "docs") for path in sorted((ROOT / folder).rglob("*.py"))]
_SECTION = re.compile(r"^## (\d+|The chapter)", re.MULTILINE)
_PARAGRAPH = re.compile(r"^\*\*([^*]+)\.\*\*", re.MULTILINE)
# "section 4", "sections 3 and 4", 'section 2, "Busy"'; "RFC 9110, section 14" is another document's.
_CITATION = re.compile(r'(RFC \d+, )?\bsections? (\d+(?:(?:, | and )\d+)*)(?:, "([^"]+)")?')


def citations() -> Iterator[tuple[str, str, str | None]]:
    """Each (file, number of a section, name of a paragraph or ``None``) that the code cites from the contract."""
    for path in SOURCES:
        text = re.sub(r"\n[ #]*", " ", path.read_text("utf-8"))
        for document, numbers, paragraph in _CITATION.findall(text) if path != Path(__file__) else ():
            for number in re.findall(r"\d+", numbers) if not document else ():
                yield str(path.relative_to(ROOT)), number, paragraph or None


def test_each_cited_section_exists() -> None:
    """A section that a docstring or a comment cites by number, and a paragraph that it cites by name, are there."""
    page = PAGE.read_text("utf-8")
    sections, paragraphs = set(_SECTION.findall(page)), set(_PARAGRAPH.findall(page))
    cited = list(citations())
    assert cited
    assert [each for each in cited if each[1] not in sections] == []
    assert [each for each in cited if each[2] is not None and each[2] not in paragraphs] == []


def test_the_chapter_has_a_section() -> None:
    """The code cites "the chapter"; the page says which document that is."""
    assert any("the chapter" in path.read_text("utf-8") for path in SOURCES)
    assert "The chapter" in _SECTION.findall(PAGE.read_text("utf-8"))
