"""docs/tutorial/first-backup.md, followed to the letter by a shell."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.conftest import processes_naming
from tests.scenarios.served import free_port

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "tutorial" / "first-backup.md"
_BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SHOWN = re.compile(r"^    ([+|].*)$", re.MULTILINE)

pytestmark = pytest.mark.engine


def test_the_tutorial_works(empty_state_dir: Path, instance_network: str) -> None:
    """Its commands succeed, print the table that the page shows, and leave neither a file nor a process behind."""
    text = PAGE.read_text("utf-8")
    settings, *rest = _BLOCK.findall(text)
    assert re.findall(r"^(\w+)=", settings, re.MULTILINE) == ["STATE", "PORT", "PASSWORD"]
    values = f"STATE={empty_state_dir}/state\nPORT={free_port()}\nPASSWORD=correct-horse\n"
    done = subprocess.run(
        ["bash", "-c", "\n".join(["set -euo pipefail", values, *rest])],
        cwd=ROOT,
        env={**os.environ, "SNAPHOLD_INSTANCE_NETWORKS": instance_network},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert "\n".join(_SHOWN.findall(text)) in done.stdout
    assert list(empty_state_dir.iterdir()) == []
    assert processes_naming(empty_state_dir) == []
