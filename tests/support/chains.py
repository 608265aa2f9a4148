"""Chains taken by the agent's own code from a real server, without an API."""

import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

import pymysql

from snaphold.agent.backup import taken_backup
from snaphold.agent.chain import Chain
from snaphold.agent.consolidate import consolidated_backup
from snaphold.agent.context import TaskContext
from snaphold.agent.control import Control
from snaphold.agent.lease import Lease
from snaphold.agent.restore import restored_instance
from snaphold.config import Settings
from snaphold.host.provisioning import Staging
from snaphold.host.servers import Servers
from snaphold.model import rfc3339
from snaphold.protocol import (
    BackupResult,
    BackupSpec,
    ChainLink,
    InstanceResult,
    InstanceSpec,
    Progress,
    Task,
    TaskKind,
)
from snaphold.store.local import LocalStores
from tests.support.instances import PASSWORD, instance_spec, query, superuser, user_spec
from tests.support.servers import installation_of, mariadb_of

ACCOUNT = "1234"
_PLAIN = {".frm", ".MYD", ".MYI", ".MAD", ".MAI", ".par", ".opt"}  # whole in every increment


class SilentControl(Control):
    """A control plane that hears everything and says nothing."""

    def __init__(self) -> None:
        """Nobody is connected to."""

    def progress(self, task_id: str, message: Progress) -> None:
        """Well heard."""


@dataclass
class ChainBench:
    """A host, and the chain of backups that were taken of one of its instances."""

    context: TaskContext
    spec: InstanceSpec
    links: list[ChainLink] = field(default_factory=list)
    results: list[BackupResult] = field(default_factory=list)

    def take(self, *, full: bool = False, named: bool = True) -> BackupResult:
        """Take the next backup: an increment on the newest one, or a full one that begins a new chain."""
        links = [] if full else list(self.links)
        spec = self.backup_spec(parent_id=links[-1].backup_id if links else None, named=named)
        task = self.task(TaskKind.BACKUP, links, backup=spec, instance_id=self.spec.id)
        with taken_backup(self.context, task, spec, lease_of(task)) as result:
            pass
        kept = links if result.parent_id is not None else []
        self.links = [*kept, self.link(spec.id, result)]
        self.results.append(result)
        return result

    @property
    def last_lsn(self) -> int:
        """Where the newest backup ended."""
        return Chain.opened(self.context.stores, self.links).newest.lineage.last_lsn

    def restore(self, links: list[ChainLink] | None = None) -> InstanceResult:
        """A new instance, as the agent makes it, of the chain that ends with the last of these backups."""
        copy = instance_spec(databases=(), users=[])
        task = self.task(TaskKind.RESTORE, self.links if links is None else links, instance=copy, instance_id=copy.id)
        with restored_instance(self.context, task, copy, lease_of(task)) as result:
            return result

    def consolidate(self) -> tuple[list[ChainLink], BackupResult]:
        """Merge the chain; the new backup alone is the chain that comes back."""
        spec = self.backup_spec(parent_id=None)
        task = self.task(TaskKind.CONSOLIDATE, self.links, backup=spec)
        with consolidated_backup(self.context, task, spec, lease_of(task)) as result:
            return [self.link(spec.id, result)], result

    def laid(
        self, way: Callable[[Chain, TaskContext, Staging, Lease], None]
    ) -> tuple[InstanceResult, dict[str, bytes]]:
        """A new instance of the chain's files, laid down this way; and what its files were that are no InnoDB's.

        Of undo tablespaces the length is told.
        """
        copy = instance_spec(databases=(), users=[])
        staging = self.context.servers.staging(copy, 1)
        task = self.task(TaskKind.RESTORE, self.links, instance=copy)
        way(Chain.opened(self.context.stores, self.links), self.context, staging, lease_of(task))
        mariadb_of(self.context.servers).prepare(
            staging.directory, uid=staging.uid, gid=staging.gid, memory_bytes=staging.memory_bytes
        )
        paths = [path for path in staging.directory.rglob("*") if path.is_file()]
        files = {
            str(path.relative_to(staging.directory)): path.read_bytes() if path.suffix in _PLAIN else b""
            for path in paths
        }
        files |= {path.name: b"%d bytes" % path.stat().st_size for path in staging.directory.glob("undo???")}
        return self.context.servers.finish_restore(copy, 1), files

    def backup_spec(self, *, parent_id: str | None, named: bool = True) -> BackupSpec:
        """What an agent is told of a backup to take."""
        return BackupSpec(
            id=str(uuid.uuid4()),
            account=ACCOUNT,
            instance_id=self.spec.id,
            deployment="deployment",
            name="b",
            description=None,
            source_id=self.spec.id,
            parent_id=parent_id,
            parent_named=named,
            created=rfc3339(time.time_ns() // 1000),
            volume_gb=1,
            flavor_ram_mb=512,
            datastore="mariadb",
            version=installation_of(self.context.servers).series,
            version_id="v",
        )

    @staticmethod
    def task(kind: TaskKind, links: list[ChainLink], **more: Any) -> Task:
        """A task as it is claimed."""
        return Task(id=str(uuid.uuid4()), kind=kind, attempt=1, lease_s=30, chain=links, **more)

    @staticmethod
    def link(backup_id: str, result: BackupResult) -> ChainLink:
        """What a later task says of a backup."""
        return ChainLink(backup_id=backup_id, account=ACCOUNT, manifest_sha256=result.manifest_sha256)


def lease_of(task: Task) -> Lease:
    """A lease that nobody takes away."""
    return Lease(SilentControl(), "session", task, renew_s=60)


def chain_bench(servers: Servers, settings: Settings) -> tuple[ChainBench, InstanceResult]:
    """An instance with tables of every kind, of which chains are to be taken."""
    bench, source = plain_bench(servers, settings, ("shop", "a_b"))
    for statement in (
        "CREATE TABLE shop.t (id INT PRIMARY KEY AUTO_INCREMENT, v VARCHAR(200), n INT, KEY (n))",
        "INSERT INTO shop.t (v, n) SELECT MD5(seq), seq FROM shop.seq_1_to_3000",
        "CREATE TABLE shop.packed (id INT PRIMARY KEY, v TEXT) PAGE_COMPRESSED=1",
        "INSERT INTO shop.packed SELECT seq, REPEAT(MD5(seq), 20) FROM shop.seq_1_to_800",
        "CREATE TABLE shop.zip (id INT PRIMARY KEY, v TEXT) ROW_FORMAT=COMPRESSED KEY_BLOCK_SIZE=8",
        "INSERT INTO shop.zip SELECT * FROM shop.packed",
        "CREATE TABLE shop.old (id INT, v TEXT) ENGINE=MyISAM",
        "CREATE TABLE shop.side (id INT, v TEXT) ENGINE=Aria",
        "CREATE TABLE shop.parts (id INT PRIMARY KEY, v INT) PARTITION BY HASH (id) PARTITIONS 3",
        "INSERT INTO shop.parts SELECT seq, seq FROM shop.seq_1_to_500",
        "CREATE TABLE shop.swap_a (id INT PRIMARY KEY)",
        "CREATE TABLE shop.swap_b (id INT PRIMARY KEY, v INT)",
        "INSERT INTO shop.swap_a VALUES (1)",
        "CREATE TABLE shop.cut (id INT PRIMARY KEY) AS SELECT seq AS id FROM shop.seq_1_to_2000",
        "CREATE TABLE a_b.gone (id INT PRIMARY KEY) AS SELECT seq AS id FROM shop.seq_1_to_2000",
    ):
        query(source, statement)
    administer = superuser(servers, bench.spec.id)
    administer("SET GLOBAL innodb_file_per_table = OFF", 10)
    query(source, "CREATE TABLE shop.`in the system's` (id INT PRIMARY KEY, v TEXT)")
    administer("SET GLOBAL innodb_file_per_table = ON", 10)
    return bench, source


def plain_bench(servers: Servers, settings: Settings, databases: Sequence[str]) -> tuple[ChainBench, InstanceResult]:
    """An instance with these databases, empty, and a client that owns them."""
    assert settings.state_dir is not None
    stores = LocalStores(settings.state_dir / "store")
    context = TaskContext(servers=servers, engines=servers.engines, stores=stores, settings=settings)
    spec = instance_spec(databases=databases, users=[user_spec("app", PASSWORD, databases)])
    return ChainBench(context=context, spec=spec), servers.create(spec, 1)


def tables_of(result: InstanceResult) -> dict[str, object]:
    """CHECKSUM TABLE of every table of the databases that are not the server's own."""
    names = query(
        result,
        "SELECT CONCAT('`', TABLE_SCHEMA, '`.`', TABLE_NAME, '`') FROM information_schema.TABLES "
        "WHERE TABLE_SCHEMA IN ('shop', 'a_b') ORDER BY 1",
    )
    return {row[0]: row[1] for row in query(result, "CHECKSUM TABLE " + ", ".join(name for (name,) in names))}


ROUNDS: Final = (
    (
        "UPDATE shop.t SET v = REVERSE(v) WHERE id % 7 = 0",
        "RENAME TABLE shop.swap_a TO shop.c, shop.swap_b TO shop.swap_a, shop.c TO shop.swap_b",
        "INSERT INTO shop.old VALUES (1, 'x')",
        "INSERT INTO shop.`in the system's` SELECT * FROM shop.packed",
    ),
    (
        "TRUNCATE TABLE shop.cut",
        "INSERT INTO shop.cut VALUES (7)",
        "DROP TABLE a_b.gone",
        "ALTER TABLE shop.t ADD COLUMN extra INT DEFAULT 5",
        "UPDATE shop.zip SET v = 'small' WHERE id % 3 = 0",
    ),
    (
        "OPTIMIZE TABLE shop.t",
        "ALTER TABLE shop.parts ADD PARTITION PARTITIONS 2",
        "CREATE TABLE a_b.fresh AS SELECT * FROM shop.t",
        "INSERT INTO shop.side VALUES (2, 'y')",
    ),
    (
        "RENAME TABLE a_b.fresh TO shop.moved",
        "UPDATE shop.packed SET v = REPEAT('abc', 300) WHERE id % 5 = 0",
        "DELETE FROM shop.t WHERE id > 2500",
        "ALTER TABLE shop.t DROP COLUMN extra, ALGORITHM=INSTANT",
    ),
)


@contextmanager
def writers(source: InstanceResult, *, definitions: bool = True) -> Iterator[None]:
    """Clients that change rows, and definitions too, all the time."""
    over = threading.Event()

    def write(statements: tuple[str, ...]) -> None:
        number = 0
        while not over.is_set():
            with suppress(pymysql.err.Error):  # the other one was faster
                query(source, statements[number % len(statements)])
            number += 1

    rows = (
        "UPDATE shop.t SET v = MD5(RAND()) WHERE id % 97 = 5",
        "INSERT INTO shop.t (v, n) SELECT MD5(seq), seq FROM shop.seq_1_to_50",
        "UPDATE shop.packed SET v = REPEAT(MD5(RAND()), 20) WHERE id % 50 = 1",
        "DELETE FROM shop.t WHERE id % 61 = 3",
        "INSERT INTO shop.old VALUES (3, 'z')",
    )
    changes = (
        "CREATE OR REPLACE TABLE a_b.brief AS SELECT * FROM shop.parts",
        "RENAME TABLE a_b.brief TO a_b.named",
        "TRUNCATE TABLE shop.cut",
        "INSERT INTO shop.cut SELECT seq FROM shop.seq_1_to_900",
        "ALTER TABLE shop.zip FORCE",
        "DROP TABLE a_b.named",
    )
    threads = [
        threading.Thread(target=write, args=(statements,))
        for statements in ((rows, changes) if definitions else (rows,))
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()
