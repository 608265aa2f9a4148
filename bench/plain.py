"""The plain tools on the same server, as one would type them."""

import os
import shutil
import subprocess
import time
from pathlib import Path

from snaphold.engines.installation import Installation


class PlainTools:
    """mariabackup, gzip and mbstream on an instance of a service, with the instance's own backup account."""

    def __init__(self, installation: Installation, state_dir: Path, instance_id: str) -> None:
        self._installation = installation
        self._directory = state_dir / "instances" / instance_id
        self._work = state_dir / "plain"
        self._work.mkdir(exist_ok=True)
        self._environment = dict(os.environ, **installation.environment)
        self.archive = self._work / "backup.xbstream.gz"

    def back_up(self) -> float:
        """``mariabackup --backup --stream=xbstream | gzip > file``; the seconds it took."""
        target = self._work / "target"
        began = time.monotonic()
        backup: list[str | Path] = [
            self._installation.mariabackup,
            f"--defaults-file={self._directory / 'backup.cnf'}",
            "--backup",
            "--stream=xbstream",
            f"--target-dir={target}",
            f"--datadir={self._directory / 'data'}",
        ]
        with (
            self.archive.open("wb") as out,
            (self._work / "backup.log").open("wb") as log,
            subprocess.Popen(
                backup, stdout=subprocess.PIPE, stderr=log, env=self._environment, cwd=self._directory / "data"
            ) as tool,
        ):
            subprocess.run(["gzip"], stdin=tool.stdout, stdout=out, check=True)
        if tool.returncode:
            raise RuntimeError((self._work / "backup.log").read_text()[-2000:])
        seconds = time.monotonic() - began
        shutil.rmtree(target, ignore_errors=True)
        return seconds

    def restore(self) -> float:
        """``gzip -dc file | mbstream -x`` and ``--prepare``; the seconds it took (no server is started)."""
        target = self._work / "restored"
        target.mkdir()
        began = time.monotonic()
        with subprocess.Popen(["gzip", "-dc", self.archive], stdout=subprocess.PIPE) as gzip:
            extract: list[str | Path] = [self._installation.mbstream, "-x", "-C", target]
            subprocess.run(extract, stdin=gzip.stdout, check=True, env=self._environment)
        prepare: list[str | Path] = [self._installation.mariabackup, "--prepare", f"--target-dir={target}"]
        subprocess.run(prepare, check=True, env=self._environment, stderr=subprocess.DEVNULL)
        seconds = time.monotonic() - began
        shutil.rmtree(target)
        return seconds
