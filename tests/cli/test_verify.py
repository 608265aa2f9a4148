"""`snaphold verify` against a real record, whose worker the test plays."""

import json
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from snaphold.catalog import backups as rows
from snaphold.model import Backup, VerificationLevel, VerificationStatus
from tests.scenarios.served import snaphold
from tests.support.region import ACCOUNT, Region, a_verification, open_region


class Worker:
    """Ends every verification that is under way: as failed for one backup, else as passed."""

    def __init__(self, region: Region, bad: str) -> None:
        self.most_at_once = 0
        self._region = region
        self._bad = bad
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(0.1):
            with self._region.deployment.catalog.writing() as tx:
                under_way = rows.being_verified(tx, VerificationLevel.OBJECTS)
                self.most_at_once = max(self.most_at_once, len(under_way))
                for backup_id in under_way:
                    bad = {"status": VerificationStatus.FAILED, "reason": "differs"} if backup_id == self._bad else {}
                    rows.end_verification(tx, backup_id, a_verification(level=VerificationLevel.OBJECTS, **bad))


@pytest.fixture
def region(tmp_path: Path) -> Iterator[Region]:
    """The region DFW of a state directory."""
    directory = tmp_path / "regions" / "DFW"
    directory.mkdir(parents=True)
    region = open_region(directory)
    yield region
    region.deployment.catalog.close()


@pytest.fixture
def backups(region: Region) -> list[Backup]:
    """Three completed backups of one account, and one of another."""
    instance, other = region.active_instance(), region.active_instance("9999")
    return [*(region.completed_backup(instance) for _ in range(3)), region.completed_backup(other)]


def verify(state_dir: Path, *words: str) -> tuple[int, dict[str, dict[str, object]], list[str]]:
    """Run the command; its exit status, what it says of each backup, and its complaints."""
    argv = snaphold("verify", "--state-dir", state_dir, *words)
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    lines = map(json.loads, done.stdout.splitlines())
    return done.returncode, {line["backup"]: line for line in lines}, done.stderr.splitlines()


def test_every_backup_is_proven(region: Region, backups: list[Backup], tmp_path: Path) -> None:
    """A few at a time, a line for each, and status 1 because one did not pass."""
    with Worker(region, backups[1].id) as worker:
        status, lines, _ = verify(tmp_path, "--all")
    assert status == 1
    assert {name: line["status"] for name, line in lines.items()} == {
        backup.id: "failed" if backup is backups[1] else "passed" for backup in backups
    }
    assert lines[backups[1].id]["reason"] == "differs"
    assert worker.most_at_once <= 2


def test_one_account(region: Region, backups: list[Backup], tmp_path: Path) -> None:
    """Only its backups; status 0 when all passed."""
    with Worker(region, "none"):
        status, lines, _ = verify(tmp_path, "--all", "--account", ACCOUNT)
    assert (status, set(lines)) == (0, {backup.id for backup in backups[:3]})


def test_nobody_waits(region: Region, backups: list[Backup], tmp_path: Path) -> None:
    """All are asked for at once; what is being verified already is left out."""
    for asked in (len(backups), 0):
        status, lines, _ = verify(tmp_path, "--all", "--no-wait")
        assert (status, [line["status"] for line in lines.values()]) == (0, ["asked"] * asked)
    with region.deployment.catalog.reading() as tx:
        assert set(rows.being_verified(tx, VerificationLevel.OBJECTS)) == {backup.id for backup in backups}


@pytest.mark.usefixtures("backups")
def test_no_host_is_there(tmp_path: Path) -> None:
    """A verification that nobody can give is unknown, which is not passed."""
    status, lines, _ = verify(tmp_path, "--all", "--level", "restore")
    assert (status, {line["status"] for line in lines.values()}) == (1, {"unknown"})


@pytest.mark.usefixtures("region")
@pytest.mark.parametrize("words", [[], ["--all", "--level", "deep"], ["--all", "--region", "IAD"]], ids=str)
def test_what_makes_no_sense(tmp_path: Path, words: list[str]) -> None:
    """One clear line, status 1."""
    status, _, complaints = verify(tmp_path, *words)
    assert (status, len(complaints)) == (1, 1)
