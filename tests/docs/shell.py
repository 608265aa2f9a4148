"""Does what a page says: its blocks of ``sh``, as they stand there, in one shell at the root of the project."""

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
_BLOCK: Final = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_VARIABLE: Final = re.compile(r"^(\w+)=", re.MULTILINE)


def said_by_page(
    page: Path, values: Mapping[str, object], *, environment: Mapping[str, str], path: Sequence[Path] = ()
) -> str:
    """Follow the page to its end, with these values for the variables of its first block; what was said.

    ``environment`` is added to ours, and ``path`` comes before our PATH.
    """
    settings, *rest = _BLOCK.findall(page.read_text("utf-8"))
    assert _VARIABLE.findall(settings) == list(values)
    given = "\n".join(f"{name}={value}" for name, value in values.items())
    done = subprocess.run(
        ["bash", "-c", "\n".join(["set -euo pipefail", given, *rest])],
        cwd=ROOT,
        env={**os.environ, **environment, "PATH": ":".join([*map(str, path), os.environ["PATH"]])},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout
