"""Runs the plain tools on the same server, as a user would."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from snaphold.engines.mariadb.installation import Installation
from snaphold.engines.mariadb.tool import LOG_COPY_INTERVAL_MS

GZIP: Final = ("gzip",)
IGZIP: Final = (sys.executable, "-m", "isal.igzip", "-1", "-c")  # one thread, as the program igzip


class PlainTools:
    """mariabackup, gzip and mbstream on an instance of a service, with the instance's own backup account."""

    def __init__(self, installation: Installation, state_dir: Path, instance_id: str) -> None:
        self._installation = installation
        self._directory = state_dir / "instances" / instance_id
        self._work = state_dir / "plain"
        self._work.mkdir(exist_ok=True)
        self._environment = dict(os.environ, **installation.environment)
        self.archive = self._work / "backup.xbstream.gz"
        self.stream = self._work / "backup.xbstream"

    def back_up(self, compressor: Sequence[str] = GZIP) -> float:
        """``mariabackup --backup --stream=xbstream | gzip > file``; the seconds it took."""
        return self._back_up(self.archive, compressor)

    def save_stream(self) -> None:
        """Keep the stream itself, and have it in memory."""
        self._back_up(self.stream, None)

    def take_to_nowhere(self) -> float:
        """The tool alone, with the options that snaphold gives it; the seconds it took."""
        return self._back_up(Path(os.devnull), None, f"--log-copy-interval={LOG_COPY_INTERVAL_MS}")

    def restore(self) -> float:
        """``gzip -dc file | mbstream -x``, ``--prepare``, and a server until it is ready; the seconds it took."""
        target = self._work / "restored"
        target.mkdir()
        began = time.monotonic()
        with subprocess.Popen(["gzip", "-dc", self.archive], stdout=subprocess.PIPE) as gzip:
            extract: list[str | Path] = [self._installation.mbstream, "-x", "-C", target]
            subprocess.run(extract, stdin=gzip.stdout, check=True, env=self._environment)
        prepare: list[str | Path] = [self._installation.mariabackup, "--prepare", f"--target-dir={target}"]
        subprocess.run(prepare, check=True, env=self._environment, stderr=subprocess.DEVNULL)
        self._start_and_stop(target)
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

    def _back_up(self, target: Path, compressor: Sequence[str] | None, *options: str) -> float:
        work = self._work / "target"
        began = time.monotonic()
        backup: list[str | Path] = [
            self._installation.mariabackup,
            f"--defaults-file={self._directory / 'backup.cnf'}",
            "--backup",
            "--stream=xbstream",
            f"--target-dir={work}",
            f"--datadir={self._directory / 'data'}",
            *options,
        ]
        with target.open("wb") as out, (self._work / "backup.log").open("wb") as log:
            sink = out if compressor is None else subprocess.PIPE
            place = self._directory / "data"
            with subprocess.Popen(backup, stdout=sink, stderr=log, env=self._environment, cwd=place) as tool:
                if compressor is not None:
                    subprocess.run(compressor, stdin=tool.stdout, stdout=out, check=True)
        if tool.returncode:
            raise RuntimeError((self._work / "backup.log").read_text()[-2000:])
        seconds = time.monotonic() - began
        shutil.rmtree(work, ignore_errors=True)
        return seconds

    def _start_and_stop(self, data: Path) -> None:
        """Start a server on the directory until it says that it is ready."""
        argv: list[str | Path] = [
            self._installation.mariadbd,
            "--no-defaults",
            f"--datadir={data}",
            f"--socket={self._work / 's'}",
            "--skip-networking",
            f"--lc-messages-dir={self._installation.share}",
            f"--character-sets-dir={self._installation.share / 'charsets'}",
            *(["--user=root"] if os.geteuid() == 0 else []),
        ]
        with subprocess.Popen(
            argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=self._environment, text=True
        ) as server:
            said = ""
            for line in server.stderr or ():
                said += line
                if "ready for connections" in line:
                    break
            else:
                raise RuntimeError(said[-2000:])
            server.kill()
            server.communicate()
