"""Does what docs/how-to/restore-by-hand.md says: its commands, as they stand there, in one shell."""

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from snaphold.engines.mariadb.installation import Installation

PAGE: Final = Path(__file__).parents[2] / "docs" / "how-to" / "restore-by-hand.md"
_BLOCK: Final = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_VARIABLE: Final = re.compile(r"^([A-Z]+)=", re.MULTILINE)


def commands() -> tuple[list[str], str]:
    """The variables that the page asks to be set, and all that it says to do then."""
    settings, *rest = _BLOCK.findall(PAGE.read_text("utf-8"))
    return _VARIABLE.findall(settings), "".join(rest)


def followed(installation: Installation, values: Mapping[str, str | Path]) -> subprocess.CompletedProcess[str]:
    """Follow the page with these values for its variables; what the shell and the tools said."""
    names, script = commands()
    assert sorted(values) == sorted(names)
    tools = ":".join(sorted({str(installation.mbstream.parent), str(installation.mariabackup.parent)}))
    environment = {**installation.environment, "PATH": f"{tools}:{os.environ['PATH']}"}
    return subprocess.run(
        ["bash", "-c", script],
        env={**environment, **{name: str(value) for name, value in values.items()}},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )


def restored_by_hand(installation: Installation, values: Mapping[str, str | Path]) -> str:
    """Follow the page to its end; what was said."""
    ended = followed(installation, values)
    assert ended.returncode == 0, ended.stdout[-4000:]
    return ended.stdout
