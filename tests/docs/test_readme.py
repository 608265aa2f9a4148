"""Runs the commands of README.md."""

from pathlib import Path

import pytest

from tests.conftest import processes_naming
from tests.docs.shell import ROOT, said_by_page
from tests.scenarios.served import free_port

pytestmark = pytest.mark.engine


def test_every_example_can_be_pasted(empty_state_dir: Path, instance_network: str) -> None:
    """The commands succeed in their order, list the backups that they took, and leave no process behind."""
    values = {"STATE": empty_state_dir / "state", "PORT": free_port(), "PASSWORD": "correct-horse"}
    said = said_by_page(ROOT / "README.md", values, environment={"SNAPHOLD_INSTANCE_NETWORKS": instance_network})
    rows = [line.split("\t")[1:] for line in said.splitlines() if line.count("\t") == 4]
    assert [[kind, status, name] for kind, status, _, name in rows] == [
        ["InnoBackupExIncremental", "COMPLETED", "after it"],
        ["InnoBackupEx", "COMPLETED", "before the release"],
    ]
    assert processes_naming(empty_state_dir) == []
