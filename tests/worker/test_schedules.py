"""Schedules over time: the clock is the test's, and so is the host."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from structlog.testing import capture_logs

from snaphold.catalog import schedules as rows
from snaphold.errors import NotFound, Unavailable, Unprocessable
from snaphold.model import (
    Backup,
    BackupStatus,
    CopyStatus,
    Instance,
    InstanceStatus,
    Schedule,
    WaitingFull,
    rfc3339,
)
from snaphold.service.backups import delete_backup, list_backups, request_backup, show_backup
from snaphold.service.instances import create_instance, delete_instance, restart_instance, show_instance
from snaphold.service.requests import PageRequest, ScheduleChangeRequest, ScheduleFilter, ScheduleRequest
from snaphold.service.schedules import (
    change_schedule,
    create_schedule,
    delete_schedule,
    list_schedules,
    run_schedule,
    show_schedule,
)
from snaphold.worker.copying import Copier
from snaphold.worker.deletion import Remover
from snaphold.worker.schedules import Scheduler
from tests.fakes.memory_store import MemoryStores
from tests.support.region import ACCOUNT, SECOND_US, Region, a_backup, an_instance, open_region

ALL = PageRequest(limit=100, marker=None)
DAY_S = 86_400.0
SUNDAY = int(datetime(2026, 3, 1, tzinfo=UTC).timestamp()) * SECOND_US  # at midnight


@pytest.fixture
def region(tmp_path: Path) -> Iterator[Region]:
    """A region with one host that is there, on the eve of a Sunday."""
    region = open_region(tmp_path)
    region.clock.now_us = SUNDAY
    region.hello()
    yield region
    region.deployment.catalog.close()


def a_schedule(region: Region, instance: Instance, **change: Any) -> Schedule:
    """A schedule: at two in the night, fulls on Sundays, two of which are kept."""
    request = ScheduleRequest(
        source_type="instance",
        source_id=instance.id,
        day_of_week=0,
        hour=2,
        minute=0,
        full_backup_retention=2,
        copy_to=None,
    )
    return create_schedule(region.deployment, instance.account, replace(request, **change))


def changed(region: Region, schedule: Schedule, **change: Any) -> Schedule:
    """The schedule, changed."""
    request = ScheduleChangeRequest(
        source_id=None,
        day_of_week=None,
        hour=None,
        minute=None,
        full_backup_retention=None,
        copy_to=None,
        run_now=False,
    )
    return change_schedule(region.deployment, schedule.account, schedule.id, replace(request, **change))


def round_at(region: Region, scheduler: Scheduler, time: str | None = None) -> None:
    """The host is there, and the worker looks, at this time (None: now)."""
    if time is not None:
        region.clock.now_us = int(datetime.fromisoformat(time).replace(tzinfo=UTC).timestamp()) * SECOND_US
    region.heartbeat()
    scheduler.run()


def take(region: Region, *, ok: bool = True) -> None:
    """The host does its next task, or fails at it."""
    task = region.claim()
    assert task is not None
    region.report(task, ok=ok)


def taken(region: Region) -> list[str]:
    """What there is, oldest first: when it was asked for, and its status."""
    found = list_backups(region.deployment, ACCOUNT, ALL).backups
    assert all(backup.is_automated for backup in found)
    return [f"{rfc3339(backup.created_us)[:16]} {backup.status}" for backup in reversed(found) if not backup.deleting]


def remove(region: Region) -> None:
    """The worker removes whatever is being deleted."""
    Remover(region.deployment.catalog, MemoryStores(), region.deployment.deployment_id).retry_deletions()


def test_one_run_is_taken_once(region: Region) -> None:
    """Not before its time, then once, however often and by however many workers it is looked at."""
    schedule = a_schedule(region, region.active_instance())
    first, second = Scheduler(region.deployment), Scheduler(region.deployment)
    round_at(region, first, "2026-03-01T01:59:59")
    assert taken(region) == []
    stale = show_schedule(region.deployment, ACCOUNT, schedule.id)
    round_at(region, first, "2026-03-01T02:00:01")
    take(region)
    assert run_schedule(region.deployment, stale) is None
    for scheduler in (first, second):
        round_at(region, scheduler)
    assert taken(region) == ["2026-03-01T02:00 COMPLETED"]
    after = show_schedule(region.deployment, ACCOUNT, schedule.id)
    assert (rfc3339(after.last_run_us or 0), rfc3339(after.next_run_us)) == (
        "2026-03-01T02:00:01Z",
        "2026-03-02T02:00:00Z",
    )


def test_missed_runs_are_caught_up_once(region: Region) -> None:
    """After ten days without the service one run makes up for them all, and the next is at its time again."""
    a_schedule(region, region.active_instance())
    scheduler = Scheduler(region.deployment)
    round_at(region, scheduler, "2026-03-11T15:00:00")
    take(region)
    for time in ("2026-03-11T15:00:02", "2026-03-12T01:00:00"):
        round_at(region, scheduler, time)
    assert taken(region) == ["2026-03-11T15:00 COMPLETED"]
    round_at(region, scheduler, "2026-03-12T02:00:00")
    assert taken(region) == ["2026-03-11T15:00 COMPLETED", "2026-03-12T02:00 NEW"]


def test_a_run_waits_while_its_instance_is_busy(region: Region) -> None:
    """Whatever keeps the instance: the run stays due, is told of once in the log, and happens as soon as it is free."""
    instance = region.active_instance()
    schedule = a_schedule(region, instance)
    scheduler = Scheduler(region.deployment)
    restart_instance(region.deployment, ACCOUNT, instance.id)
    with capture_logs() as logs:
        for time in ("2026-03-01T02:00:00", "2026-03-01T02:00:02", "2026-03-01T02:00:04"):
            round_at(region, scheduler, time)
    (told,) = [entry for entry in logs if entry["event"] == "schedule.waits"]
    assert (told["schedule"], told["reason"]) == (schedule.id, "its instance is REBOOT")
    assert taken(region) == []
    take(region)
    round_at(region, scheduler)
    assert taken(region) == ["2026-03-01T02:00 NEW"]


@pytest.mark.parametrize("gone", ["failed", "silent", "refused"])
def test_a_run_waits_for_its_instance_host_and_store(region: Region, gone: str) -> None:
    """An instance in ERROR, a silent host and a store that does not answer are waited for, and lose no run."""
    instance = region.active_instance()
    a_schedule(region, instance)
    scheduler = Scheduler(region.deployment)
    region.clock.now_us = SUNDAY + int(2 * 3600 * SECOND_US)
    if gone == "failed":
        region.heartbeat()
        restart_instance(region.deployment, ACCOUNT, instance.id)
        take(region, ok=False)
        assert show_instance(region.deployment, ACCOUNT, instance.id).status is InstanceStatus.ERROR
        scheduler.run()
        assert taken(region) == []
        restart_instance(region.deployment, ACCOUNT, instance.id)
        take(region)
    elif gone == "silent":
        scheduler.run()
        assert taken(region) == []
    else:
        region.heartbeat()
        Scheduler(replace(region.deployment, store_gate=SilentGate())).run()
        assert taken(region) == []
    round_at(region, scheduler)
    assert taken(region) == ["2026-03-01T02:00 NEW"]


class SilentGate:
    """A store that does not answer."""

    def check(self, account: str, *, write: bool) -> None:
        """Never."""
        del write
        raise Unavailable(f"the store of {account} does not answer")


def test_runs_wait_while_the_account_is_at_its_limit(tmp_path: Path) -> None:
    """With one running backup allowed, runs of one moment happen one after the other; another account's at once."""
    region = open_region(tmp_path, max_running_backups_per_account=1)
    region.clock.now_us = SUNDAY
    region.hello()
    for _ in range(3):
        a_schedule(region, region.active_instance())
    foreign = region.active_instance("9999")
    a_schedule(region, foreign, hour=3)
    scheduler = Scheduler(region.deployment)
    round_at(region, scheduler, "2026-03-01T03:00:00")
    for expected in (1, 2, 3):
        assert len(taken(region)) == expected
        assert len(list_backups(region.deployment, "9999", ALL).backups) == 1
        take(region)
        if expected == 1:
            take(region)  # the other account's
        round_at(region, scheduler)
    assert taken(region) == ["2026-03-01T03:00 COMPLETED"] * 3
    region.deployment.catalog.close()


def test_a_scheduled_backup_counts_for_the_account_too(tmp_path: Path) -> None:
    """While a run is taken its instance is BACKUP, and a caller's backup of another instance is over the limit."""
    region = open_region(tmp_path, max_running_backups_per_account=1)
    instance, another = region.active_instance(), region.active_instance()
    changed(region, a_schedule(region, instance), run_now=True)
    round_at(region, Scheduler(region.deployment))
    assert show_instance(region.deployment, ACCOUNT, instance.id).status is InstanceStatus.BACKUP
    with pytest.raises(Unprocessable, match="limit"):
        request_backup(region.deployment, ACCOUNT, a_backup(another.id))
    region.deployment.catalog.close()


def test_run_now(region: Region) -> None:
    """It is due at once, and the regular run comes all the same."""
    schedule = a_schedule(region, region.active_instance())
    scheduler = Scheduler(region.deployment)
    changed(region, schedule, run_now=True)
    round_at(region, scheduler)
    take(region)
    round_at(region, scheduler)
    assert taken(region) == ["2026-03-01T00:00 COMPLETED"]
    round_at(region, scheduler, "2026-03-01T02:00:00")
    assert taken(region) == ["2026-03-01T00:00 COMPLETED", "2026-03-01T02:00 NEW"]


def test_another_time_of_day_drops_a_waiting_run(region: Region) -> None:
    """Who moves a schedule away from a run that waits gets the new time; other changes leave it due."""
    instance = region.active_instance()
    schedule = a_schedule(region, instance)
    scheduler = Scheduler(region.deployment)
    restart_instance(region.deployment, ACCOUNT, instance.id)
    round_at(region, scheduler, "2026-03-01T02:00:00")
    waiting = changed(region, schedule, full_backup_retention=3)
    assert rfc3339(waiting.next_run_us) == "2026-03-01T02:00:00Z"
    assert rfc3339(changed(region, schedule, hour=5).next_run_us) == "2026-03-01T05:00:00Z"
    take(region)
    round_at(region, scheduler)
    assert taken(region) == []


def chain(region: Region) -> list[str]:
    """What there is, oldest first: its day, and the day of its parent."""
    found = [backup for backup in list_backups(region.deployment, ACCOUNT, ALL).backups if not backup.deleting]
    days = {backup.id: rfc3339(backup.created_us)[8:10] for backup in found}
    return [
        days[backup.id] if backup.parent_id is None else f"{days[backup.id]} on {days[backup.parent_id]}"
        for backup in reversed(found)
        if backup.status is BackupStatus.COMPLETED
    ]


def nights(region: Region, scheduler: Scheduler, first: int, last: int, *, failing: Sequence[int] = ()) -> None:
    """The nights of these days of March, each with its run."""
    for day in range(first, last + 1):
        fulls(region, scheduler, f"2026-03-{day:02}T02:00:00", ok=day not in failing)


def test_a_month_of_runs(region: Region) -> None:
    """Fulls on Sundays, each other day an increment on the day before; two fulls are kept, with their increments."""
    a_schedule(region, region.active_instance())
    scheduler = Scheduler(region.deployment)
    nights(region, scheduler, 1, 14)
    expected = ["01", *(f"{day:02} on {day - 1:02}" for day in range(2, 8))]
    assert chain(region) == [*expected, "08", *(f"{day:02} on {day - 1:02}" for day in range(9, 15))]
    nights(region, scheduler, 15, 31)
    later = [f"{day}" if day in {22, 29} else f"{day} on {day - 1}" for day in range(22, 32)]
    assert chain(region) == later


def test_the_first_run_is_a_full_whatever_its_day(region: Region) -> None:
    """There must be something for increments to depend on; a failed increment is left out of the chain."""
    a_schedule(region, region.active_instance())
    scheduler = Scheduler(region.deployment)
    nights(region, scheduler, 4, 7, failing=[5])
    assert chain(region) == ["04", "06 on 04", "07 on 06"]


def test_a_missed_or_failed_full_is_made_up_for(region: Region) -> None:
    """When Sunday's full FAILED, Monday's run is full; when all of the weekend was missed, Tuesday's is."""
    a_schedule(region, region.active_instance())
    scheduler = Scheduler(region.deployment)
    nights(region, scheduler, 5, 10, failing=[8])
    assert chain(region) == ["05", "06 on 05", "07 on 06", "09", "10 on 09"]
    nights(region, scheduler, 17, 18)
    assert chain(region) == ["09", "10 on 09", "17", "18 on 17"]


def test_increments_stand_on_automated_backups_only(region: Region) -> None:
    """A caller's own backup is no parent of theirs: its owner may delete it at any time."""
    instance = region.active_instance()
    a_schedule(region, instance)
    scheduler = Scheduler(region.deployment)
    nights(region, scheduler, 1, 1)
    own = region.completed_backup(instance)
    nights(region, scheduler, 2, 2)
    newest = list_backups(region.deployment, ACCOUNT, ALL).backups[0]
    assert newest.parent_id not in (None, own.id)


def fulls(region: Region, scheduler: Scheduler, *times: str, ok: bool = True) -> None:
    """A run at each of these times, taken, and whatever expires removed."""
    for time in times:
        round_at(region, scheduler, time)
        take(region, ok=ok)
        round_at(region, scheduler)
        remove(region)


def test_the_oldest_full_goes_when_a_further_one_completes(region: Region) -> None:
    """Of fulls two are kept: the third's completion, not its beginning, removes the first."""
    a_schedule(region, region.active_instance(), day_of_week=7)
    scheduler = Scheduler(region.deployment)
    fulls(region, scheduler, "2026-03-01T02:00:00", "2026-03-02T02:00:00")
    round_at(region, scheduler, "2026-03-03T02:00:00")
    round_at(region, scheduler)
    assert [entry[:10] for entry in taken(region)] == ["2026-03-01", "2026-03-02", "2026-03-03"]
    take(region)
    round_at(region, scheduler)
    remove(region)
    assert taken(region) == ["2026-03-02T02:00 COMPLETED", "2026-03-03T02:00 COMPLETED"]


def test_failed_fulls_do_not_count(region: Region) -> None:
    """However many fail, the good ones stay."""
    a_schedule(region, region.active_instance(), day_of_week=7)
    scheduler = Scheduler(region.deployment)
    fulls(region, scheduler, "2026-03-01T02:00:00", "2026-03-02T02:00:00")
    fulls(region, scheduler, "2026-03-03T02:00:00", "2026-03-04T02:00:00", "2026-03-05T02:00:00", ok=False)
    assert [entry[17:] for entry in taken(region)] == ["COMPLETED"] * 2 + ["FAILED"] * 3
    fulls(region, scheduler, "2026-03-06T02:00:00")
    assert [entry[17:] for entry in taken(region)] == ["COMPLETED"] + ["FAILED"] * 3 + ["COMPLETED"]


def test_a_callers_backups_never_expire(region: Region) -> None:
    """Only what schedules had taken goes; what a person asked for stays."""
    instance = region.active_instance()
    own = region.completed_backup(instance)
    a_schedule(region, instance, day_of_week=7)
    fulls(region, Scheduler(region.deployment), *(f"2026-03-0{day}T02:00:00" for day in range(1, 5)))
    assert show_backup(region.deployment, ACCOUNT, own.id).status is BackupStatus.COMPLETED
    delete_backup(region.deployment, ACCOUNT, own.id)
    remove(region)
    assert [entry[:10] for entry in taken(region)] == ["2026-03-03", "2026-03-04"]


def test_a_full_waits_for_the_increments_that_a_person_made(region: Region) -> None:
    """It stays with all that depends on it, the log says so once and the schedule shows it; then it goes."""
    instance = region.active_instance()
    schedule = a_schedule(region, instance, day_of_week=7)
    scheduler = Scheduler(region.deployment)
    fulls(region, scheduler, "2026-03-01T02:00:00")
    (oldest,) = list_backups(region.deployment, ACCOUNT, ALL).backups
    own = request_backup(region.deployment, ACCOUNT, replace(a_backup(instance.id), parent_id=oldest.id))
    take(region)
    with capture_logs() as logs:
        fulls(region, scheduler, *(f"2026-03-0{day}T02:00:00" for day in range(2, 6)))
    told = [line for line in logs if line["event"] == "schedule.retention_waits"]
    assert [(line["schedule"], line["backup"], line["needed_by"]) for line in told] == [
        (schedule.id, oldest.id, [own.id])
    ]
    waiting = [WaitingFull(backup_id=oldest.id, needed_by=[own.id])]
    assert list(show_schedule(region.deployment, ACCOUNT, schedule.id).waiting_fulls) == waiting
    left = list_backups(region.deployment, ACCOUNT, ALL).backups
    assert [backup.id for backup in left[2:]] == [own.id, oldest.id]
    assert [rfc3339(backup.created_us)[:10] for backup in left[:2]] == ["2026-03-05", "2026-03-04"]
    delete_backup(region.deployment, ACCOUNT, own.id)
    remove(region)
    round_at(region, scheduler)
    remove(region)
    assert [entry[:10] for entry in taken(region)] == ["2026-03-04", "2026-03-05"]
    assert list(show_schedule(region.deployment, ACCOUNT, schedule.id).waiting_fulls) == []


def test_a_page_of_schedules_takes_a_few_queries(region: Region) -> None:
    """The list takes as many queries for many schedules as for one; each shows what its retention waits for."""
    instance = region.active_instance()
    a_schedule(region, instance, day_of_week=7)
    fulls(region, Scheduler(region.deployment), "2026-03-01T02:00:00")
    (oldest,) = list_backups(region.deployment, ACCOUNT, ALL).backups
    request_backup(region.deployment, ACCOUNT, replace(a_backup(instance.id), parent_id=oldest.id))
    take(region)
    fulls(region, Scheduler(region.deployment), *(f"2026-03-0{day}T02:00:00" for day in range(2, 5)))
    asked: list[str] = []
    event.listen(region.deployment.catalog.engine, "before_cursor_execute", lambda *facts: asked.append(facts[2]))
    (alone,) = list_schedules(region.deployment, ACCOUNT, ALL, ScheduleFilter()).schedules
    assert [full.backup_id for full in alone.waiting_fulls] == [oldest.id]
    for_one = len(asked)
    for _ in range(4):
        a_schedule(region, region.active_instance())
    asked.clear()
    assert len(list_schedules(region.deployment, ACCOUNT, ALL, ScheduleFilter()).schedules) == 5
    assert len(asked) == for_one


def test_a_lower_retention_waits_for_the_next_full(region: Region) -> None:
    """Changing a number removes nothing at once: what is too much goes when a further full has completed."""
    schedule = a_schedule(region, region.active_instance(), day_of_week=7, full_backup_retention=4)
    scheduler = Scheduler(region.deployment)
    fulls(region, scheduler, *(f"2026-03-0{day}T02:00:00" for day in range(1, 5)))
    changed(region, schedule, full_backup_retention=2)
    round_at(region, scheduler)
    remove(region)
    assert len(taken(region)) == 4
    fulls(region, scheduler, "2026-03-05T02:00:00")
    assert [entry[:10] for entry in taken(region)] == ["2026-03-04", "2026-03-05"]


def test_a_full_that_is_being_restored_expires_later(region: Region) -> None:
    """What is in use is waited for, as any delete of it would be refused."""
    a_schedule(region, region.active_instance(), day_of_week=7)
    scheduler = Scheduler(region.deployment)
    fulls(region, scheduler, "2026-03-01T02:00:00", "2026-03-02T02:00:00")
    oldest: Backup = list_backups(region.deployment, ACCOUNT, ALL).backups[-1]
    create_instance(region.deployment, ACCOUNT, an_instance(backup_ref=oldest.id))
    restoring = region.claim()
    assert restoring is not None
    round_at(region, scheduler, "2026-03-03T02:00:00")
    take(region)
    round_at(region, scheduler)
    assert len(taken(region)) == 3
    region.report(restoring)
    round_at(region, scheduler)
    assert [entry[:10] for entry in taken(region)] == ["2026-03-02", "2026-03-03"]


def test_deleting_an_instance_or_a_schedule_ends_its_runs(region: Region) -> None:
    """Neither runs any more; every backup stays."""
    first, second = region.active_instance(), region.active_instance()
    of_first, of_second = a_schedule(region, first), a_schedule(region, second)
    scheduler = Scheduler(region.deployment)
    round_at(region, scheduler, "2026-03-01T02:00:00")
    take(region)
    take(region)
    delete_instance(region.deployment, ACCOUNT, first.id)
    take(region)
    delete_schedule(region.deployment, ACCOUNT, of_second.id)
    for schedule in (of_first, of_second):
        with pytest.raises(NotFound):
            show_schedule(region.deployment, ACCOUNT, schedule.id)
    round_at(region, scheduler, "2026-03-09T02:00:00")
    assert taken(region) == ["2026-03-01T02:00 COMPLETED"] * 2


def test_a_clock_that_jumps(region: Region) -> None:
    """A jump ahead costs one run too many; after it is put back, runs come at their times again."""
    schedule = a_schedule(region, region.active_instance())
    scheduler = Scheduler(region.deployment)
    round_at(region, scheduler, "2031-01-01T12:00:00")
    take(region)
    round_at(region, scheduler, "2026-03-01T01:00:00")
    put_right = show_schedule(region.deployment, ACCOUNT, schedule.id)
    assert rfc3339(put_right.next_run_us) == "2026-03-01T02:00:00Z"
    round_at(region, scheduler, "2026-03-01T02:00:00")
    assert len(taken(region)) == 2


class Nowhere:
    """Another region that is never asked."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(name)


def test_a_region_that_is_set_up_no_more(region: Region) -> None:
    """A schedule outlives the region that it copies to: its backups are taken, and their copies fail."""
    joined = replace(region.deployment, peers={"IAD": Nowhere()})
    alone, region.deployment = region.deployment, joined
    instance = region.active_instance()
    a_schedule(region, instance, copy_to=["IAD"])
    region.deployment = alone
    round_at(region, Scheduler(alone), "2026-03-01T02:00:00")
    take(region)
    assert taken(region) == ["2026-03-01T02:00 COMPLETED"]
    assert "copy_backup" in {name for name, _ in region.enqueued()}
    (copy,) = list_backups(alone, ACCOUNT, ALL).backups[0].copies
    Copier(alone, MemoryStores(), {}, threading.Event()).copy(copy.id)
    (copy,) = list_backups(alone, ACCOUNT, ALL).backups[0].copies
    assert (copy.status, copy.reason) == (
        CopyStatus.FAILED,
        "Region IAD is not set up as a place for copies any more.",
    )


def test_a_refused_run_leaves_nothing(region: Region) -> None:
    """Moving the next run on and making the backup are one transaction: neither happens without the other."""
    instance = region.active_instance()
    schedule = a_schedule(region, instance)
    request_backup(region.deployment, ACCOUNT, a_backup(instance.id))
    region.clock.now_us = SUNDAY + int(2 * 3600 * SECOND_US)
    region.heartbeat()
    before = show_schedule(region.deployment, ACCOUNT, schedule.id)
    with pytest.raises(Unprocessable, match="instance status was BACKUP"):
        run_schedule(region.deployment, before)
    assert show_schedule(region.deployment, ACCOUNT, schedule.id) == before
    with region.deployment.catalog.reading() as tx:
        assert [run.schedule for run in rows.due(tx)] == [before]
