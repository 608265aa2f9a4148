"""Pages that stay consistent while rows come and go: newest first by (created, id), which never change."""

from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any, TypeVar

import sqlalchemy as sa

from snaphold.catalog.database import Transaction, all_rows

Item = TypeVar("Item")


def page_of(
    tx: Transaction,
    table: sa.Table,
    account: str,
    made: Callable[[dict[str, Any]], Item],
    *,
    limit: int,
    marker: str | None,
    wanted: Mapping[str, str | None] = MappingProxyType({}),
) -> tuple[list[Item], bool] | None:
    """Up to ``limit`` of an account's rows that are not deleted, converted by ``made``, and whether there are more.

    ``marker``: an id that is or was a row of this account, behind which the page starts, or an offset in digits. None
    is returned for one that is neither. ``wanted``: the values that columns must have; None: any.
    """
    values: dict[str, Any] = {name: value for name, value in wanted.items() if value is not None}
    columns, behind, offset = tuple(values), False, 0
    if marker is not None and marker.isascii() and marker.isdigit():
        offset = min(int(marker[:18]), 1 << 62)
    elif marker is not None:
        position = sa.select(table.c.created_us, table.c.id).where(table.c.id == marker, table.c.account == account)
        row = tx.connection.execute(position).one_or_none()
        if row is None:
            return None
        behind = True
        values |= {"behind_us": row.created_us, "behind_id": row.id}
    values |= {"of_account": account, "at_most": limit + 1, "skipped": offset}
    rows = all_rows(tx.connection.execute(_statement(table, columns, behind=behind), values))
    return [made(row) for row in rows[:limit]], len(rows) > limit


@cache
def _statement(table: sa.Table, columns: tuple[str, ...], *, behind: bool) -> sa.Select[Any]:
    """The statement, the same object each time: building and compiling it takes longer than running it."""
    statement = table.select().where(table.c.account == sa.bindparam("of_account"), table.c.deleted_us.is_(None))
    for column in columns:
        statement = statement.where(table.c[column] == sa.bindparam(column))
    if behind:
        position = sa.tuple_(sa.bindparam("behind_us", type_=sa.BigInteger), sa.bindparam("behind_id", type_=sa.String))
        statement = statement.where(sa.tuple_(table.c.created_us, table.c.id) < position)
    newest_first = statement.order_by(table.c.created_us.desc(), table.c.id.desc())
    return newest_first.offset(sa.bindparam("skipped")).limit(sa.bindparam("at_most"))
