"""The rows of host calls: made by a request that waits, taken and answered by a host."""

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from snaphold.catalog.database import Transaction
from snaphold.catalog.schema import host_calls


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A call that a host has just taken."""

    id: str
    kind: str
    instance_id: str
    payload: dict[str, Any]
    deadline_us: int


@dataclass(frozen=True, kw_only=True)
class Answered:
    """The answer of a host."""

    ok: bool
    payload: dict[str, Any]
    error: str | None
    message: str | None


def ask(
    tx: Transaction,
    *,
    call_id: str,
    host_id: str,
    instance_id: str,
    kind: str,
    payload: dict[str, Any],
    deadline_us: int,
) -> None:
    """Make a call to a host."""
    tx.connection.execute(
        host_calls.insert().values(
            id=call_id,
            host_id=host_id,
            instance_id=instance_id,
            kind=kind,
            payload=payload,
            state="asked",
            deadline_us=deadline_us,
        )
    )


def take(tx: Transaction, host_id: str) -> Asked | None:
    """Take the next call to this host whose deadline has not passed, or None."""
    waiting = host_calls.select().where(
        host_calls.c.host_id == host_id, host_calls.c.state == "asked", host_calls.c.deadline_us > tx.now_us
    )
    row = tx.connection.execute(waiting.order_by(host_calls.c.deadline_us).limit(1)).one_or_none()
    if row is None:
        return None
    tx.connection.execute(host_calls.update().where(host_calls.c.id == row.id).values(state="taken"))
    return Asked(
        id=row.id, kind=row.kind, instance_id=row.instance_id, payload=row.payload, deadline_us=row.deadline_us
    )


def has_asked(tx: Transaction, host_id: str) -> bool:
    """Whether a call waits for this host."""
    statement = sa.select(host_calls.c.id).where(
        host_calls.c.host_id == host_id, host_calls.c.state == "asked", host_calls.c.deadline_us > tx.now_us
    )
    return tx.connection.execute(statement.limit(1)).first() is not None


def answer(tx: Transaction, host_id: str, call_id: str, answered: Answered) -> None:
    """Keep the answer to a call; a call that was deleted has nobody who waits."""
    statement = host_calls.update().where(host_calls.c.id == call_id, host_calls.c.host_id == host_id)
    tx.connection.execute(
        statement.values(
            state="answered",
            payload={},
            ok=answered.ok,
            answer=answered.payload,
            error=answered.error,
            message=answered.message,
        )
    )


def read_answer(tx: Transaction, call_id: str) -> Answered | None:
    """The answer to a call; None: it has not come yet."""
    row = tx.connection.execute(
        host_calls.select().where(host_calls.c.id == call_id, host_calls.c.state == "answered")
    ).one_or_none()
    if row is None:
        return None
    return Answered(ok=row.ok, payload=row.answer, error=row.error, message=row.message)


def forget(tx: Transaction, call_id: str) -> None:
    """Delete a call that nobody waits for any more."""
    tx.connection.execute(host_calls.delete().where(host_calls.c.id == call_id))


def forget_of_host(tx: Transaction, host_id: str) -> None:
    """Delete the calls to a host; the requests that wait for them time out."""
    tx.connection.execute(host_calls.delete().where(host_calls.c.host_id == host_id))


def any_overdue(tx: Transaction, before_us: int) -> bool:
    """Whether there are calls whose deadline passed before then."""
    statement = sa.select(host_calls.c.id).where(host_calls.c.deadline_us < before_us)
    return tx.connection.execute(statement.limit(1)).first() is not None


def forget_overdue(tx: Transaction, before_us: int) -> None:
    """Delete the calls whose deadline passed before then."""
    tx.connection.execute(host_calls.delete().where(host_calls.c.deadline_us < before_us))
