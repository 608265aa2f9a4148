import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_PATH = re.compile(r"\bdocs/[\w/.-]+\.(?:md|toml)\b")


def documents() -> list[Path]:
    """Every page of the repository. A changelog fragment is read as a part of CHANGELOG.md."""
    folders = (ROOT, *(ROOT / name for name in ("docs", "bench", "changelog.d")))
    pages = {path for folder in folders for path in folder.glob("*.md")}
    return sorted(pages | set((ROOT / "docs").rglob("*.md")))


def anchors(page: Path) -> set[str]:
    """The anchors that a page's headings get: lower case, without punctuation, spaces become hyphens."""
    text = _FENCED.sub("", page.read_text("utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in _HEADING.findall(text)}


def broken(page: Path) -> Iterator[str]:
    """The links of a page that lead nowhere."""
    home = ROOT if page.parent.name == "changelog.d" else page.parent
    for link in _LINK.findall(_FENCED.sub("", page.read_text("utf-8"))):
        name, _, anchor = link.partition("#")
        target = (home / name).resolve() if name else page
        if "://" in link:
            continue
        if not target.exists() or (anchor and anchor not in anchors(target)):
            yield f"{page.relative_to(ROOT)}: {link}"


def test_every_link_leads_somewhere() -> None:
    """A relative link names a file of the repository, and its anchor a heading of that file."""
    assert [each for page in documents() for each in broken(page)] == []


def test_every_page_is_in_the_index() -> None:
    """docs/README.md links to each page of docs."""
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / link.partition("#")[0]).resolve() for link in _LINK.findall(index.read_text("utf-8"))}
    assert sorted(set((ROOT / "docs").rglob("*.md")) - {index} - linked) == []


def test_pages_that_the_code_names_exist() -> None:
    """A page of docs that a docstring, a comment or a message names is there."""
    sources = [path for folder in ("src", "tests", "docs", "demo", "bench") for path in (ROOT / folder).rglob("*.py")]
    named = {name for path in sources for name in _PATH.findall(path.read_text("utf-8"))}
    assert sorted(name for name in named if not (ROOT / name).exists()) == []
