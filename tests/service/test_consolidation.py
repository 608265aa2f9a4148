from dataclasses import replace

import pytest

from snaphold.errors import NotFound, Unprocessable
from snaphold.model import Backup, BackupStatus, InstanceStatus, Origin
from snaphold.protocol import Task, TaskKind
from snaphold.service.backups import delete_backup, request_backup, show_backup
from snaphold.service.consolidation import request_consolidation
from snaphold.service.instances import show_instance
from snaphold.service.outcomes import reap
from tests.support.region import ACCOUNT, Region, a_backup


@pytest.fixture
def chain(region: Region) -> tuple[Backup, Backup]:
    """A full backup and an increment on it."""
    instance = region.active_instance()
    full = region.completed_backup(instance)
    increment = request_backup(region.deployment, ACCOUNT, replace(a_backup(instance.id), parent_id=full.id))
    claimed(region)
    return full, show_backup(region.deployment, ACCOUNT, increment.id)


def claimed(region: Region, *, report: bool = True) -> Task:
    """The host's next task, done or just begun."""
    task = region.claim()
    assert task is not None
    if report:
        region.report(task)
    return task


def test_a_chain_becomes_a_full_of_its_own(region: Region, chain: tuple[Backup, Backup]) -> None:
    """Same source, no parent, the whole chain for the host; its instance stays free; the old chain may go then."""
    full, increment = chain
    new = request_consolidation(region.deployment, ACCOUNT, increment.id, None)
    assert (new.status, new.made, new.made_from, new.name) == ("NEW", Origin.CONSOLIDATED, increment.id, "b-full")
    assert show_instance(region.deployment, ACCOUNT, full.source_id).status is InstanceStatus.ACTIVE
    for member in chain:
        with pytest.raises(Unprocessable, match=f"Backup {increment.id} is in use."):
            delete_backup(region.deployment, ACCOUNT, member.id)
    task = claimed(region, report=False)
    assert (task.kind, task.instance_id) == (TaskKind.CONSOLIDATE, None)
    assert [link.backup_id for link in task.chain] == [full.id, increment.id]
    assert show_backup(region.deployment, ACCOUNT, new.id).status is BackupStatus.BUILDING
    region.report(task)
    delete_backup(region.deployment, ACCOUNT, full.id)
    done = show_backup(region.deployment, ACCOUNT, new.id)
    assert (done.status, done.parent_id, done.deleting) == (BackupStatus.COMPLETED, None, False)


def test_a_host_that_falls_silent(region: Region, chain: tuple[Backup, Backup]) -> None:
    """The new backup is FAILED and swept, the chain is free again."""
    new = request_consolidation(region.deployment, ACCOUNT, chain[1].id, "mine")
    claimed(region, report=False)
    region.clock.advance(region.deployment.settings.lease_s + 1)
    assert reap(region.deployment) == 1
    assert show_backup(region.deployment, ACCOUNT, new.id).status is BackupStatus.FAILED
    assert [name for name, _ in region.enqueued()] == ["sweep_backup"]
    delete_backup(region.deployment, ACCOUNT, chain[0].id)


def test_what_cannot_be_consolidated(region: Region, chain: tuple[Backup, Backup]) -> None:
    """A full one and one that is being deleted 422, an unknown one 404."""
    full, increment = chain
    with pytest.raises(Unprocessable, match="full"):
        request_consolidation(region.deployment, ACCOUNT, full.id, None)
    with pytest.raises(NotFound):
        request_consolidation(region.deployment, "9999", increment.id, None)
    delete_backup(region.deployment, ACCOUNT, increment.id)
    with pytest.raises(Unprocessable, match="COMPLETED"):
        request_consolidation(region.deployment, ACCOUNT, increment.id, None)
