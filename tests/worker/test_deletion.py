from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from snaphold.catalog import backups as rows
from snaphold.errors import Forbidden, NotFound, Permanent, Unavailable
from snaphold.model import Backup, BackupStatus
from snaphold.objects import backup_prefix, segment_prefix
from snaphold.service.backups import delete_backup, request_backup, show_backup
from snaphold.worker.deletion import Remover
from tests.fakes.memory_store import Fault, MemoryStore, MemoryStores
from tests.support.region import ACCOUNT, Region, a_backup, open_region

FOREIGN = {
    "11111111-1111-4111-8111-111111111111.xbstream.gz": b"of a Trove cloud",
    "snaphold/another-deployment/22222222-2222-4222-8222-222222222222/1/00000000": b"an upload in flight",
    "notes.txt": b"somebody's",
}


@pytest.fixture
def region(tmp_path: Path) -> Iterator[Region]:
    """A region with one host that is there."""
    region = open_region(tmp_path)
    yield region
    region.deployment.catalog.close()


@pytest.fixture
def stores() -> MemoryStores:
    """Containers that hold other people's objects already."""
    stores = MemoryStores()
    stores.of(ACCOUNT).objects.update(FOREIGN)
    return stores


def remover(region: Region, stores: MemoryStores) -> Remover:
    """The worker's hand."""
    return Remover(region.deployment.catalog, stores, region.deployment.deployment_id)


def fill(store: MemoryStore, region: Region, backup: Backup) -> None:
    """Put what a backup has (or its failed attempt left) into the store."""
    prefix = segment_prefix(region.deployment.deployment_id, backup.id, 1)
    for name in (f"{backup.id}.json", f"{backup.id}.index", f"{backup.id}.xbstream.gz", f"{prefix}00000000"):
        store.objects[name] = b"x"


def with_child(region: Region, parent: Backup) -> Backup:
    """A completed increment on top of a backup."""
    child = replace(parent, id="33333333-3333-4333-8333-333333333333", parent_id=parent.id)
    with region.deployment.catalog.writing() as tx:
        assert rows.insert(tx, child)
    return child


class Gate:
    """A store that takes no changes, or does not answer."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def check(self, account: str, *, write: bool) -> None:
        """Refuse to be written to."""
        del account
        if write:
            raise self.error


def test_a_delete_where_the_store_takes_no_changes(region: Region) -> None:
    """It is refused at once, and the backup stays as it is; a silent store is asked again later."""
    backup = region.completed_backup(region.active_instance())
    closed = replace(region.deployment, store_gate=Gate(Forbidden("The store is read-only.")))
    with pytest.raises(Forbidden):
        delete_backup(closed, ACCOUNT, backup.id)
    assert show_backup(region.deployment, ACCOUNT, backup.id) == backup
    silent = replace(region.deployment, store_gate=Gate(Unavailable("The store does not answer.")))
    delete_backup(silent, ACCOUNT, backup.id)
    assert show_backup(region.deployment, ACCOUNT, backup.id).deleting


def test_a_delete_takes_the_backup_and_its_increments_and_nothing_else(region: Region, stores: MemoryStores) -> None:
    """Every object of the family goes, the rows answer 404, and other people's objects stay byte for byte."""
    parent = region.completed_backup(region.active_instance())
    child = with_child(region, parent)
    store = stores.of(ACCOUNT)
    fill(store, region, parent)
    fill(store, region, child)
    delete_backup(region.deployment, ACCOUNT, parent.id)
    remover(region, stores).delete_backup(parent.id)
    assert store.objects == FOREIGN
    for backup in (parent, child):
        with pytest.raises(NotFound):
            show_backup(region.deployment, ACCOUNT, backup.id)


def test_the_manifest_goes_first_and_children_before_their_parent(region: Region, stores: MemoryStores) -> None:
    """A store that refuses after the first delete leaves no manifest of the child, and the parent whole."""
    parent = region.completed_backup(region.active_instance())
    child = with_child(region, parent)
    store = stores.of(ACCOUNT)
    fill(store, region, parent)
    fill(store, region, child)
    delete_backup(region.deployment, ACCOUNT, parent.id)
    store.faults.append(Fault(method="delete", error=Permanent("the store refuses"), first=2, last=99))
    remover(region, stores).delete_backup(parent.id)
    assert f"{child.id}.json" not in store.objects
    assert f"{parent.id}.json" in store.objects


def test_a_refused_delete_is_visible_and_may_be_sent_again(region: Region, stores: MemoryStores) -> None:
    """DELETE_FAILED with the store's reason; the next DELETE finishes the work and nothing leaks."""
    backup = region.completed_backup(region.active_instance())
    store = stores.of(ACCOUNT)
    fill(store, region, backup)
    store.faults.append(Fault(method="delete", error=Permanent("the store refuses"), first=1, last=1))
    delete_backup(region.deployment, ACCOUNT, backup.id)
    remover(region, stores).delete_backup(backup.id)
    shown = show_backup(region.deployment, ACCOUNT, backup.id)
    assert (shown.status, shown.deleting, shown.reason) == (BackupStatus.DELETE_FAILED, False, "the store refuses")
    delete_backup(region.deployment, ACCOUNT, backup.id)
    remover(region, stores).delete_backup(backup.id)
    assert store.objects == FOREIGN


def test_a_delete_may_run_twice(region: Region, stores: MemoryStores) -> None:
    """A worker that was killed after the objects went, before the row did, just runs again."""
    backup = region.completed_backup(region.active_instance())
    fill(stores.of(ACCOUNT), region, backup)
    delete_backup(region.deployment, ACCOUNT, backup.id)
    for _ in range(2):
        remover(region, stores).delete_backup(backup.id)
    assert stores.of(ACCOUNT).objects == FOREIGN


def test_a_failed_backup_leaves_nothing_after_the_sweep(region: Region, stores: MemoryStores) -> None:
    """Published or not, whatever a failed attempt wrote goes; the catalog with its reason stays."""
    instance = region.active_instance()
    backup = request_backup(region.deployment, ACCOUNT, a_backup(instance.id))
    task = region.claim()
    assert task is not None
    fill(stores.of(ACCOUNT), region, backup)
    region.report(task, ok=False)
    remover(region, stores).sweep_backup(backup.id)
    assert stores.of(ACCOUNT).objects == FOREIGN
    assert show_backup(region.deployment, ACCOUNT, backup.id).status is BackupStatus.FAILED


def test_the_sweep_takes_ended_attempts_only(region: Region, stores: MemoryStores) -> None:
    """A running and a completed backup are never swept, whatever asks for it."""
    instance = region.active_instance()
    completed = region.completed_backup(instance)
    running = request_backup(region.deployment, ACCOUNT, a_backup(instance.id))
    store = stores.of(ACCOUNT)
    fill(store, region, completed)
    fill(store, region, running)
    before = dict(store.objects)
    for backup in (completed, running):
        remover(region, stores).sweep_backup(backup.id)
    remover(region, stores).sweep_recent(0)
    assert store.objects == before


def test_a_late_writer_is_swept_again_after_the_grace_time(region: Region, stores: MemoryStores) -> None:
    """What a host wrote after it had been abandoned goes with a later round, and not before the grace time is over."""
    instance = region.active_instance()
    backup = request_backup(region.deployment, ACCOUNT, a_backup(instance.id))
    task = region.claim()
    assert task is not None
    region.report(task, ok=False)
    late = f"{backup_prefix(region.deployment.deployment_id, backup.id)}1/00000003"
    stores.of(ACCOUNT).objects[late] = b"late"
    remover(region, stores).sweep_recent(60_000_000)
    assert late in stores.of(ACCOUNT).objects
    region.clock.advance(61)
    remover(region, stores).sweep_recent(60_000_000)
    assert stores.of(ACCOUNT).objects == FOREIGN


def test_a_delete_whose_job_was_lost_is_taken_up(region: Region, stores: MemoryStores) -> None:
    """Whatever is marked as being deleted is deleted in the end, with or without its job."""
    backup = region.completed_backup(region.active_instance())
    fill(stores.of(ACCOUNT), region, backup)
    delete_backup(region.deployment, ACCOUNT, backup.id)
    remover(region, stores).retry_deletions()
    assert stores.of(ACCOUNT).objects == FOREIGN
    with pytest.raises(NotFound):
        show_backup(region.deployment, ACCOUNT, backup.id)
