"""The rows of hosts, and of this deployment itself."""

import uuid
from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa

from snaphold.catalog.database import Transaction
from snaphold.catalog.schema import deployment, hosts
from snaphold.model import Host

_SEEN_SINCE: Final = sa.select(hosts.c.id).where(hosts.c.seen_us >= sa.bindparam("since_us"))


def deployment_id(tx: Transaction, region: str) -> str:
    """The id that marks this catalog's objects in a shared container. The first call makes it."""
    row = tx.connection.execute(sa.select(deployment.c.id)).scalar_one_or_none()
    if row is not None:
        return str(row)
    fresh = str(uuid.uuid4())
    tx.connection.execute(deployment.insert().values(id=fresh, region=region, created_us=tx.now_us))
    return fresh


def hold_sweep(tx: Transaction) -> None:
    """Stop sweeping; if it is stopped already, the older time stays."""
    held = deployment.update().where(deployment.c.sweep_held_us.is_(None))
    tx.connection.execute(held.values(sweep_held_us=tx.now_us))


def release_sweep(tx: Transaction) -> int | None:
    """Resume sweeping; the time since when it was stopped, or None."""
    held_us = sweep_held_since(tx)
    tx.connection.execute(deployment.update().values(sweep_held_us=None))
    return held_us


def sweep_held_since(tx: Transaction) -> int | None:
    """The time since when sweeping is stopped, or None."""
    return tx.connection.execute(sa.select(deployment.c.sweep_held_us)).scalar_one_or_none()


def put(tx: Transaction, name: str, token_sha256: str) -> None:
    """Add a host, or replace the token of a known one."""
    known = hosts.update().where(hosts.c.name == name).values(token_sha256=token_sha256)
    if tx.connection.execute(known).rowcount:
        return
    tx.connection.execute(
        hosts.insert().values(
            id=str(uuid.uuid4()),
            name=name,
            token_sha256=token_sha256,
            datastores=[],
            shared_system_user=True,
            accepts_shared=False,
            created_us=tx.now_us,
        )
    )


def by_token(tx: Transaction, token_sha256: str) -> str | None:
    """The id of the host with this token, or None."""
    statement = sa.select(hosts.c.id).where(hosts.c.token_sha256 == token_sha256)
    return tx.connection.execute(statement).scalar_one_or_none()


def every(tx: Transaction) -> list[Host]:
    """All hosts, by name."""
    return [_host(row) for row in tx.connection.execute(hosts.select().order_by(hosts.c.name))]


def by_name(tx: Transaction, name: str) -> Host | None:
    """The host of this name, or None."""
    row = tx.connection.execute(hosts.select().where(hosts.c.name == name)).one_or_none()
    return None if row is None else _host(row)


def remove(tx: Transaction, host_id: str) -> None:
    """Delete a host and its token."""
    tx.connection.execute(hosts.delete().where(hosts.c.id == host_id))


def get(tx: Transaction, host_id: str) -> Host | None:
    """A host, or None."""
    row = tx.connection.execute(hosts.select().where(hosts.c.id == host_id)).one_or_none()
    return None if row is None else _host(row)


def begin_session(tx: Transaction, host_id: str, session: str, **values: Any) -> None:
    """Begin the session of a new agent process."""
    statement = hosts.update().where(hosts.c.id == host_id)
    tx.connection.execute(statement.values(session=session, seen_us=tx.now_us, **values))


def seen(tx: Transaction, host_id: str, session: str, taken: Sequence[str]) -> bool:
    """Record a sign of life and the taken addresses; False if another process has begun a session."""
    mine = hosts.update().where(hosts.c.id == host_id, hosts.c.session == session)
    if tx.connection.execute(mine.values(seen_us=tx.now_us)).rowcount != 1:
        return False
    known = tx.connection.execute(sa.select(hosts.c.taken).where(hosts.c.id == host_id)).scalar_one()
    if known != list(taken):
        tx.connection.execute(mine.values(taken=list(taken)))
    return True


def ids_seen_since(tx: Transaction, since_us: int) -> set[str]:
    """The ids of the hosts that were heard from since then."""
    return set(tx.connection.execute(_SEEN_SINCE, {"since_us": since_us}).scalars())


def last_seen(tx: Transaction) -> dict[str, tuple[str, int]]:
    """The name of each host that was ever heard from, and when it was last, by its id."""
    statement = sa.select(hosts.c.id, hosts.c.name, hosts.c.seen_us).where(hosts.c.seen_us.is_not(None))
    return {row.id: (row.name, row.seen_us) for row in tx.connection.execute(statement)}


def seen_since(tx: Transaction, since_us: int) -> list[Host]:
    """The hosts that were heard from since then."""
    return [_host(row) for row in tx.connection.execute(hosts.select().where(hosts.c.seen_us >= since_us))]


def _host(row: sa.Row[Any]) -> Host:
    return Host(
        id=row.id,
        name=row.name,
        datastores=row.datastores,
        shared_system_user=row.shared_system_user,
        accepts_shared=row.accepts_shared,
        memory_mb=row.memory_mb,
        networks=row.networks or [],
        instance_port=row.instance_port,
        taken=row.taken or [],
        created_us=row.created_us,
        session=row.session,
        seen_us=row.seen_us,
    )
