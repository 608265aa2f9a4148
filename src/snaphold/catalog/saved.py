"""Export and import of the rows that no manifest has, as plain values by table and column.

They may be imported into a later schema: removed columns are dropped, and new ones take their defaults.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import exc

from snaphold.catalog.database import Transaction, all_rows
from snaphold.catalog.schema import backups, deployment, hosts, instances, metadata
from snaphold.errors import SetupError
from snaphold.model import BackupStatus

Rows = Mapping[str, Sequence[Mapping[str, Any]]]

# These mean nothing to another process: tasks under way, host calls, counted requests.
_PASSING: Final = frozenset({"tasks", "questions", "calls"})
_RECORDED_ONLY: Final = backups.c.deleted_us.is_(None) & (
    backups.c.status.in_([BackupStatus.FAILED, BackupStatus.DELETE_FAILED]) | backups.c.deleting
)


def exported(tx: Transaction) -> Rows:
    """The rows of a region's catalog to save; of backups those that have no manifest, or are being deleted."""
    return rows_of(tx, metadata, _PASSING, {backups.name: _RECORDED_ONLY})


def imported(tx: Transaction, rows: Rows, deployment_id: str, region: str) -> int:
    """Insert exported rows into a catalog; the number of rows that were missing.

    What is recorded already stays as it is, so that this may run twice. The service may have been started before: a
    host of the same name gets its old id.

    Raises:
        SetupError: another deployment's backups or instances are recorded here, or a row does not fit.
    """
    adopt_deployment(tx, deployment_id, region)
    old = [row["id"] for row in rows.get(instances.name, ())]
    # What a rebuild has made of their backups knows less than their own rows.
    tx.connection.execute(instances.delete().where(instances.c.host_id == "", instances.c.id.in_(old)))
    own = sa.select(instances.c.id).where(instances.c.host_id != "", instances.c.id.not_in(old))
    if tx.connection.execute(own.limit(1)).first() is not None:
        raise SetupError("the catalog has instances of its own already; nothing was changed")
    for row in rows.get(hosts.name, ()):
        tx.connection.execute(hosts.update().where(hosts.c.name == row["name"]).values(id=row["id"]))
    others = {name: found for name, found in rows.items() if name != deployment.name}
    return put_missing(tx, metadata, others)


def adopt_deployment(tx: Transaction, deployment_id: str, region: str) -> None:
    """Change the id of this catalog's deployment: objects with this id in their names belong to it.

    Raises:
        SetupError: backups are recorded under another id; nothing was changed.
    """
    present = tx.connection.execute(sa.select(deployment.c.id)).scalar_one_or_none()
    if present == deployment_id:
        return
    if tx.connection.execute(sa.select(backups.c.id).limit(1)).first() is not None:
        raise SetupError(f"the catalog has backups of its own deployment {present} already; nothing was changed")
    tx.connection.execute(deployment.delete())
    tx.connection.execute(deployment.insert().values(id=deployment_id, region=region, created_us=tx.now_us))


def rows_of(
    tx: Transaction,
    tables: sa.MetaData,
    leave_out: Collection[str] = (),
    only: Mapping[str, sa.ColumnElement[bool]] | None = None,
) -> Rows:
    """The rows of every table that is not left out; ``only``: conditions by table."""
    wanted = only or {}
    return {
        table.name: all_rows(tx.connection.execute(table.select().where(wanted.get(table.name, sa.true()))))
        for table in tables.sorted_tables
        if table.name not in leave_out
    }


def put_missing(tx: Transaction, tables: sa.MetaData, rows: Rows) -> int:
    """Insert the rows whose key is missing; their number. Unknown tables and columns are left out.

    Raises:
        SetupError: a row does not fit; nothing stands of what this transaction has put.
    """
    count = 0
    for table in tables.sorted_tables:
        key = list(table.primary_key)
        for row in rows.get(table.name, ()):
            values = {name: value for name, value in row.items() if name in table.c}
            same = sa.and_(*(column == values.get(column.name) for column in key))
            if tx.connection.execute(sa.select(*key).where(same)).first() is not None:
                continue
            try:
                tx.connection.execute(table.insert().values(values))
            except exc.IntegrityError as error:
                raise SetupError(f"a saved row of {table.name} does not fit: {error.orig}") from error
            count += 1
    return count
