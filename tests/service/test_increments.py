from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import structlog

from snaphold.catalog import backups as rows
from snaphold.errors import BadRequest, NotFound, Unprocessable
from snaphold.model import Backup, BackupStatus, Instance
from snaphold.protocol import Heartbeat, InstanceState, Task
from snaphold.service import sessions
from snaphold.service.backups import delete_backup, request_backup, show_backup
from snaphold.service.consolidation import request_consolidation
from snaphold.service.instances import create_instance, show_instance
from snaphold.service.requests import BackupRequest
from tests.scenarios.served import eventually
from tests.support.region import ACCOUNT, Region, a_backup, an_instance

UNKNOWN = "00000000-0000-4000-8000-000000000007"


def on(instance: Instance, parent_id: str | None = None) -> BackupRequest:
    """A request for an increment, on this parent or on whatever there is."""
    return replace(a_backup(instance.id), parent_id=parent_id, incremental=parent_id is None)


def begin(region: Region, request: BackupRequest) -> Task:
    """Ask for a backup, and let the host claim it."""
    request_backup(region.deployment, ACCOUNT, request)
    task = region.claim()
    assert task is not None and task.backup is not None  # noqa: PT018 - one thought
    return task


def taken(region: Region, request: BackupRequest) -> Backup:
    """The backup, COMPLETED."""
    task = begin(region, request)
    assert task.backup is not None
    region.report(task)
    return show_backup(region.deployment, ACCOUNT, task.backup.id)


def test_a_host_is_given_the_whole_chain(region: Region) -> None:
    """The full first, each increment behind its parent, trusted by their manifests; and who has chosen the parent."""
    instance = region.active_instance()
    full = taken(region, on(instance))
    assert full.parent_id is None
    first = taken(region, on(instance, full.id))
    task = begin(region, on(instance))
    assert [link.backup_id for link in task.chain] == [full.id, first.id]
    assert task.backup is not None
    assert (task.backup.parent_id, task.backup.parent_named) == (first.id, False)
    region.report(task)
    second = show_backup(region.deployment, ACCOUNT, task.backup.id)
    named = begin(region, on(instance, full.id))
    assert named.backup is not None
    assert (named.backup.parent_id, named.backup.parent_named) == (full.id, True)
    region.report(named)
    create_instance(region.deployment, ACCOUNT, an_instance(backup_ref=second.id))
    restore = region.claim()
    assert restore is not None
    assert [link.backup_id for link in restore.chain] == [full.id, first.id, second.id]


def test_a_full_in_place_of_an_increment_is_shown_as_what_it_is(region: Region) -> None:
    """Where nobody named the parent the host may take a full one, and says so: it depends on nothing."""
    instance = region.active_instance()
    taken(region, on(instance))
    task = begin(region, on(instance))
    assert task.backup is not None
    region.report(task.model_copy(update={"backup": task.backup.model_copy(update={"parent_id": None})}))
    assert show_backup(region.deployment, ACCOUNT, task.backup.id).parent_id is None


def test_parents_that_are_none(region: Region) -> None:
    """Unknown and foreign 404, another source's 400, not COMPLETED or of replaced data 422; nothing is begun."""
    instance, other = region.active_instance(), region.active_instance()
    full = taken(region, on(instance))
    foreign = region.completed_backup(region.active_instance("9999"))
    of_other = taken(region, on(other))
    failed = begin(region, a_backup(instance.id))
    region.report(failed, ok=False)
    assert failed.backup is not None
    for parent, refusal in (
        (UNKNOWN, NotFound),
        (foreign.id, NotFound),
        (of_other.id, BadRequest),
        (failed.backup.id, Unprocessable),
    ):
        with pytest.raises(refusal):
            request_backup(region.deployment, ACCOUNT, on(instance, parent))
    fresh = region.active_instance()  # whose host has told nothing of its data: its newest backup does
    older = replace(full, id=UNKNOWN, instance_id=fresh.id, source_id=fresh.id)
    newer = replace(older, id=UNKNOWN[:-1] + "8", incarnation="j", created_us=full.created_us + 1)
    with region.deployment.catalog.writing() as tx:
        assert rows.insert(tx, older)
        assert rows.insert(tx, newer)
    with pytest.raises(Unprocessable, match="replaced"):
        request_backup(region.deployment, ACCOUNT, on(fresh, older.id))
    delete_backup(region.deployment, ACCOUNT, full.id)
    with pytest.raises(Unprocessable):
        request_backup(region.deployment, ACCOUNT, on(instance, full.id))
    assert taken(region, on(instance)).parent_id is None


def test_a_parent_is_of_the_data_that_there_is_now(region: Region) -> None:
    """By what the host tells: a named parent of other data 422, and an increment on whatever there is a full one."""
    instance = region.active_instance()
    full = taken(region, on(instance))
    assert show_instance(region.deployment, ACCOUNT, instance.id).incarnation == full.incarnation == "i"
    tell(region, instance, "j", 50)
    with pytest.raises(Unprocessable, match=f"Backup {full.id} was taken before the data of its instance was replaced"):
        request_backup(region.deployment, ACCOUNT, on(instance, full.id))
    task = begin(region, on(instance))
    assert task.backup is not None
    assert (task.backup.parent_id, task.chain, task.backup.max_lsn) == (None, [], 50)
    region.report(task, ok=False)
    with region.deployment.catalog.writing() as tx:
        assert rows.insert(tx, replace(full, id=UNKNOWN, incarnation="j", created_us=full.created_us - 1))
    assert begin(region, on(instance)).chain[0].backup_id == UNKNOWN


def test_a_lower_lsn_makes_no_backup_a_parent_until_another_life_begins(region: Region) -> None:
    """A host whose notes were rolled back with its data is told that this life is over, and is not believed in it."""
    instance = region.active_instance()
    full = taken(region, on(instance))
    for lsn in (300, 500, 500):
        tell(region, instance, "i", lsn)
    known = show_instance(region.deployment, ACCOUNT, instance.id)
    assert (known.incarnation, known.max_lsn, known.ended_incarnation) == ("i", 500, None)
    for lsn in (499, 501):
        tell(region, instance, "i", lsn)
        known = show_instance(region.deployment, ACCOUNT, instance.id)
        assert (known.incarnation, known.max_lsn, known.ended_incarnation) == (None, lsn, "i")
        with pytest.raises(Unprocessable, match="replaced"):
            request_backup(region.deployment, ACCOUNT, on(instance, full.id))
    task = begin(region, on(instance))
    assert task.backup is not None
    assert (task.backup.parent_id, task.backup.max_lsn, task.backup.ended_incarnation) == (None, 501, "i")
    region.report(task)  # of the life that is over, as of a host that does not know better
    assert show_instance(region.deployment, ACCOUNT, instance.id).incarnation is None
    tell(region, instance, "j", 502)
    known = show_instance(region.deployment, ACCOUNT, instance.id)
    assert (known.incarnation, known.max_lsn, known.ended_incarnation) == ("j", 502, "i")


def test_a_heartbeat_that_had_to_wait_is_no_rollback(region: Region) -> None:
    """While it waited for the catalog its host may have reported again: a lower LSN is then an old one."""
    instance = region.active_instance()
    tell(region, instance, "i", 500)
    with ThreadPoolExecutor(1) as pool:
        with region.deployment.catalog.writing():
            before_us = region.clock.now_us
            late = pool.submit(tell, region, instance, "i", 400)
            eventually(lambda: region.clock.now_us > before_us, "the heartbeat to come")
            region.clock.advance(20)
        late.result()
    known = show_instance(region.deployment, ACCOUNT, instance.id)
    assert (known.incarnation, known.max_lsn, known.ended_incarnation) == ("i", 500, None)


def tell(region: Region, instance: Instance, incarnation: str, max_lsn: int) -> None:
    """The host's heartbeat about this instance."""
    state = InstanceState(id=instance.id, running=True, incarnation=incarnation, max_lsn=max_lsn)
    sessions.heartbeat(region.deployment, region.host_id, Heartbeat(session=region.session, instances=[state]))


def test_a_chain_is_deleted_as_one_when_nothing_uses_it(region: Region) -> None:
    """An increment that is being taken, or restored, keeps what it depends on; then all of it goes, and is counted."""
    instance = region.active_instance()
    full = taken(region, on(instance))
    task = begin(region, on(instance, full.id))
    assert task.backup is not None
    with pytest.raises(Unprocessable, match=f"Backup {task.backup.id} cannot be deleted because it is running."):
        delete_backup(region.deployment, ACCOUNT, full.id)
    region.report(task)
    create_instance(region.deployment, ACCOUNT, an_instance(backup_ref=task.backup.id))
    restore = region.claim()
    assert restore is not None
    with pytest.raises(Unprocessable, match=f"Backup {task.backup.id} is in use."):
        delete_backup(region.deployment, ACCOUNT, full.id)
    region.report(restore)
    with structlog.testing.capture_logs() as logged:
        delete_backup(region.deployment, ACCOUNT, full.id)
    assert [line["increments"] for line in logged if line["event"] == "backup.delete_requested"] == [1]
    for backup_id in (full.id, task.backup.id):
        shown = show_backup(region.deployment, ACCOUNT, backup_id)
        assert (shown.status, shown.deleting) == (BackupStatus.COMPLETED, True)


@pytest.mark.parametrize("gone", ["deleting", "delete failed", "deleted"])
def test_what_stands_on_a_backup_that_goes_is_of_no_use(region: Region, gone: str) -> None:
    """However it came to that: neither restored, merged nor a parent while an ancestor is being deleted, or is gone."""
    instance = region.active_instance()
    full = taken(region, on(instance))
    first = taken(region, on(instance, full.id))
    second = taken(region, on(instance, first.id))
    with region.deployment.catalog.writing() as tx:
        if gone == "deleting":
            rows.mark_deleting(tx, [full.id], deleting=True)
        elif gone == "delete failed":
            rows.mark_delete_failed(tx, [full.id], "The store refuses.")
        else:
            rows.mark_deleted(tx, full.id)
    refusal = f"Backup {full.id}, which {second.id} depends on, is not COMPLETED."
    with pytest.raises(Unprocessable, match=refusal):
        create_instance(region.deployment, ACCOUNT, an_instance(backup_ref=second.id))
    with pytest.raises(Unprocessable, match=refusal):
        request_backup(region.deployment, ACCOUNT, on(instance, second.id))
    with pytest.raises(Unprocessable, match=refusal):
        request_consolidation(region.deployment, ACCOUNT, second.id, None)
    assert taken(region, on(instance)).parent_id is None
