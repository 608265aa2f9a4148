"""The rows of copies to other regions, and queries about backups that two regions share."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import sqlalchemy as sa

from snaphold.catalog.database import Transaction, all_rows, one_row
from snaphold.catalog.schema import USABLE, backups, copies
from snaphold.model import Backup, Copy, CopyStatus, Origin

OPEN = (CopyStatus.NEW, CopyStatus.COPYING)
_ANY: Final = sa.select(sa.exists(sa.select(copies.c.id)))


def insert(tx: Transaction, copy: Copy) -> bool:
    """Add a copy; False if a copy of the backup to that region is under way already."""
    values = {column.name: getattr(copy, column.name) for column in copies.columns}
    savepoint = tx.connection.begin_nested()
    try:
        tx.connection.execute(copies.insert().values(values))
    except sa.exc.IntegrityError:
        savepoint.rollback()
        return False
    savepoint.commit()
    return True


def get(tx: Transaction, copy_id: str) -> Copy | None:
    """A copy by the id of its row."""
    row = one_row(tx.connection.execute(copies.select().where(copies.c.id == copy_id)))
    return None if row is None else _copy(row)


def open_copy(tx: Transaction, backup_id: str, region: str) -> Copy | None:
    """The copy of a backup to a region that has not ended, or None."""
    statement = copies.select().where(
        copies.c.backup_id == backup_id, copies.c.region == region, copies.c.status.in_(OPEN)
    )
    row = one_row(tx.connection.execute(statement))
    return None if row is None else _copy(row)


def begin(tx: Transaction, copy_id: str) -> Copy | None:
    """Begin the next try of a copy; None if it has ended."""
    statement = copies.update().where(copies.c.id == copy_id, copies.c.status.in_(OPEN))
    values = {"begun_us": sa.func.coalesce(copies.c.begun_us, tx.now_us), "next_try_us": None}
    tx.connection.execute(statement.values(status=CopyStatus.COPYING, updated_us=tx.now_us, **values))
    found = get(tx, copy_id)
    return found if found is not None and found.status is CopyStatus.COPYING else None


def change(tx: Transaction, copy_id: str, **values: Any) -> None:
    """Change a copy that has not ended; ``status`` may end it."""
    statement = copies.update().where(copies.c.id == copy_id, copies.c.status.in_(OPEN))
    tx.connection.execute(statement.values(updated_us=tx.now_us, **values))


def fail_all(tx: Transaction, backup_id: str, reason: str) -> None:
    """Fail the copies of a backup that has failed itself."""
    statement = copies.update().where(copies.c.backup_id == backup_id, copies.c.status.in_(OPEN))
    tx.connection.execute(statement.values(status=CopyStatus.FAILED, reason=reason, updated_us=tx.now_us))


def open_of(tx: Transaction, backup_id: str) -> list[str]:
    """The ids of the copies of a backup that have not ended."""
    statement = sa.select(copies.c.id).where(copies.c.backup_id == backup_id, copies.c.status.in_(OPEN))
    return list(tx.connection.execute(statement).scalars())


def due(tx: Transaction) -> list[str]:
    """The ids of the copies that have waited long enough after a try without an answer."""
    statement = sa.select(copies.c.id).where(copies.c.status == CopyStatus.COPYING, copies.c.next_try_us <= tx.now_us)
    return list(tx.connection.execute(statement).scalars())


def under_way(tx: Transaction) -> list[str]:
    """The ids of the copies that are under way and do not wait."""
    statement = sa.select(copies.c.id).where(copies.c.status == CopyStatus.COPYING, copies.c.next_try_us.is_(None))
    return list(tx.connection.execute(statement).scalars())


def with_copies(tx: Transaction, found: Iterable[Backup]) -> list[Backup]:
    """The same backups, each with its copies, oldest first."""
    rows = list(found)
    if not tx.connection.execute(_ANY).scalar_one():  # most regions have none, and every read comes here
        return rows
    statement = copies.select().where(copies.c.backup_id.in_([backup.id for backup in rows]))
    by_backup: dict[str, list[Copy]] = {}
    for row in all_rows(tx.connection.execute(statement.order_by(copies.c.created_us, copies.c.id))):
        by_backup.setdefault(row["backup_id"], []).append(_copy(row))
    return [
        replace(backup, copies=tuple(by_backup[backup.id])) if backup.id in by_backup else backup for backup in rows
    ]


def here(tx: Transaction, account: str, region: str, wanted: Mapping[str, str | None]) -> dict[str, tuple[str, str]]:
    """The backups of another region that are here: by the id there, the id here and the hash of the manifest.

    ``wanted``: ids there, each with the id of the backup here that it is itself a copy of, or None.
    """
    originals = [original for original in wanted.values() if original is not None]
    statement = sa.select(backups).where(
        backups.c.account == account,
        *USABLE,
        sa.or_(
            sa.and_(
                backups.c.made == Origin.COPIED,
                backups.c.made_from_region == region,
                backups.c.made_from.in_(list(wanted)),
            ),
            backups.c.id.in_(originals),
        ),
    )
    of_original = {original: there for there, original in wanted.items() if original is not None}
    return {
        of_original.get(row["id"], row["made_from"]): (row["id"], row["manifest_sha256"])
        for row in all_rows(tx.connection.execute(statement))
    }


def regions_of(tx: Transaction, account: str, backup_id: str) -> set[str]:
    """The regions that share a backup of the account: that of its original, and those of its copies."""
    origin = sa.select(backups.c.made_from_region).where(
        backups.c.id == backup_id,
        backups.c.account == account,
        backups.c.made == Origin.COPIED,
        backups.c.deleted_us.is_(None),
    )
    targets = sa.select(copies.c.region).where(
        copies.c.backup_id == backup_id, copies.c.account == account, copies.c.status == CopyStatus.COMPLETED
    )
    return {region for statement in (origin, targets) for region in tx.connection.execute(statement).scalars()}


def ids_in_use(backup_ids: Sequence[str]) -> sa.Select[tuple[str]]:
    """The query for those of these backups that are being copied."""
    return sa.select(copies.c.backup_id).where(copies.c.backup_id.in_(backup_ids), copies.c.status.in_(OPEN))


def _copy(row: Mapping[str, Any]) -> Copy:
    return Copy(**{**row, "status": CopyStatus(row["status"])})
