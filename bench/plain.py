"""The plain tools on the same server, as one would type them."""

import os
import re
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

    def restore_in_turn(self, archives: list[Path]) -> float:
        """Extract and prepare a full backup, then each increment; the seconds it took (no server is started)."""
        target, beside = self._work / "restored", self._work / "increment"
        began = time.monotonic()
        for number, archive in enumerate(archives):
            directory = beside if number else target
            directory.mkdir()
            with subprocess.Popen(["gzip", "-dc", archive], stdout=subprocess.PIPE) as gzip:
                extract: list[str | Path] = [self._installation.mbstream, "-x", "-C", directory]
                subprocess.run(extract, stdin=gzip.stdout, check=True, env=self._environment)
            prepare: list[str | Path] = [self._installation.mariabackup, "--prepare", f"--target-dir={target}"]
            if number:
                (begin,) = re.findall(r"from_lsn = (\d+)", (beside / "xtrabackup_checkpoints").read_text())
                checkpoints = target / "xtrabackup_checkpoints"
                checkpoints.write_text(re.sub(r"to_lsn = \d+", f"to_lsn = {begin}", checkpoints.read_text()))
                prepare.append(f"--incremental-dir={beside}")
            subprocess.run(prepare, check=True, env=self._environment, stderr=subprocess.DEVNULL)
            shutil.rmtree(beside, ignore_errors=True)
        seconds = time.monotonic() - began
        shutil.rmtree(target)
        return seconds
