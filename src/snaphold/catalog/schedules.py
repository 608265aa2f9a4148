"""The rows of schedules."""

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from snaphold.catalog.database import Transaction, all_rows, one_row
from snaphold.catalog.paging import page_of
from snaphold.catalog.schema import AUTOMATED_FULLS, backups, hosts, instances, schedules
from snaphold.model import DAY_US, DueRun, InstanceStatus, Schedule


def insert(tx: Transaction, schedule: Schedule) -> bool:
    """Add a new schedule; False if its source has one already."""
    values = {column.name: getattr(schedule, column.name) for column in schedules.columns}
    savepoint = tx.connection.begin_nested()
    try:
        tx.connection.execute(schedules.insert().values(values))
    except sa.exc.IntegrityError:
        savepoint.rollback()
        return False
    savepoint.commit()
    return True


def find(tx: Transaction, account: str, schedule_id: str) -> Schedule | None:
    """This account's schedule, unless it is deleted."""
    found = get(tx, schedule_id)
    return found if found is not None and found.account == account else None


def get(tx: Transaction, schedule_id: str) -> Schedule | None:
    """The schedule of any account, unless it is deleted."""
    statement = schedules.select().where(schedules.c.id == schedule_id, schedules.c.deleted_us.is_(None))
    row = one_row(tx.connection.execute(statement))
    return None if row is None else _schedule(row)


def change(tx: Transaction, schedule_id: str, **values: Any) -> None:
    """Change a schedule on request."""
    statement = schedules.update().where(schedules.c.id == schedule_id)
    tx.connection.execute(statement.values(updated_us=tx.now_us, **values))


def advance(tx: Transaction, schedule: Schedule, next_run_us: int, **values: Any) -> bool:
    """Compare-and-set the next run; False if it has changed meanwhile."""
    statement = schedules.update().where(
        schedules.c.id == schedule.id,
        schedules.c.next_run_us == schedule.next_run_us,
        schedules.c.deleted_us.is_(None),
    )
    return tx.connection.execute(statement.values(next_run_us=next_run_us, **values)).rowcount == 1


def mark_deleted(tx: Transaction, schedule_id: str) -> None:
    """Mark a schedule as deleted. The row stays: a list may use it as a marker."""
    statement = schedules.update().where(schedules.c.id == schedule_id)
    tx.connection.execute(statement.values(deleted_us=tx.now_us))


def delete_of_source(tx: Transaction, source_id: str) -> None:
    """Mark the schedule of this source as deleted, if it has one."""
    statement = schedules.update().where(schedules.c.source_id == source_id, schedules.c.deleted_us.is_(None))
    tx.connection.execute(statement.values(deleted_us=tx.now_us))


def page(
    tx: Transaction, account: str, *, limit: int, marker: str | None, source_type: str | None, source_id: str | None
) -> tuple[list[Schedule], bool] | None:
    """Up to ``limit`` schedules, newest first, and whether there are more; None if the marker was never one."""
    wanted = {"source_type": source_type, "source_id": source_id}
    return page_of(tx, schedules, account, _schedule, limit=limit, marker=marker, wanted=wanted)


def due(tx: Transaction) -> list[DueRun]:
    """The schedules whose run is due, the one that waits longest first."""
    statement = (
        sa.select(schedules, instances.c.status.label("instance_status"), hosts.c.seen_us.label("host_seen_us"))
        .outerjoin(instances, sa.and_(instances.c.id == schedules.c.source_id, instances.c.deleted_us.is_(None)))
        .outerjoin(hosts, hosts.c.id == instances.c.host_id)
        .where(schedules.c.next_run_us <= tx.now_us, schedules.c.deleted_us.is_(None))
        .order_by(schedules.c.next_run_us, schedules.c.id)
    )
    return [
        DueRun(
            schedule=_schedule(row),
            instance_status=None if row["instance_status"] is None else InstanceStatus(row["instance_status"]),
            host_seen_us=row["host_seen_us"],
        )
        for row in all_rows(tx.connection.execute(statement))
    ]


def far_away(tx: Transaction) -> list[Schedule]:
    """The schedules whose next run is over a day away: it was set before the clock was put back."""
    statement = schedules.select().where(schedules.c.next_run_us > tx.now_us + DAY_US, schedules.c.deleted_us.is_(None))
    return [_schedule(row) for row in all_rows(tx.connection.execute(statement))]


def with_too_many_fulls(tx: Transaction) -> list[Schedule]:
    """The schedules with more COMPLETED automated fulls of their source than they keep."""
    counted = (
        sa.select(backups.c.source_id, sa.func.count().label("fulls"))
        .where(sa.text(AUTOMATED_FULLS))
        .group_by(backups.c.source_id)
        .subquery()
    )
    statement = (
        sa.select(schedules)
        .join(counted, counted.c.source_id == schedules.c.source_id)
        .where(counted.c.fulls > schedules.c.full_backup_retention, schedules.c.deleted_us.is_(None))
    )
    return [_schedule(row) for row in all_rows(tx.connection.execute(statement))]


def _schedule(row: Mapping[str, Any]) -> Schedule:
    return Schedule(**{column.name: row[column.name] for column in schedules.columns})
