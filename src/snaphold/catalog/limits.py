"""The rows of calls: one for each limited request that was accepted within the last minute.

So an account never gets more than its limit in any minute, whichever of several API processes it asks.
"""

from collections.abc import Mapping

import sqlalchemy as sa

from snaphold.catalog.database import Transaction, relies_on_single_writer
from snaphold.catalog.schema import calls
from snaphold.model import MINUTE_US, Rate


def count(tx: Transaction, caller: str, rate: Rate, limit: int) -> int:
    """Count a call and return 0, or, if it exceeds the limit, the microseconds until it would not."""
    return count_in(calls, tx, {"caller": caller, "rate": rate}, limit)


@relies_on_single_writer
def count_in(table: sa.Table, tx: Transaction, whose: Mapping[str, str], limit: int) -> int:
    """As ``count``, in a table with the columns of ``whose`` and ``at_us``.

    Rows that are older than a minute are forgotten, whosever they are; those of the future too (a clock put back).
    """
    passing = table.c.at_us.between(tx.now_us - MINUTE_US, tx.now_us)
    tx.connection.execute(table.delete().where(~passing))
    wait_us = _wait_us(table, tx, whose, limit)
    if wait_us == 0:
        tx.connection.execute(table.insert().values(at_us=tx.now_us, **whose))
    return wait_us


def standing(tx: Transaction, caller: str, rate: Rate, limit: int) -> tuple[int, int]:
    """The number of calls that are allowed now, and the microseconds until one is."""
    recent = sa.select(sa.func.count()).where(
        calls.c.caller == caller, calls.c.rate == rate, calls.c.at_us > tx.now_us - MINUTE_US
    )
    used = tx.connection.execute(recent).scalar_one()
    return max(0, limit - used), _wait_us(calls, tx, {"caller": caller, "rate": rate}, limit)


def _wait_us(table: sa.Table, tx: Transaction, whose: Mapping[str, str], limit: int) -> int:
    """Until the last but ``limit`` of the rows is a minute old."""
    newest = sa.select(table.c.at_us).where(*(table.c[name] == value for name, value in whose.items()))
    blocking = tx.connection.execute(newest.order_by(table.c.at_us.desc()).offset(limit - 1).limit(1)).scalar()
    return 0 if blocking is None else max(0, blocking + MINUTE_US - tx.now_us)
