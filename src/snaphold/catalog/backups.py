"""The rows of backups."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import sqlalchemy as sa

from snaphold.catalog import copies
from snaphold.catalog.database import Transaction, all_rows, batched, one_row
from snaphold.catalog.paging import page_of
from snaphold.catalog.rows import backup_of
from snaphold.catalog.schema import (
    AUTOMATED_FULLS,
    BEING_DELETED,
    HAVING_FAILED,
    RUNNING_TAKEN,
    USABLE,
    backups,
    incoming_copies,
    tasks,
)
from snaphold.facts import verification_values
from snaphold.model import (
    BACKUP_MOVES,
    RUNNING,
    Backup,
    BackupStatus,
    Origin,
    TaskState,
    VerificationLevel,
    VerificationStatus,
)
from snaphold.protocol import VerificationResult

_IDS_AT_ONCE: Final = 500  # in one query
_BY_ID: Final = backups.select().where(backups.c.id == sa.bindparam("backup_id"))


def insert(tx: Transaction, backup: Backup) -> bool:
    """Add a new backup; False if its source has a running one already."""
    values = {column.name: getattr(backup, column.name) for column in backups.columns}
    savepoint = tx.connection.begin_nested()
    try:
        tx.connection.execute(backups.insert().values(values))
    except sa.exc.IntegrityError:
        savepoint.rollback()
        return False
    savepoint.commit()
    return True


def find(tx: Transaction, account: str, backup_id: str) -> Backup | None:
    """This account's backup, unless it is deleted."""
    found = get(tx, backup_id)
    return found if found is not None and found.account == account and found.deleted_us is None else None


def get(tx: Transaction, backup_id: str) -> Backup | None:
    """The backup of any account, deleted ones too."""
    row = one_row(tx.connection.execute(_BY_ID, {"backup_id": backup_id}))
    return None if row is None else backup_of(row)


def move(tx: Transaction, backup_id: str, origins: Iterable[BackupStatus], to: BackupStatus, **values: Any) -> bool:
    """Compare-and-set the status, as BACKUP_MOVES permits; False if the backup is in none of ``origins``."""
    allowed = [origin for origin in origins if to in BACKUP_MOVES[origin]]
    statement = backups.update().where(backups.c.id == backup_id, backups.c.status.in_(allowed))
    values.setdefault("updated_us", tx.now_us)
    return tx.connection.execute(statement.values(status=to, **values)).rowcount == 1


def note_progress(tx: Transaction, backup_id: str, **values: Any) -> None:
    """Record the progress of a running attempt."""
    statement = backups.update().where(backups.c.id == backup_id, backups.c.status == BackupStatus.BUILDING)
    if values:
        tx.connection.execute(statement.values(updated_us=tx.now_us, **values))


def mark_deleting(tx: Transaction, backup_ids: Sequence[str], *, deleting: bool) -> None:
    """Mark these backups as being deleted, or as no longer being deleted."""
    tx.connection.execute(backups.update().where(backups.c.id.in_(backup_ids)).values(deleting=deleting))


def mark_deleted(tx: Transaction, backup_id: str) -> None:
    """Mark a backup as deleted, once its objects are removed. The row stays: a list may use it as a marker."""
    statement = backups.update().where(backups.c.id == backup_id, backups.c.deleted_us.is_(None))
    tx.connection.execute(statement.values(deleted_us=tx.now_us, deleting=False))


def mark_delete_failed(tx: Transaction, backup_ids: Sequence[str], reason: str) -> None:
    """Mark backups whose objects the store did not remove: they stay visible, and DELETE may be sent again."""
    origins = [status for status in BackupStatus if status not in RUNNING]
    statement = backups.update().where(
        backups.c.id.in_(backup_ids), backups.c.deleted_us.is_(None), backups.c.status.in_(origins)
    )
    tx.connection.execute(
        statement.values(status=BackupStatus.DELETE_FAILED, deleting=False, reason=reason, updated_us=tx.now_us)
    )


def family(tx: Transaction, backup_id: str) -> list[Backup]:
    """The backup and every increment made from it, children before their parents."""
    return families(tx, [backup_id])[backup_id]


def families(tx: Transaction, backup_ids: Sequence[str]) -> dict[str, list[Backup]]:
    """The family of each of these backups, by its id. It takes one query for a few hundred, however deep."""
    found: dict[str, list[Backup]] = {backup_id: [] for backup_id in backup_ids}
    for some in batched(backup_ids, _IDS_AT_ONCE):
        root = sa.select(backups.c.id.label("root"), backups.c.id.label("member"), sa.literal(0).label("depth"))
        members = root.where(backups.c.id.in_(some)).cte("members", recursive=True)
        child = backups.alias("child")
        members = members.union_all(
            sa.select(members.c.root, child.c.id, members.c.depth + 1).where(
                child.c.parent_id == members.c.member, child.c.deleted_us.is_(None)
            )
        )
        statement = sa.select(members.c.root, backups).join(members, members.c.member == backups.c.id)
        for row in all_rows(tx.connection.execute(statement.order_by(members.c.depth.desc(), backups.c.id))):
            found[row.pop("root")].append(backup_of(row))
    return found


def running_of_account(tx: Transaction, account: str) -> int:
    """How many backups of this account are being taken from a database."""
    statement = sa.select(sa.func.count()).where(backups.c.account == account, sa.text(RUNNING_TAKEN))
    return int(tx.connection.execute(statement).scalar_one())


def newest_completed(
    tx: Transaction, source_id: str, *, automated_only: bool = False, incarnation: str | None = None
) -> Backup | None:
    """The newest COMPLETED backup of this source, and of this incarnation of its data, or None."""
    statement = backups.select().where(
        backups.c.source_id == source_id,
        backups.c.made == Origin.TAKEN,
        *USABLE,
    )
    if automated_only:
        statement = statement.where(backups.c.is_automated)
    if incarnation is not None:
        statement = statement.where(backups.c.incarnation == incarnation)
    newest = statement.order_by(backups.c.created_us.desc(), backups.c.id.desc()).limit(1)
    row = one_row(tx.connection.execute(newest))
    return None if row is None else backup_of(row)


def automated_fulls(tx: Transaction, source_ids: Sequence[str]) -> dict[str, list[Backup]]:
    """The COMPLETED fulls that schedules have taken of each of these sources, newest first, by the source's id."""
    found: dict[str, list[Backup]] = {source_id: [] for source_id in source_ids}
    for some in batched(source_ids, _IDS_AT_ONCE):
        statement = backups.select().where(backups.c.source_id.in_(some), sa.text(AUTOMATED_FULLS))
        newest_first = statement.order_by(backups.c.created_us.desc(), backups.c.id.desc())
        for row in all_rows(tx.connection.execute(newest_first)):
            found[row["source_id"]].append(backup_of(row))
    return found


def count_of_account(tx: Transaction, account: str) -> int:
    """The number of the account's backups, with failed ones and incoming copies."""
    own = sa.select(sa.func.count()).where(backups.c.account == account, backups.c.deleted_us.is_(None))
    coming = sa.select(sa.func.count()).where(
        incoming_copies.c.account == account, incoming_copies.c.ended_us.is_(None)
    )
    return sum(int(tx.connection.execute(statement).scalar_one()) for statement in (own, coming))


def in_use(tx: Transaction, backup_ids: Sequence[str]) -> str | None:
    """One of these backups that is being restored, verified, consolidated or copied, or None."""
    restored = sa.select(tasks.c.backup_id).where(
        tasks.c.backup_id.in_(backup_ids), tasks.c.kind == "restore", tasks.c.state != TaskState.ENDED
    )
    verified = sa.select(backups.c.id).where(backups.c.id.in_(backup_ids), backups.c.proving.is_not(None))
    merged = sa.select(backups.c.made_from).where(
        backups.c.made_from.in_(backup_ids), backups.c.made == Origin.CONSOLIDATED, backups.c.status.in_(RUNNING)
    )
    for statement in (restored, verified, merged, copies.ids_in_use(backup_ids)):
        found: str | None = tx.connection.execute(statement.limit(1)).scalar_one_or_none()
        if found is not None:
            return found
    return None


def begin_verification(
    tx: Transaction, backup_id: str, level: VerificationLevel, asked_us: int, *, mending: bool
) -> bool:
    """Mark a backup as being verified; False if it is already, is not COMPLETED, or is being deleted."""
    statement = backups.update().where(
        backups.c.id == backup_id,
        backups.c.proving.is_(None),
        *USABLE,
    )
    values = {"proving": level, "mending": mending, "proof_asked_us": asked_us}
    return tx.connection.execute(statement.values(values)).rowcount == 1


def end_verification(tx: Transaction, backup_id: str, result: VerificationResult) -> None:
    """Record the result of a verification, if this level was being verified: the backup is no longer in use."""
    values = verification_values(result) | {"proof_tried_us": tx.now_us, "proving": None}
    if result.status is not VerificationStatus.UNKNOWN:
        values |= {"proof_asked_us": None, "mending": False}
    statement = backups.update().where(backups.c.id == backup_id, backups.c.proving == result.level)
    tx.connection.execute(statement.values(values))


def completed(tx: Transaction, account: str | None) -> list[Backup]:
    """Every backup (of one account) that is COMPLETED and is not being deleted, oldest first."""
    statement = backups.select().where(*USABLE)
    if account is not None:
        statement = statement.where(backups.c.account == account)
    rows = all_rows(tx.connection.execute(statement.order_by(backups.c.created_us, backups.c.id)))
    return [backup_of(row) for row in rows]


def unknown_verifications(tx: Transaction) -> list[Backup]:
    """Backups whose requested verification has ended unknown, and is not under way."""
    statement = backups.select().where(
        backups.c.proof_status == VerificationStatus.UNKNOWN,
        backups.c.proof_asked_us.is_not(None),
        backups.c.proving.is_(None),
        *USABLE,
    )
    return [backup_of(row) for row in all_rows(tx.connection.execute(statement))]


def being_verified(tx: Transaction, level: VerificationLevel) -> list[str]:
    """The ids of the backups whose verification of this level is under way."""
    statement = sa.select(backups.c.id).where(backups.c.proving == level)
    return list(tx.connection.execute(statement).scalars())


def page(
    tx: Transaction,
    account: str,
    *,
    limit: int,
    marker: str | None,
    datastore: str | None = None,
    instance_id: str | None = None,
) -> tuple[list[Backup], bool] | None:
    """Up to ``limit`` backups, newest first, and whether there are more; None if the marker was never a backup."""
    wanted = {"datastore": datastore, "instance_id": instance_id}
    return page_of(tx, backups, account, backup_of, limit=limit, marker=marker, wanted=wanted)


def failed_since(tx: Transaction, since_us: int, until_us: int) -> list[Backup]:
    """Backups, also deleted ones, that failed within this time, and whose objects may be swept."""
    statement = backups.select().where(sa.text(HAVING_FAILED), backups.c.updated_us.between(since_us, until_us))
    return [backup_of(row) for row in all_rows(tx.connection.execute(statement))]


def endings(tx: Transaction, account: str) -> dict[str, int | None]:
    """The time when each of an account's backups failed or was deleted; None: it has objects, or may get some.

    Incoming copies are among them.
    """
    coming = sa.select(incoming_copies.c.id, incoming_copies.c.ended_us).where(incoming_copies.c.account == account)
    found: dict[str, int | None] = {row.id: row.ended_us for row in tx.connection.execute(coming)}
    statement = sa.select(backups.c.id, backups.c.status, backups.c.updated_us, backups.c.deleted_us)
    for row in tx.connection.execute(statement.where(backups.c.account == account)):
        failed = row.deleted_us is None and row.status == BackupStatus.FAILED
        found[row.id] = row.updated_us if failed else row.deleted_us
    return found


def to_delete(tx: Transaction) -> list[str]:
    """The ids of the backups that are being deleted."""
    statement = sa.select(backups.c.id).where(sa.text(BEING_DELETED))
    return list(tx.connection.execute(statement).scalars())
