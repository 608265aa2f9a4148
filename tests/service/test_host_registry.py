"""Hosts are listed and removed."""

import pytest

from snaphold.errors import NotFound, Superseded, Unauthorized, Unprocessable
from snaphold.model import BackupStatus
from snaphold.service.backups import list_backups, request_backup, show_backup
from snaphold.service.host_registry import add_host, authenticate_host, list_hosts, remove_host
from snaphold.service.instances import show_instance
from snaphold.service.requests import PageRequest, ScheduleRequest
from snaphold.service.schedules import create_schedule, show_schedule
from tests.support.region import Region, a_backup


def test_hosts_that_are_listed(region: Region) -> None:
    """By name: whether each was heard from within a lease, and what it has."""
    add_host(region.deployment, "another")
    region.active_instance()

    def seen() -> list[tuple[str, bool, int]]:
        return [(one.host.name, one.online, one.instances) for one in list_hosts(region.deployment)]

    assert seen() == [("another", False, 0), ("host", True, 1)]
    region.clock.advance(region.deployment.settings.lease_s + 1)
    assert seen() == [("another", False, 0), ("host", False, 1)]


def test_a_host_without_instances(region: Region) -> None:
    """Its token is refused from now on, and its agent is superseded."""
    assert remove_host(region.deployment, "host", force=False) == []
    assert list_hosts(region.deployment) == []
    with pytest.raises(Unauthorized):
        authenticate_host(region.deployment, region.token)
    with pytest.raises(Superseded):
        region.heartbeat()
    with pytest.raises(Superseded):
        region.claim()


def test_no_such_host(region: Region) -> None:
    """A name that is mistyped removes nothing."""
    with pytest.raises(NotFound, match="there is no host hots in region DFW"):
        remove_host(region.deployment, "hots", force=True)
    assert len(list_hosts(region.deployment)) == 1


def test_a_host_with_instances(region: Region) -> None:
    """It is refused, with the list of them, and nothing has changed."""
    instance = region.active_instance()
    with pytest.raises(Unprocessable, match=rf"1 instance\(s\): {instance.id} of account {instance.account}\."):
        remove_host(region.deployment, "host", force=False)
    assert authenticate_host(region.deployment, region.token) == region.host_id
    assert show_instance(region.deployment, instance.account, instance.id) == instance


def test_by_force(region: Region) -> None:
    """Its instances are gone and their schedules ended; the backup that ran has failed, those before it stay."""
    instance, busy = region.active_instance(), region.active_instance("9999")
    request = ScheduleRequest(
        source_type="instance",
        source_id=instance.id,
        day_of_week=0,
        hour=2,
        minute=0,
        full_backup_retention=2,
        copy_to=None,
    )
    schedule = create_schedule(region.deployment, instance.account, request)
    kept = region.completed_backup(instance)
    running = request_backup(region.deployment, "9999", a_backup(busy.id))
    task = region.claim()
    assert task is not None
    assert [gone.id for gone in remove_host(region.deployment, "host", force=True)] == [instance.id, busy.id]
    with pytest.raises(NotFound):
        show_schedule(region.deployment, instance.account, schedule.id)
    for gone in (instance, busy):
        with pytest.raises(NotFound):
            show_instance(region.deployment, gone.account, gone.id)
    failed = show_backup(region.deployment, "9999", running.id)
    assert (failed.status, failed.reason) == (BackupStatus.FAILED, "Its host was removed from the service.")
    assert "sweep_backup" in {name for name, _ in region.enqueued()}
    with pytest.raises(Superseded):
        region.report(task)
    page = list_backups(region.deployment, instance.account, PageRequest(limit=20, marker=None))
    assert [backup.id for backup in page.backups] == [kept.id]
