"""The rows of instances."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa

from snaphold.catalog.database import Transaction, all_rows, batched, one_row
from snaphold.catalog.paging import page_of
from snaphold.catalog.schema import backups, instances
from snaphold.model import INSTANCE_MOVES, Instance, InstanceStatus

OBSERVED: Final = ("running", "used_bytes", "incarnation", "max_lsn", "ended_incarnation", "reason")  # by heartbeats
_IDS_AT_ONCE: Final = 500  # in one query
_BY_ID: Final = instances.select().where(instances.c.id == sa.bindparam("instance_id"))
NO_PROGRESS: Final = {"step": None, "done_bytes": None, "expected_bytes": None, "bytes_per_s": None}


def insert(tx: Transaction, instance: Instance) -> None:
    """Add a new instance."""
    values = {column.name: getattr(instance, column.name) for column in instances.columns}
    tx.connection.execute(instances.insert().values(values))


def find(tx: Transaction, account: str, instance_id: str) -> Instance | None:
    """This account's instance, unless it is deleted."""
    found = get(tx, instance_id)
    return found if found is not None and found.account == account and found.deleted_us is None else None


def was_known(tx: Transaction, account: str, instance_id: str) -> bool:
    """Whether the account has, or ever had, this instance, or a backup of it that was copied here."""
    found = get(tx, instance_id)
    if found is not None:
        return found.account == account
    copied = sa.select(backups.c.id).where(backups.c.source_id == instance_id, backups.c.account == account)
    return tx.connection.execute(copied.limit(1)).first() is not None


def get(tx: Transaction, instance_id: str) -> Instance | None:
    """The instance of any account, deleted ones too."""
    row = one_row(tx.connection.execute(_BY_ID, {"instance_id": instance_id}))
    return None if row is None else _instance(row)


def move(
    tx: Transaction, instance_id: str, origins: Iterable[InstanceStatus], to: InstanceStatus, **values: Any
) -> bool:
    """Compare-and-set the status, as INSTANCE_MOVES permits; False if the instance is in none of ``origins``."""
    allowed = [origin for origin in origins if to in INSTANCE_MOVES[origin]]
    statement = instances.update().where(
        instances.c.id == instance_id, instances.c.status.in_(allowed), instances.c.deleted_us.is_(None)
    )
    return tx.connection.execute(statement.values(status=to, updated_us=tx.now_us, **values)).rowcount == 1


def rename(tx: Transaction, instance_id: str, name: str) -> None:
    """Rename an instance."""
    statement = instances.update().where(instances.c.id == instance_id)
    tx.connection.execute(statement.values(name=name, updated_us=tx.now_us))


def set_volume(tx: Transaction, instance_id: str, volume_gb: int) -> None:
    """Change the size of its volume."""
    statement = instances.update().where(instances.c.id == instance_id)
    tx.connection.execute(statement.values(volume_gb=volume_gb, updated_us=tx.now_us))


def usage(tx: Transaction, account: str) -> tuple[int, int]:
    """The number of an account's instances, and the GB of their volumes together."""
    statement = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(instances.c.volume_gb), 0))
    count, volume_gb = tx.connection.execute(
        statement.where(instances.c.account == account, instances.c.deleted_us.is_(None))
    ).one()
    return count, int(volume_gb)


def addresses_on(tx: Transaction, host_id: str) -> set[str]:
    """The addresses that the host's instances have or have reserved."""
    statement = sa.select(instances.c.address, instances.c.reserved_address)
    mine = statement.where(instances.c.host_id == host_id, instances.c.deleted_us.is_(None))
    return {address for row in tx.connection.execute(mine) for address in row if address is not None}


def addresses(tx: Transaction) -> set[str]:
    """The addresses that the region's instances have or have reserved."""
    statement = sa.select(instances.c.address, instances.c.reserved_address).where(instances.c.deleted_us.is_(None))
    return {address for row in tx.connection.execute(statement) for address in row if address is not None}


def with_address(tx: Transaction, address: str, *, but: str) -> list[Instance]:
    """The region's instances that have or have reserved this address, without the instance ``but``."""
    statement = instances.select().where(
        sa.or_(instances.c.address == address, instances.c.reserved_address == address),
        instances.c.deleted_us.is_(None),
        instances.c.id != but,
    )
    return [_instance(row) for row in all_rows(tx.connection.execute(statement))]


def reserve(tx: Transaction, instance_id: str, address: str | None, hostname: str | None) -> None:
    """Set the address where an instance is to listen, and the name that clients are shown."""
    statement = instances.update().where(instances.c.id == instance_id)
    tx.connection.execute(statement.values(reserved_address=address, hostname=hostname))


def told_by_host(tx: Transaction, host_id: str, instance_ids: Sequence[str]) -> dict[str, Instance]:
    """The host's instances among these, also deleted ones, by id. It takes a few queries, however many there are."""
    found: dict[str, Instance] = {}
    for some in batched(instance_ids, _IDS_AT_ONCE):
        mine = instances.select().where(instances.c.id.in_(some), instances.c.host_id == host_id)
        found |= {row["id"]: _instance(row) for row in all_rows(tx.connection.execute(mine))}
    return found


def note_all(tx: Transaction, observed: Mapping[str, Mapping[str, Any]]) -> None:
    """Record the OBSERVED columns of each of these instances, in one statement."""
    if observed:
        each = instances.update().where(instances.c.id == sa.bindparam("which"))
        values: dict[str, Any] = {name: sa.bindparam(f"new_{name}") for name in OBSERVED}
        rows = [
            {"which": instance_id, **{f"new_{name}": seen[name] for name in OBSERVED}}
            for instance_id, seen in observed.items()
        ]
        tx.connection.execute(each.values(values), rows)


def note_state(tx: Transaction, host_id: str, instance_id: str, *, running: bool, used_bytes: int | None) -> None:
    """Record what its host measured; None leaves the last value."""
    values: dict[str, Any] = {"running": running}
    if used_bytes is not None:
        values["used_bytes"] = used_bytes
    statement = instances.update().where(instances.c.id == instance_id, instances.c.host_id == host_id)
    tx.connection.execute(statement.values(values))


def note_incarnation(tx: Transaction, instance: Instance, incarnation: str, max_lsn: int) -> bool:
    """Record the incarnation of its data and its LSN; False if the data was rolled back to an earlier time."""
    sound, values = incarnation_values(instance, incarnation, max_lsn)
    tx.connection.execute(instances.update().where(instances.c.id == instance.id).values(values))
    return sound


def incarnation_values(instance: Instance, incarnation: str, max_lsn: int) -> tuple[bool, dict[str, Any]]:
    """Whether the data has not been rolled back, and the columns for the incarnation that its host has reported.

    A lower LSN in the same incarnation, or an incarnation that had ended, is a rollback that included the host's own
    records. The incarnation is then unknown until the host reports another one.
    """
    over = instance.ended_incarnation
    known = instance.incarnation
    values: dict[str, Any] = {"max_lsn": max_lsn}
    sound = incarnation != over and (incarnation != known or max_lsn >= (instance.max_lsn or 0))
    if not sound:
        values |= {"incarnation": None, "ended_incarnation": incarnation}
    elif incarnation != known:
        values |= {"incarnation": incarnation, "ended_incarnation": known or over}
    return sound, values


def note_progress(tx: Transaction, instance_id: str, **values: Any) -> None:
    """Record the progress of the attempt that restores it."""
    statement = instances.update().where(instances.c.id == instance_id, instances.c.status == InstanceStatus.BUILD)
    if values:
        tx.connection.execute(statement.values(values))


def mark_deleted(tx: Transaction, instance_id: str) -> None:
    """Mark an instance as deleted, once its server is removed. The row stays for the lists of its backups."""
    statement = instances.update().where(instances.c.id == instance_id)
    tx.connection.execute(statement.values(deleted_us=tx.now_us, updated_us=tx.now_us, running=False))


def page(tx: Transaction, account: str, *, limit: int, marker: str | None) -> tuple[list[Instance], bool] | None:
    """Up to ``limit`` instances, newest first, and whether there are more; None if the marker was never one."""
    return page_of(tx, instances, account, _instance, limit=limit, marker=marker)


def of_host(tx: Transaction, host_id: str) -> list[Instance]:
    """The instances of a host that are not deleted, the oldest first."""
    live = instances.select().where(instances.c.host_id == host_id, instances.c.deleted_us.is_(None))
    return [_instance(row) for row in all_rows(tx.connection.execute(live.order_by(instances.c.created_us)))]


def tenants(tx: Transaction) -> tuple[dict[str, int], dict[str, set[str]]]:
    """For each host: the number of its instances, and their accounts."""
    load: dict[str, int] = {}
    accounts: dict[str, set[str]] = {}
    statement = sa.select(instances.c.host_id, instances.c.account, sa.func.count())
    live = statement.where(instances.c.deleted_us.is_(None)).group_by(instances.c.host_id, instances.c.account)
    for host_id, account, count in tx.connection.execute(live):
        load[host_id] = load.get(host_id, 0) + count
        accounts.setdefault(host_id, set()).add(account)
    return load, accounts


def _instance(row: Mapping[str, Any]) -> Instance:
    return Instance(**{**row, "status": InstanceStatus(row["status"])})
