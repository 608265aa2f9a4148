"""The rows of copies that come from other regions and are no backups yet."""

from snaphold.catalog.database import Transaction, all_rows, one_row
from snaphold.catalog.schema import arrivals
from snaphold.model import Arrival


def insert(tx: Transaction, arrival: Arrival) -> None:
    """Add an arrival whose id is no other's."""
    values = {column.name: getattr(arrival, column.name) for column in arrivals.columns}
    tx.connection.execute(arrivals.insert().values(values))


def get(tx: Transaction, copy_id: str) -> Arrival | None:
    """What is known of it, also when it has ended."""
    row = one_row(tx.connection.execute(arrivals.select().where(arrivals.c.id == copy_id)))
    return None if row is None else Arrival(**row)


def note_seen(tx: Transaction, copy_id: str) -> None:
    """Something of it came."""
    tx.connection.execute(arrivals.update().where(arrivals.c.id == copy_id).values(seen_us=tx.now_us))


def end(tx: Transaction, copy_id: str) -> None:
    """Nothing of it may come any more; what came is to be removed."""
    still = arrivals.update().where(arrivals.c.id == copy_id, arrivals.c.ended_us.is_(None))
    tx.connection.execute(still.values(ended_us=tx.now_us))


def end_silent(tx: Transaction, since_us: int) -> list[str]:
    """End those of which nothing has come since then; their ids."""
    statement = arrivals.update().where(arrivals.c.ended_us.is_(None), arrivals.c.seen_us < since_us)
    return list(tx.connection.execute(statement.values(ended_us=tx.now_us).returning(arrivals.c.id)).scalars())


def ended(tx: Transaction, until_us: int) -> list[Arrival]:
    """Those that ended before."""
    rows = all_rows(tx.connection.execute(arrivals.select().where(arrivals.c.ended_us <= until_us)))
    return [Arrival(**row) for row in rows]


def remove(tx: Transaction, copy_id: str) -> None:
    """It is a backup now, or nothing of it is left."""
    tx.connection.execute(arrivals.delete().where(arrivals.c.id == copy_id))
