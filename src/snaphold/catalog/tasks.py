"""The rows of hosts' tasks, with attempt and lease."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa

from snaphold.catalog.database import Transaction, all_rows, batched, one_row, relies_on_single_writer
from snaphold.catalog.schema import hosts, instances, tasks
from snaphold.model import Attempt, TaskState
from snaphold.task_kinds import ABANDONED_IN_SILENCE, MAKING_BACKUPS, TAKING_LONG, TASK_KINDS

_IDS_AT_ONCE: Final = 500  # in one query
_SILENT_AT_ONCE: Final = 100  # attempts of silent hosts, in one transaction


def insert(
    tx: Transaction,
    *,
    task_id: str,
    kind: str,
    host_id: str,
    account: str,
    instance_id: str | None,
    backup_id: str | None,
    payload: dict[str, Any],
) -> None:
    """Add a task for a host."""
    tx.connection.execute(
        tasks.insert().values(
            id=task_id,
            kind=kind,
            state=TaskState.WAITING,
            attempt=0,
            host_id=host_id,
            account=account,
            instance_id=instance_id,
            backup_id=backup_id,
            payload=payload,
            created_us=tx.now_us,
            reported=False,
        )
    )


def next_waiting(tx: Transaction, host_id: str, free_slots: int | None) -> dict[str, Any] | None:
    """The waiting task that the host is to begin next; None: none may begin.

    1. First the account with the fewest tasks under way on this host, then the one whose last task ended longest ago.
    2. Of an account's own tasks the most urgent (``TaskRules.urgency``), then the oldest.
    3. On a host with instances of several accounts, the last free slot is kept from long tasks of an account that has
       tasks under way: whatever one account asks for, another one's backup begins at once.

    ``free_slots``: how many more tasks the host can work on; None: it has not reported that.
    """
    claimed = sa.select(tasks.c.account).where(tasks.c.host_id == host_id, tasks.c.state == TaskState.CLAIMED)
    under_way = Counter(tx.connection.execute(claimed).scalars())
    may_begin = [tasks.c.host_id == host_id, tasks.c.state == TaskState.WAITING]
    if free_slots == 1 and under_way and _is_shared(tx, host_id):
        may_begin.append(sa.or_(tasks.c.account.not_in(list(under_way)), tasks.c.kind.not_in(TAKING_LONG)))
    last_end = _last_ends(tx, host_id, may_begin)
    turns = {account: (under_way[account], ended_us) for account, ended_us in last_end.items()}
    first = min(turns.values(), default=None)
    urgency = sa.case({kind: rules.urgency for kind, rules in TASK_KINDS.items()}, value=tasks.c.kind, else_=0)
    found = []
    for accounts in batched([account for account, turn in turns.items() if turn == first], _IDS_AT_ONCE):
        statement = sa.select(urgency, tasks.c.created_us, tasks.c.id).where(*may_begin, tasks.c.account.in_(accounts))
        ordered = statement.order_by(urgency, tasks.c.created_us, tasks.c.id).limit(1)
        found += [tuple(row) for row in tx.connection.execute(ordered)]
    if not found:
        return None
    return one_row(tx.connection.execute(tasks.select().where(tasks.c.id == min(found)[-1])))


def any_waiting(tx: Transaction, host_id: str) -> bool:
    """Whether a task waits for the host: one look into an index."""
    statement = sa.select(tasks.c.id).where(tasks.c.host_id == host_id, tasks.c.state == TaskState.WAITING)
    return tx.connection.execute(statement.limit(1)).first() is not None


def _last_ends(tx: Transaction, host_id: str, may_begin: Sequence[sa.ColumnElement[bool]]) -> dict[str, int]:
    """When the host ended its last task of each account that has a task to begin; 0: never.

    It takes one look into an index for each account, however many tasks wait, or have ended.
    """
    account = tasks.c.account.concat("").label("account")  # not the bare column: SQLite must use the index on the state
    asking = sa.select(account).where(*may_begin).distinct().subquery()
    ended = tasks.alias("ended")
    latest = sa.select(sa.func.max(ended.c.ended_us)).where(
        ended.c.host_id == host_id, ended.c.account == asking.c.account
    )
    statement = sa.select(asking.c.account, latest.correlate(asking).scalar_subquery())
    return {account: ended_us or 0 for account, ended_us in tx.connection.execute(statement)}


def _is_shared(tx: Transaction, host_id: str) -> bool:
    """Whether several accounts have instances on the host."""
    accounts = sa.select(sa.func.min(instances.c.account), sa.func.max(instances.c.account))
    least, most = tx.connection.execute(
        accounts.where(instances.c.host_id == host_id, instances.c.deleted_us.is_(None))
    ).one()
    return bool(least != most)


@relies_on_single_writer
def claim(
    tx: Transaction, host_id: str, session: str, lease_until_us: int, free_slots: int | None
) -> tuple[Attempt, dict[str, Any]] | None:
    """Take the host's next task (``next_waiting``): its next attempt, and the payload."""
    row = next_waiting(tx, host_id, free_slots)
    if row is None:
        return None
    claimed = {
        "state": TaskState.CLAIMED,
        "attempt": row["attempt"] + 1,
        "session": session,
        "lease_until_us": lease_until_us,
    }
    mine = tasks.update().where(tasks.c.id == row["id"], tasks.c.state == TaskState.WAITING)
    if tx.connection.execute(mine.values(claimed)).rowcount == 0:
        return None
    return _attempt(row | claimed), row["payload"]


def current(tx: Transaction, host_id: str, task_id: str, session: str, number: int) -> Attempt | None:
    """The attempt, if it is still the one that may report."""
    statement = tasks.select().where(
        tasks.c.id == task_id,
        tasks.c.host_id == host_id,
        tasks.c.session == session,
        tasks.c.attempt == number,
        tasks.c.state == TaskState.CLAIMED,
    )
    row = one_row(tx.connection.execute(statement))
    return None if row is None else _attempt(row)


def is_known(tx: Transaction, task_id: str) -> bool:
    """Whether the catalog has this task; it has not if it was rebuilt since."""
    return tx.connection.execute(sa.select(tasks.c.id).where(tasks.c.id == task_id)).first() is not None


def has_reported(tx: Transaction, host_id: str, task_id: str, session: str, number: int) -> bool:
    """Whether this very attempt has ended the task by its report, which may then arrive again."""
    statement = sa.select(tasks.c.id).where(
        tasks.c.id == task_id,
        tasks.c.host_id == host_id,
        tasks.c.session == session,
        tasks.c.attempt == number,
        tasks.c.state == TaskState.ENDED,
        tasks.c.reported,
    )
    return tx.connection.execute(statement).first() is not None


def renew(tx: Transaction, attempt: Attempt, lease_until_us: int) -> None:
    """Renew the lease of an attempt."""
    tx.connection.execute(tasks.update().where(tasks.c.id == attempt.task_id).values(lease_until_us=lease_until_us))


def end(tx: Transaction, attempt: Attempt, *, reported: bool) -> None:
    """End a task, because its attempt has reported or was abandoned. The payload is deleted."""
    statement = tasks.update().where(tasks.c.id == attempt.task_id)
    tx.connection.execute(
        statement.values(state=TaskState.ENDED, ended_us=tx.now_us, lease_until_us=None, payload={}, reported=reported)
    )


def change_payload(tx: Transaction, attempt: Attempt, change: Mapping[str, Any]) -> None:
    """Replace parts of the payload of a task that has not ended; an attempt under way has read the old one."""
    statement = tasks.update().where(tasks.c.id == attempt.task_id, tasks.c.state != TaskState.ENDED)
    tx.connection.execute(statement.values(payload={**attempt.payload, **change}))


def put_back(tx: Transaction, attempt: Attempt) -> None:
    """Put a task back, to be claimed as its next attempt."""
    statement = tasks.update().where(tasks.c.id == attempt.task_id)
    tx.connection.execute(statement.values(state=TaskState.WAITING, session=None, lease_until_us=None))


def of_other_sessions(tx: Transaction, host_id: str, session: str) -> list[Attempt]:
    """The attempts that earlier processes of this host had claimed."""
    statement = tasks.select().where(
        tasks.c.host_id == host_id, tasks.c.state == TaskState.CLAIMED, tasks.c.session != session
    )
    return [_attempt(row) for row in all_rows(tx.connection.execute(statement))]


def open_of_host(tx: Transaction, host_id: str) -> list[Attempt]:
    """The tasks of this host that have not ended."""
    statement = tasks.select().where(tasks.c.host_id == host_id, tasks.c.state != TaskState.ENDED)
    return [_attempt(row) for row in all_rows(tx.connection.execute(statement))]


def silent(tx: Transaction, lease_us: int) -> list[Attempt]:
    """Attempts whose lease has expired, and tasks that wait for a host that has been silent for a lease's time.

    It returns a hundred at most. Tasks that may wait for their host (``OnSilence.REQUEUE``) are not among the latter.
    """
    expired = sa.and_(tasks.c.state == TaskState.CLAIMED, tasks.c.lease_until_us < tx.now_us)
    unheard = sa.and_(
        tasks.c.state == TaskState.WAITING,
        tasks.c.kind.in_(ABANDONED_IN_SILENCE),
        tasks.c.created_us < tx.now_us - lease_us,
        sa.or_(hosts.c.seen_us.is_(None), hosts.c.seen_us < tx.now_us - lease_us),
    )
    statement = (
        sa.select(tasks)
        .outerjoin(hosts, hosts.c.id == tasks.c.host_id)
        .where(tasks.c.state != TaskState.ENDED, sa.or_(expired, unheard))  # the first condition is that of an index
        .limit(_SILENT_AT_ONCE)
    )
    return [_attempt(row) for row in all_rows(tx.connection.execute(statement))]


def forget_ended(tx: Transaction, before_us: int) -> None:
    """Delete the tasks that ended before then."""
    tx.connection.execute(tasks.delete().where(tasks.c.state == TaskState.ENDED, tasks.c.ended_us < before_us))


def open_of_instance(tx: Transaction, instance_id: str) -> Attempt | None:
    """The task of an instance that has not ended, or None."""
    statement = tasks.select().where(tasks.c.instance_id == instance_id, tasks.c.state != TaskState.ENDED)
    row = one_row(tx.connection.execute(statement))
    return None if row is None else _attempt(row)


def open_kinds(tx: Transaction, instance_ids: Sequence[str]) -> dict[str, str]:
    """The kind of the open task of each of these instances that has one. It takes a few queries, however many."""
    found: dict[str, str] = {}
    for some in batched(instance_ids, _IDS_AT_ONCE):
        statement = sa.select(tasks.c.instance_id, tasks.c.kind)
        mine = statement.where(tasks.c.instance_id.in_(some), tasks.c.state != TaskState.ENDED)
        found |= {row.instance_id: row.kind for row in tx.connection.execute(mine)}
    return found


def given_up(tx: Transaction, host_id: str, session: str, at_work: Mapping[str, int]) -> list[str]:
    """The host's attempts (task id and number) that are no longer current; an unknown task counts as current."""
    over: list[str] = []
    for some in batched(list(at_work), _IDS_AT_ONCE):
        for row in tx.connection.execute(tasks.select().where(tasks.c.id.in_(some))):
            standing = (row.host_id, row.session, row.attempt, row.state)
            if standing != (host_id, session, at_work[row.id], TaskState.CLAIMED):
                over.append(row.id)
    return over


def taking(tx: Transaction, backup_id: str) -> Attempt | None:
    """The open task that makes this backup, or None."""
    making = tasks.c.kind.in_(MAKING_BACKUPS)
    open_one = tasks.select().where(tasks.c.backup_id == backup_id, tasks.c.state != TaskState.ENDED, making)
    row = one_row(tx.connection.execute(open_one))
    return None if row is None else _attempt(row)


def has_open_of_backup(tx: Transaction, backup_id: str) -> bool:
    """Whether an open task is about this backup."""
    statement = sa.select(tasks.c.id).where(tasks.c.backup_id == backup_id, tasks.c.state != TaskState.ENDED)
    return tx.connection.execute(statement.limit(1)).first() is not None


def _attempt(values: Mapping[str, Any]) -> Attempt:
    return Attempt(
        task_id=values["id"],
        kind=values["kind"],
        number=values["attempt"],
        state=TaskState(values["state"]),
        host_id=values["host_id"],
        instance_id=values["instance_id"],
        backup_id=values["backup_id"],
        account=values["account"],
        payload=values["payload"],
        session=values["session"],
        lease_until_us=values["lease_until_us"],
        created_us=values["created_us"],
    )
