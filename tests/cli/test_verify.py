"""`snaphold verify` against a real record, whose worker the test plays."""

import json
import logging
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest
import structlog

from snaphold.catalog import backups as rows
from snaphold.cli import main
from snaphold.model import Backup, ProofLevel, ProofStatus
from tests.support.region import ACCOUNT, Region, a_proof, open_region


class Worker:
    """Ends every proof that is under way: as failed for one backup, else as passed."""

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
                under_way = rows.being_proven(tx, ProofLevel.OBJECTS)
                self.most_at_once = max(self.most_at_once, len(under_way))
                for backup_id in under_way:
                    bad = {"status": ProofStatus.FAILED, "reason": "differs"} if backup_id == self._bad else {}
                    rows.end_proof(tx, backup_id, a_proof(level=ProofLevel.OBJECTS, **bad))


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    """The command sets this process's logs up."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


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


def verify(monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> int:
    """Run the command in this process; the exit status."""
    monkeypatch.setattr(sys, "argv", ["snaphold", "verify", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def said(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, object]]:
    """The lines of standard output, by backup."""
    return {line["backup"]: line for line in map(json.loads, capsys.readouterr().out.splitlines())}


def test_every_backup_is_proven(
    region: Region,
    backups: list[Backup],
    tmp_path: Path,
    *,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A few at a time, a line for each, and status 1 because one did not pass."""
    with Worker(region, backups[1].id) as worker:
        assert verify(monkeypatch, "--state-dir", tmp_path, "--all") == 1
    lines = said(capsys)
    assert {name: line["status"] for name, line in lines.items()} == {
        backup.id: "failed" if backup is backups[1] else "passed" for backup in backups
    }
    assert lines[backups[1].id]["reason"] == "differs"
    assert worker.most_at_once <= 2


def test_one_account(
    region: Region,
    backups: list[Backup],
    tmp_path: Path,
    *,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Only its backups; status 0 when all passed."""
    with Worker(region, "none"):
        assert verify(monkeypatch, "--state-dir", tmp_path, "--all", "--account", ACCOUNT) == 0
    assert set(said(capsys)) == {backup.id for backup in backups[:3]}


def test_nobody_waits(
    region: Region,
    backups: list[Backup],
    tmp_path: Path,
    *,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """All are asked for at once; what is being proven already is left out."""
    for asked in (len(backups), 0):
        assert verify(monkeypatch, "--state-dir", tmp_path, "--all", "--no-wait") == 0
        assert [line["status"] for line in said(capsys).values()] == ["asked"] * asked
    with region.deployment.catalog.reading() as tx:
        assert set(rows.being_proven(tx, ProofLevel.OBJECTS)) == {backup.id for backup in backups}


@pytest.mark.usefixtures("backups")
def test_no_host_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A proof that nobody can give is unknown, which is not passed."""
    assert verify(monkeypatch, "--state-dir", tmp_path, "--all", "--level", "restore") == 1
    assert {line["status"] for line in said(capsys).values()} == {"unknown"}


@pytest.mark.usefixtures("region")
@pytest.mark.parametrize("words", [[], ["--all", "--level", "deep"], ["--all", "--region", "IAD"]], ids=str)
def test_what_makes_no_sense(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    """One clear line, status 1."""
    assert verify(monkeypatch, "--state-dir", tmp_path, *words) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
