"""Pages that stay consistent while rows come and go: newest first by (created, id), which never change."""

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from snaphold.catalog.database import Transaction


@dataclass(frozen=True, kw_only=True)
class Position:
    """Where a page starts: behind a row that is (or was) there, or at an offset."""

    behind: tuple[int, str] | None = None
    offset: int = 0


def position_of(tx: Transaction, table: sa.Table, account: str, marker: str | None) -> Position | None:
    """Resolve a marker: an id that is or was a row of this account, or an offset in digits; else None."""
    if marker is None:
        return Position()
    if marker.isascii() and marker.isdigit():
        return Position(offset=min(int(marker[:18]), 1 << 62))
    statement = sa.select(table.c.created_us, table.c.id).where(table.c.id == marker, table.c.account == account)
    row = tx.connection.execute(statement).one_or_none()
    return None if row is None else Position(behind=(row.created_us, row.id))


def page_of(
    tx: Transaction, statement: sa.Select[Any], table: sa.Table, start: Position, limit: int
) -> tuple[list[sa.RowMapping], bool]:
    """Up to ``limit`` rows from there on, and whether there are more."""
    if start.behind is not None:
        statement = statement.where(sa.tuple_(table.c.created_us, table.c.id) < sa.tuple_(*start.behind))
    statement = statement.order_by(table.c.created_us.desc(), table.c.id.desc()).offset(start.offset).limit(limit + 1)
    rows = list(tx.connection.execute(statement).mappings())
    return rows[:limit], len(rows) > limit
