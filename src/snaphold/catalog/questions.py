"""The rows of questions: asked by a request that waits, taken and answered by a host."""

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from snaphold.catalog.database import Transaction
from snaphold.catalog.schema import questions


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question that a host has just taken."""

    id: str
    kind: str
    instance_id: str
    payload: dict[str, Any]
    deadline_us: int


@dataclass(frozen=True, kw_only=True)
class Answered:
    """What the host said."""

    ok: bool
    payload: dict[str, Any]
    error: str | None
    message: str | None


def ask(
    tx: Transaction,
    *,
    question_id: str,
    host_id: str,
    instance_id: str,
    kind: str,
    payload: dict[str, Any],
    deadline_us: int,
) -> None:
    """Put a question to a host."""
    tx.connection.execute(
        questions.insert().values(
            id=question_id,
            host_id=host_id,
            instance_id=instance_id,
            kind=kind,
            payload=payload,
            state="asked",
            deadline_us=deadline_us,
        )
    )


def take(tx: Transaction, host_id: str) -> Asked | None:
    """Hand the host its next question whose deadline has not passed."""
    waiting = questions.select().where(
        questions.c.host_id == host_id, questions.c.state == "asked", questions.c.deadline_us > tx.now_us
    )
    row = tx.connection.execute(waiting.order_by(questions.c.deadline_us).limit(1)).one_or_none()
    if row is None:
        return None
    tx.connection.execute(questions.update().where(questions.c.id == row.id).values(state="taken"))
    return Asked(
        id=row.id, kind=row.kind, instance_id=row.instance_id, payload=row.payload, deadline_us=row.deadline_us
    )


def has_asked(tx: Transaction, host_id: str) -> bool:
    """Whether a question waits for this host."""
    statement = sa.select(questions.c.id).where(
        questions.c.host_id == host_id, questions.c.state == "asked", questions.c.deadline_us > tx.now_us
    )
    return tx.connection.execute(statement.limit(1)).first() is not None


def answer(tx: Transaction, host_id: str, question_id: str, answered: Answered) -> None:
    """Keep the answer for whoever waits; nobody waits for one that is not there any more."""
    statement = questions.update().where(questions.c.id == question_id, questions.c.host_id == host_id)
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


def read_answer(tx: Transaction, question_id: str) -> Answered | None:
    """The answer, once it is there."""
    row = tx.connection.execute(
        questions.select().where(questions.c.id == question_id, questions.c.state == "answered")
    ).one_or_none()
    if row is None:
        return None
    return Answered(ok=row.ok, payload=row.answer, error=row.error, message=row.message)


def forget(tx: Transaction, question_id: str) -> None:
    """Nobody waits for it any more."""
    tx.connection.execute(questions.delete().where(questions.c.id == question_id))


def forget_of_host(tx: Transaction, host_id: str) -> None:
    """Drop those that this host has not answered: their askers are told that it does not answer."""
    tx.connection.execute(questions.delete().where(questions.c.host_id == host_id))


def any_overdue(tx: Transaction, before_us: int) -> bool:
    """Whether there are some whose asker is long gone."""
    statement = sa.select(questions.c.id).where(questions.c.deadline_us < before_us)
    return tx.connection.execute(statement.limit(1)).first() is not None


def forget_overdue(tx: Transaction, before_us: int) -> None:
    """Drop those whose asker is long gone."""
    tx.connection.execute(questions.delete().where(questions.c.deadline_us < before_us))
