"""The rows of copies from other regions that are not backups yet."""

from snaphold.catalog.database import Transaction, all_rows, one_row
from snaphold.catalog.schema import incoming_copies
from snaphold.model import IncomingCopy


def insert(tx: Transaction, incoming: IncomingCopy) -> None:
    """Add an incoming copy with a new id."""
    values = {column.name: getattr(incoming, column.name) for column in incoming_copies.columns}
    tx.connection.execute(incoming_copies.insert().values(values))


def get(tx: Transaction, copy_id: str) -> IncomingCopy | None:
    """An incoming copy, also one that has ended, or None."""
    row = one_row(tx.connection.execute(incoming_copies.select().where(incoming_copies.c.id == copy_id)))
    return None if row is None else IncomingCopy(**row)


def note_seen(tx: Transaction, copy_id: str) -> None:
    """Record that an object of it has arrived."""
    tx.connection.execute(incoming_copies.update().where(incoming_copies.c.id == copy_id).values(seen_us=tx.now_us))


def end(tx: Transaction, copy_id: str) -> None:
    """End a copy: no more of its objects may be written, and those that were are to be removed."""
    still = incoming_copies.update().where(incoming_copies.c.id == copy_id, incoming_copies.c.ended_us.is_(None))
    tx.connection.execute(still.values(ended_us=tx.now_us))


def end_silent(tx: Transaction, since_us: int) -> list[str]:
    """End the copies that have received nothing since then; their ids."""
    statement = incoming_copies.update().where(
        incoming_copies.c.ended_us.is_(None), incoming_copies.c.seen_us < since_us
    )
    return list(tx.connection.execute(statement.values(ended_us=tx.now_us).returning(incoming_copies.c.id)).scalars())


def ended(tx: Transaction, until_us: int) -> list[IncomingCopy]:
    """The copies that ended before."""
    rows = all_rows(tx.connection.execute(incoming_copies.select().where(incoming_copies.c.ended_us <= until_us)))
    return [IncomingCopy(**row) for row in rows]


def remove(tx: Transaction, copy_id: str) -> None:
    """Delete the row of a copy that is a backup now, or of which no object is left."""
    tx.connection.execute(incoming_copies.delete().where(incoming_copies.c.id == copy_id))
