"""docs/tutorial/first-backup.md, followed to the letter by a shell."""

import re
from pathlib import Path

import pytest

from tests.conftest import processes_naming
from tests.docs.shell import ROOT, said_by_page
from tests.scenarios.served import free_port

PAGE = ROOT / "docs" / "tutorial" / "first-backup.md"
_SHOWN = re.compile(r"^    ([+|].*)$", re.MULTILINE)

pytestmark = pytest.mark.engine


def test_the_tutorial_works(empty_state_dir: Path, instance_network: str) -> None:
    """Its commands succeed, print the table that the page shows, and leave neither a file nor a process behind."""
    values = {"STATE": empty_state_dir / "state", "PORT": free_port(), "PASSWORD": "correct-horse"}
    said = said_by_page(PAGE, values, environment={"SNAPHOLD_INSTANCE_NETWORKS": instance_network})
    assert "\n".join(_SHOWN.findall(PAGE.read_text("utf-8"))) in said
    assert list(empty_state_dir.iterdir()) == []
    assert processes_naming(empty_state_dir) == []
