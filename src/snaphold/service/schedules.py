"""Schedules: create, list, show, change, delete, run and expire (contract, section 7)."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import structlog

from snaphold.catalog import backups, schedules
from snaphold.catalog.database import Transaction
from snaphold.errors import BadRequest
from snaphold.model import (
    Backup,
    Rate,
    Schedule,
    WaitingFull,
    expired_fulls,
    needed_by_people,
    next_run_us,
    rfc3339,
    runs_full,
)
from snaphold.service import limits
from snaphold.service.availability import require_host, unavailable_for_action
from snaphold.service.backups import begin_backup, begin_deletion, check_copies
from snaphold.service.deployment import Deployment
from snaphold.service.find import find_schedule, find_source
from snaphold.service.requests import (
    BackupRequest,
    PageRequest,
    ScheduleChangeRequest,
    ScheduleFilter,
    SchedulePage,
    ScheduleRequest,
)
from snaphold.steps import Step, reached

_log = structlog.get_logger()


def create_schedule(deployment: Deployment, account: str, request: ScheduleRequest) -> Schedule:
    """Create the schedule of an instance. Its first run is at the next such time of day.

    Raises:
        NotFound: no such instance; any HA group.
        Unprocessable: it is being deleted.
        BadRequest: it has a schedule already; a region that backups cannot be copied to.
    """
    with deployment.catalog.writing() as tx:
        instance = find_source(tx, account, request.source_type, request.source_id)
        if instance.deleting:
            raise unavailable_for_action(instance.id, instance.status)
        check_copies(deployment, request.copy_to)
        schedule = Schedule(
            id=str(uuid.uuid4()),
            account=account,
            source_type=instance.source.type,
            source_id=instance.source.id,
            day_of_week=request.day_of_week,
            hour=request.hour,
            minute=request.minute,
            full_backup_retention=request.full_backup_retention,
            copy_to=list(request.copy_to) if request.copy_to else None,
            asked_by=request.asked_by,
            next_run_us=next_run_us(tx.now_us, request.hour, request.minute),
            last_run_us=None,
            created_us=tx.now_us,
            updated_us=tx.now_us,
            deleted_us=None,
        )
        if not schedules.insert(tx, schedule):
            raise BadRequest(f"Instance {instance.id} has a schedule already.")
        limits.count(tx, deployment, account, Rate.SCHEDULE_WRITES)
    _log.info("schedule.created", schedule=schedule.id, instance=instance.id, account=account)
    return schedule


def list_schedules(deployment: Deployment, account: str, page: PageRequest, wanted: ScheduleFilter) -> SchedulePage:
    """The account's schedules, newest first. Raises ``BadRequest`` for a marker that never was one of them."""
    with deployment.catalog.reading() as tx:
        found = schedules.page(
            tx,
            account,
            limit=page.limit,
            marker=page.marker,
            source_type=wanted.source_type,
            source_id=wanted.source_id,
        )
        if found is None:
            raise BadRequest(f"There is no marker {page.marker}.")
        rows, more = found if wanted.action in (None, "backup") else ([], False)
        rows = _with_waiting(tx, rows)
    return SchedulePage(schedules=rows, next_marker=rows[-1].id if more else None)


def show_schedule(deployment: Deployment, account: str, schedule_id: str) -> Schedule:
    """One schedule. Raises ``NotFound``, the same for unknown, foreign and deleted ones."""
    with deployment.catalog.reading() as tx:
        return _with_waiting(tx, [find_schedule(tx, account, schedule_id)])[0]


def change_schedule(deployment: Deployment, account: str, schedule_id: str, request: ScheduleChangeRequest) -> Schedule:
    """Change the fields that are given. ``run_now`` makes it due at once; a new time of day drops a run that waits.

    Raises:
        NotFound: no such schedule.
        BadRequest: another source than its own; a region that backups cannot be copied to.
        Forbidden, Unavailable: a run is requested, and the account's store refuses, or does not answer.
    """
    if request.run_now:
        deployment.store_gate.check(account, write=True)
    with deployment.catalog.writing() as tx:
        schedule = find_schedule(tx, account, schedule_id)
        if request.source_id not in (None, schedule.source_id):
            raise BadRequest("A schedule stays with its instance.")
        check_copies(deployment, request.copy_to)
        asked = {
            "day_of_week": request.day_of_week,
            "hour": request.hour,
            "minute": request.minute,
            "full_backup_retention": request.full_backup_retention,
        }
        changes: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
        hour, minute = changes.get("hour", schedule.hour), changes.get("minute", schedule.minute)
        if request.run_now:
            changes["next_run_us"] = tx.now_us
        elif (hour, minute) != (schedule.hour, schedule.minute):
            changes["next_run_us"] = next_run_us(tx.now_us, hour, minute)
        copies = {} if request.copy_to is None else {"copy_to": list(request.copy_to) or None}
        changes["asked_by"] = request.asked_by
        schedules.change(tx, schedule_id, **changes, **copies)
        changed = find_schedule(tx, account, schedule_id)
        limits.count(tx, deployment, account, Rate.SCHEDULE_WRITES)
    _log.info("schedule.changed", schedule=schedule_id, account=account, run_now=request.run_now)
    return changed


def delete_schedule(deployment: Deployment, account: str, schedule_id: str) -> None:
    """Delete a schedule. Its backups stay, and no longer expire. Raises ``NotFound``."""
    with deployment.catalog.writing() as tx:
        schedules.mark_deleted(tx, find_schedule(tx, account, schedule_id).id)
        limits.count(tx, deployment, account, Rate.SCHEDULE_WRITES)
    _log.info("schedule.deleted", schedule=schedule_id, account=account)


def run_schedule(deployment: Deployment, schedule: Schedule) -> Backup | None:
    """Begin the backup that is due and set the next run, in one transaction, so that a run happens once.

    None: another process was first, or the schedule was changed or deleted meanwhile.

    Raises:
        Refused, Unavailable: it cannot be taken now; the run stays due.
    """
    deployment.store_gate.check(schedule.account, write=True)
    with deployment.catalog.writing() as tx:
        following = next_run_us(tx.now_us, schedule.hour, schedule.minute)
        if not schedules.advance(tx, schedule, following, last_run_us=tx.now_us):
            return None
        instance = find_source(tx, schedule.account, schedule.source_type, schedule.source_id)
        require_host(tx, deployment, instance)
        backup = begin_backup(tx, deployment, instance, _request(tx, schedule), is_automated=True)
    reached(Step.SCHEDULE_RUN)
    deployment.wakeups.notify(instance.host_id)
    _log.info("schedule.run", schedule=schedule.id, backup=backup.id, instance=instance.id, account=schedule.account)
    return backup


@dataclass(frozen=True, kw_only=True)
class Retention:
    """The automated fulls beyond the retention: those to delete now, and those that must wait."""

    expired: Sequence[Backup]
    waiting: Sequence[WaitingFull]


def retention(tx: Transaction, schedule: Schedule) -> Retention:
    """The retention of a schedule. A full that a backup made by a person depends on must wait."""
    return _retentions(tx, [schedule])[0]


def expire_fulls(deployment: Deployment, schedule: Schedule) -> Sequence[Backup]:
    """Delete the automated fulls beyond the retention, with their increments; the fulls.

    A full that a backup made by a person depends on stays.

    Raises:
        Unprocessable: one of them is in use; nothing was marked.
    """
    with deployment.catalog.writing() as tx:
        expired = retention(tx, schedule).expired
        for full in expired:
            begin_deletion(tx, deployment, full)
    for full in expired:
        _log.info("schedule.expired", schedule=schedule.id, backup=full.id, account=schedule.account)
    return expired


def _retentions(tx: Transaction, found: Sequence[Schedule]) -> list[Retention]:
    """The retention of each of these schedules, in their order: two queries, however many there are."""
    fulls = backups.automated_fulls(tx, [schedule.source_id for schedule in found])
    too_many = [expired_fulls(schedule, fulls[schedule.source_id]) for schedule in found]
    families = backups.families(tx, [full.id for some in too_many for full in some])
    return [_retention(some, families) for some in too_many]


def _retention(too_many: Sequence[Backup], families: Mapping[str, Sequence[Backup]]) -> Retention:
    needing = {full.id: needed_by_people(full.id, families[full.id]) for full in too_many}
    return Retention(
        expired=[full for full in too_many if not needing[full.id]],
        waiting=[WaitingFull(backup_id=name, needed_by=needed_by) for name, needed_by in needing.items() if needed_by],
    )


def _with_waiting(tx: Transaction, found: Sequence[Schedule]) -> list[Schedule]:
    return [
        replace(schedule, waiting_fulls=tuple(kept.waiting))
        for schedule, kept in zip(found, _retentions(tx, found), strict=True)
    ]


def _request(tx: Transaction, schedule: Schedule) -> BackupRequest:
    newest = next(
        (full.created_us for full in backups.automated_fulls(tx, [schedule.source_id])[schedule.source_id]), None
    )
    return BackupRequest(
        name=f"automated {rfc3339(tx.now_us)}",
        description=None,
        source_type=schedule.source_type,
        source_id=schedule.source_id,
        parent_id=None,
        incremental=not runs_full(schedule, newest, tx.now_us),
        copy_to=schedule.copy_to,
        asked_by=schedule.asked_by,
    )
