"""Instances on a real host, as a test sees them: what they are asked to be, and what a client finds in them."""

import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import pymysql

from snaphold.engines.base import Administer
from snaphold.engines.mariadb.accounts import native_hash
from snaphold.engines.mariadb.session import session
from snaphold.host.servers import Servers
from snaphold.protocol import DatabaseSpec, InstanceResult, InstanceSpec, UserSpec

PASSWORD = "pw1"  # of the user ``app``
_ALL_RIGHTS = 549_755_813_887  # as the system's table has them


def instance_spec(
    *, databases: Sequence[str] = ("shop",), users: Sequence[UserSpec] | None = None, instance_id: str | None = None
) -> InstanceSpec:
    """An instance of the smallest flavor; by default with the database ``shop`` and its user ``app``."""
    return InstanceSpec(
        id=instance_id or str(uuid.uuid4()),
        account="1234",
        name="db",
        datastore="mariadb",
        version="10.11",
        ram_mb=512,
        volume_gb=1,
        databases=[DatabaseSpec(name=name) for name in databases],
        users=[user_spec("app", PASSWORD, databases)] if users is None else list(users),
    )


def user_spec(name: str, password: str, databases: Sequence[str], host: str = "%") -> UserSpec:
    """A user as the API hands it on: without its password."""
    return UserSpec(name=name, host=host, password_hash=native_hash(password), databases=list(databases))


def connect(
    result: InstanceResult, user: str = "app", password: str = PASSWORD, database: str | None = None
) -> "pymysql.Connection[Any]":
    """A client's connection, over TCP."""
    return pymysql.connect(
        host=result.address, port=result.port, user=user, password=password, database=database, autocommit=True
    )


def query(
    result: InstanceResult, statement: str, user: str = "app", password: str = PASSWORD, database: str | None = None
) -> list[tuple[Any, ...]]:
    """Run one statement as a client does."""
    with closing(connect(result, user, password, database)) as connection, connection.cursor() as cursor:
        cursor.execute(statement)
        return list(cursor.fetchall())


def promote(servers: Servers, instance_id: str, user: str) -> None:
    """Give a user every right there is, as a customer's root can: by writing into the system's table."""
    administer = servers.access(instance_id).administer
    administer(
        f"UPDATE mysql.global_priv SET Priv = JSON_SET(Priv, '$.access', {_ALL_RIGHTS}) WHERE User = '{user}'", 10
    )
    administer("FLUSH PRIVILEGES", 10)


def superuser(servers: Servers, instance_id: str) -> Administer:
    """Runs statements with SUPER, for what tests change about a server and the service does not."""
    directory = servers.records.directory(instance_id)

    def administer(statement: str, timeout_s: float) -> list[tuple[Any, ...]]:
        with session(directory.super_file, directory.socket, timeout_s=timeout_s) as asked:
            return asked.run(statement)

    return administer


def wait_for(condition: Callable[[], object], what: str, timeout_s: float = 30) -> None:
    """Look until the condition holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_s:g} s in vain for {what}")
        time.sleep(0.01)
