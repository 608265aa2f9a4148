import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "changelog.d"
OTHERS = {"README.md", "section.md.jinja"}


def fragments() -> list[Path]:
    """The fragments that wait for the next release."""
    return sorted(path for path in FOLDER.iterdir() if path.name not in OTHERS)


def test_fragments_are_well_formed() -> None:
    """A fragment is named ``<subject>.<kind>.md``, of a kind that the configuration knows, and says something."""
    kinds = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["towncrier"]["fragment"]
    for fragment in fragments():
        subject, kind, ending = fragment.name.split(".")
        assert (subject != "", kind in kinds, ending) == (True, True, "md"), fragment.name
        text = fragment.read_text("utf-8")
        assert text.strip(), fragment.name
        assert not text.lstrip().startswith(("#", "- ")), f"{fragment.name} is one entry of a list"


def test_each_fragment_is_in_the_next_release() -> None:
    """The section that ``make release`` would write has the text of every fragment."""
    argv = [sys.executable, "-m", "towncrier", "build", "--draft", "--version", "1.0.0", "--date", "2026-01-01"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    section = " ".join(done.stdout.split())
    assert section.startswith("## 1.0.0 (2026-01-01)")
    assert [path.name for path in fragments() if " ".join(path.read_text("utf-8").split()) not in section] == []
