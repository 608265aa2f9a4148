"""Runs the ``sh`` blocks of a page, unchanged, in one shell in the top directory."""

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
_BLOCK: Final = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_VARIABLE: Final = re.compile(r"^(\w+)=", re.MULTILINE)


def said_by_page(page: Path, values: Mapping[str, object], *, environment: Mapping[str, str]) -> str:
    """Run the blocks of a page in order, and return their output.

    ``values`` replace those of the variables in its first block; ``environment`` is added to this process's.
    """
    settings, *rest = _BLOCK.findall(page.read_text("utf-8"))
    assert _VARIABLE.findall(settings) == list(values)
    given = "\n".join(f"{name}={value}" for name, value in values.items())
    done = subprocess.run(
        ["bash", "-c", "\n".join(["set -euo pipefail", given, *rest])],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout
