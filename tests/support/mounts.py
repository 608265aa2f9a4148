"""Runs Python where a directory is a file system of its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path


def in_a_file_system(
    kind: str, directory: Path, script: str, *options: str, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Mount ``kind`` there, in a mount namespace of its own; the script's first argument is the directory."""
    assert shutil.which("unshare"), "util-linux is on every Debian"
    unshare = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]
    mount = f'mount -t {kind} {" ".join(options)} none "{directory}" && exec "$0" -c "$1" "{directory}"'
    return subprocess.run(
        [*unshare, "sh", "-c", mount, sys.executable, script], capture_output=True, text=True, check=False, cwd=cwd
    )
