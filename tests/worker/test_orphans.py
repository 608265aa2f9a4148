import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from snaphold.catalog import backups as rows
from snaphold.model import SERVICE_ACCOUNT, Backup, BackupStatus
from snaphold.objects import backup_prefix, segment_prefix
from snaphold.store.local import LocalStores
from snaphold.wiring.state_directory import StateDirectory
from snaphold.worker.orphans import Kind, OrphanedObjects, OrphanScanner, Tally, changes
from tests.scenarios.served import snaphold
from tests.support.manifests import a_backup_record
from tests.support.region import ACCOUNT, Region, open_region

GRACE_S = 60
LONG_AGO_S = 3600
UNKNOWN = "11111111-1111-4111-8111-111111111111"


class Site:
    """A region with a store of its own on the disk."""

    def __init__(self, path: Path, region: Region) -> None:
        self.path = path
        self.region = region
        self.stores = LocalStores(path)
        self.deployment_id = region.deployment.deployment_id
        self.scanner = OrphanScanner(region.deployment.catalog, self.stores, self.deployment_id, GRACE_S * 1_000_000)

    def put(self, *names: str, account: str = ACCOUNT, age_s: int = LONG_AGO_S) -> None:
        """Objects of three bytes, written so long ago."""
        with self.region.deployment.catalog.reading() as tx:
            written_s = tx.now_us // 1_000_000 - age_s
        for name in names:
            self.stores.of(account).put(name, b"abc")
            os.utime(self.path / account / "z_CLOUDDB_BACKUPS" / name, (written_s, written_s))

    def record(self, number: int, status: BackupStatus, *, age_s: int = LONG_AGO_S, deleted: bool = False) -> Backup:
        """A backup in the catalog that got this status so long ago."""
        with self.region.deployment.catalog.writing() as tx:
            then_us = tx.now_us - age_s * 1_000_000
            backup = replace(
                a_backup_record(number),
                status=status,
                reason="The host is gone." if status is BackupStatus.FAILED else None,
                manifest_sha256="0" * 64,
                updated_us=then_us,
                deleted_us=then_us if deleted else None,
            )
            assert rows.insert(tx, backup)
        return backup

    def names(self, account: str = ACCOUNT) -> dict[Kind, list[str]]:
        """What is told of an account, without the kinds of which there is nothing."""
        [found] = self.scanner.look([account])
        return {kind: tally.names for kind, tally in found.tallies.items() if tally.count}

    def objects(self, backup: Backup) -> list[str]:
        """The names of what a backup may have."""
        segment = f"{segment_prefix(self.deployment_id, backup.id, 1)}segments"
        return [f"{backup.id}.index", f"{backup.id}.json", f"{backup.id}.xbstream.gz", segment]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A state directory with a region, a store, and no backups."""
    state = StateDirectory(tmp_path)
    state.make(["DFW"])
    region = open_region(state.region("DFW"))
    yield Site(state.store("DFW"), region)
    region.deployment.catalog.close()


@pytest.mark.parametrize(
    "status", [BackupStatus.NEW, BackupStatus.BUILDING, BackupStatus.COMPLETED, BackupStatus.DELETE_FAILED]
)
def test_what_belongs_to_a_backup_is_no_stranger(site: Site, status: BackupStatus) -> None:
    """Neither the objects of a running attempt, however old, nor a whole backup's, nor what could not be removed."""
    site.put(*site.objects(site.record(1, status)))
    assert site.names() == {}


def test_each_stranger_is_told_by_whose_it_is(site: Site) -> None:
    """By prefix, by record, by the form of the name; and all of it is there afterwards."""
    failed, deleted = site.record(1, BackupStatus.FAILED), site.record(2, BackupStatus.COMPLETED, deleted=True)
    ours = [*site.objects(failed), f"{deleted.id}.json", f"{backup_prefix(site.deployment_id, UNKNOWN)}1/segments"]
    unknown = [f"{UNKNOWN}.xbstream.gz"]
    others = [f"snaphold/another-deployment/{failed.id}/1/00000000"]
    foreign = ["notes.txt", "snaphold/stray", "trove/backup.xbstream.gz"]
    site.put(*ours, *unknown, *others, *foreign)
    before = list(site.stores.of(ACCOUNT).list(""))
    found = site.names()
    assert {kind: sorted(names) for kind, names in found.items()} == {
        Kind.OURS: sorted(ours),
        Kind.UNKNOWN: unknown,
        Kind.OTHERS: others,
        Kind.FOREIGN: foreign,
    }
    assert list(site.stores.of(ACCOUNT).list("")) == before


def test_what_is_being_written_is_no_stranger_yet(site: Site) -> None:
    """An id without a record that one young object has (a peer's copy), and an attempt that has only just ended."""
    site.put(f"{UNKNOWN}.xbstream.gz", f"{backup_prefix(site.deployment_id, UNKNOWN)}1/00000000")
    assert set(site.names()) == {Kind.OURS, Kind.UNKNOWN}
    site.put(f"{backup_prefix(site.deployment_id, UNKNOWN)}1/00000001", age_s=GRACE_S - 1)
    site.put(*site.objects(site.record(1, BackupStatus.FAILED, age_s=GRACE_S - 1)))
    assert site.names() == {}


def test_many_are_counted_and_some_named(site: Site) -> None:
    """Counts and bytes are of all, names of the first twenty."""
    site.put(*(f"photo-{number:02}" for number in range(25)))
    [found] = site.scanner.look()
    told = found.to_json()["foreign"]
    assert (told["count"], told["bytes"]) == (25, 75)
    assert told["names"] == [f"photo-{number:02}" for number in range(20)]


def of(account: str, foreign: int) -> OrphanedObjects:
    """An account with so many foreign objects."""
    return OrphanedObjects(
        account=account, tallies={kind: Tally(count=foreign * (kind is Kind.FOREIGN)) for kind in Kind}
    )


def test_only_changes_are_told() -> None:
    """What differs from before, and what is there at the first look; an empty container is no news."""
    before = {one.account: one.counts for one in (of("same", 1), of("more", 1), of("gone", 1))}
    now = [of("same", 1), of("more", 2), of("gone", 0), of("new", 1), of("empty", 0)]
    assert [one.account for one in changes(before, now)] == ["more", "gone", "new"]


def test_the_worker_tells_once(site: Site) -> None:
    """A line when the counts change, louder for what is ours; none in the rounds between, none of our own account."""
    site.put("state/x", account=SERVICE_ACCOUNT)
    site.put("notes.txt")
    with capture_logs() as lines:
        site.scanner.tell_changes()
        site.scanner.tell_changes()
        site.put(*site.objects(site.record(1, BackupStatus.FAILED)))
        site.scanner.tell_changes()
    assert [(line["log_level"], line["account"], line["ours_unrecorded"], line["foreign"]) for line in lines] == [
        ("info", ACCOUNT, 0, 1),
        ("warning", ACCOUNT, 4, 1),
    ]


def test_the_command(site: Site, tmp_path: Path) -> None:
    """JSON of the accounts that are meant, status 0, beside whoever has the catalog open."""
    site.put("notes.txt")
    site.put("else", account="5678")
    for words, accounts in (([], [ACCOUNT, "5678"]), (["--account", "5678"], ["5678"])):
        argv = snaphold("store", "check", "--state-dir", tmp_path, *words)
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
        told = json.loads(done.stdout)
        assert sorted(one["account"] for one in told["accounts"]) == sorted(accounts)
        assert all(one["foreign"]["count"] == 1 for one in told["accounts"])
