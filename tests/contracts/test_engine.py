"""What every engine must do (engines/base.py), on its real server and its real tool."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import pymysql
import pytest

from snaphold.config import Settings
from snaphold.engines.base import BackupStream, Engine
from snaphold.errors import Permanent, Superseded
from snaphold.host.servers import Servers
from snaphold.protocol import InstanceResult, InstanceSpec
from tests.conftest import processes_naming
from tests.support.backups import BUFFER, extract, restore, take_to_file
from tests.support.instances import PASSWORD, connect, instance_spec, query, user_spec
from tests.support.servers import installation_of, mariadb_of, open_servers

pytestmark = pytest.mark.engine

ENGINES: dict[str, Callable[[Servers], Engine]] = {"mariadb": mariadb_of}


@dataclass(kw_only=True)
class Bench:
    """An engine, a host, and a source with something in it."""

    engine: Engine
    servers: Servers
    spec: InstanceSpec
    source: InstanceResult
    directory: Path

    def take(self, name: str = "full", **options: float | None) -> Path:
        """Take a backup into a file."""
        target = self.directory / f"{name}.xbstream"
        access = self.servers.access(self.spec.id)
        take_to_file(self.engine, access, target, **options)  # type: ignore[arg-type]
        return target


@pytest.fixture(params=ENGINES)
def bench(request: pytest.FixtureRequest, host_settings: Settings, tmp_path: Path) -> Bench:
    """A source with tables of several kinds, views, routines, and users of several hosts."""
    servers = open_servers(host_settings)
    users = [user_spec("app", PASSWORD, ["shop"]), user_spec("reader", "it's", [], host="127.%")]
    spec = instance_spec(databases=("shop", "a_b"), users=users)
    source = servers.create(spec, 1)
    for statement in (
        "CREATE TABLE shop.orders (id INT PRIMARY KEY AUTO_INCREMENT, v VARCHAR(200)) ENGINE=InnoDB",
        "CREATE TABLE shop.old (id INT, v TEXT) ENGINE=MyISAM",
        "CREATE TABLE shop.side (id INT, v TEXT) ENGINE=Aria",
        "CREATE TABLE shop.parts (id INT) PARTITION BY HASH (id) PARTITIONS 4",
        "CREATE VIEW shop.seen AS SELECT COUNT(*) AS n FROM shop.orders",
        "CREATE PROCEDURE shop.nothing() SELECT 1",
        "INSERT INTO shop.orders (v) SELECT REPEAT('x', seq MOD 200) FROM shop.seq_1_to_900",
        "INSERT INTO shop.old SELECT id, v FROM shop.orders",
        "INSERT INTO shop.side SELECT id, v FROM shop.orders",
        "INSERT INTO shop.parts SELECT id FROM shop.orders",
    ):
        query(source, statement)
    engine = ENGINES[request.param](servers)
    return Bench(engine=engine, servers=servers, spec=spec, source=source, directory=tmp_path)


TABLES = "shop.orders, shop.old, shop.side, shop.parts"


def _drain(stream: BackupStream) -> None:
    buffer = memoryview(bytearray(BUFFER))
    while stream.readinto(buffer):
        pass


def _checksums(result: InstanceResult) -> list[tuple[object, ...]]:
    return query(result, f"CHECKSUM TABLE {TABLES}")


def _accounts(servers: Servers, instance_id: str) -> list[tuple[object, ...]]:
    """Users with their password hashes and rights, but for the host's own accounts, which are made anew."""
    administer = servers.access(instance_id).administer
    return administer(
        "SELECT Host, User, Priv FROM mysql.global_priv WHERE User NOT LIKE 'snaphold%' ORDER BY User, Host", 10
    ) + administer("SELECT * FROM mysql.db ORDER BY User, Host, Db", 10)


def test_what_was_taken_comes_back(bench: Bench) -> None:
    """A backup prepared and started has the source's tables, views, users, grants and passwords, and new internals."""
    stream = bench.take()
    wanted = _checksums(bench.source)
    query(bench.source, "DELETE FROM shop.orders")
    copy = instance_spec(databases=(), users=[])

    result = restore(bench.engine, bench.servers, stream, copy)

    assert _checksums(result) == wanted
    assert result.address != bench.source.address
    assert query(result, "SELECT n FROM shop.seen") == [(900,)]
    assert query(result, "CALL shop.nothing()") == [(1,)]
    assert query(result, "SELECT CURRENT_USER()", "reader", "it's") == [("reader@127.%",)]
    assert _accounts(bench.servers, copy.id) == _accounts(bench.servers, bench.spec.id)
    directory = bench.servers.access(copy.id).data_directory.parent
    source_directory = bench.servers.access(bench.spec.id).data_directory.parent
    for name in ("admin.cnf", "backup.cnf"):
        assert (directory / name).read_bytes() != (source_directory / name).read_bytes()
    assert bench.servers.incarnation(copy.id) != bench.servers.incarnation(bench.spec.id)
    assert [path.name for path in (directory / "data").glob("xtrabackup*")] == []
    assert [path.name for path in directory.glob("restore.*")] == []


@pytest.mark.parametrize("name", ENGINES)
def test_a_path_may_hold_any_letter(name: str, state_dir: Path, tmp_path: Path, instance_network: str) -> None:
    """What means something in an option file, a list or a URL is a letter in the state directory's path."""
    odd = state_dir / "a#b \"c' \\s;d:e%41?f=g"
    odd.mkdir()
    (state_dir / "template").rename(odd / "template")
    servers = open_servers(Settings(state_dir=odd, instance_networks=[instance_network]))
    spec, copy = instance_spec(), instance_spec(databases=(), users=[])
    source = servers.create(spec, 1)
    query(source, "CREATE TABLE shop.t AS SELECT seq FROM shop.seq_1_to_5")
    stream = tmp_path / "full.xbstream"
    take_to_file(ENGINES[name](servers), servers.access(spec.id), stream)
    result = restore(ENGINES[name](servers), servers, stream, copy)
    assert query(result, "SELECT COUNT(*) FROM shop.t") == [(5,)]


def test_what_is_in_the_backup_stays_as_it_was(bench: Bench) -> None:
    """Databases and users asked for with a restore are added where they are missing, and only there."""
    stream = bench.take()
    wanted = _checksums(bench.source)
    copy = instance_spec(
        databases=("shop", "fresh"), users=[user_spec("app", "other", ["fresh"]), user_spec("new", "n", ["fresh"])]
    )

    result = restore(bench.engine, bench.servers, stream, copy)

    assert _checksums(result) == wanted
    assert query(result, "SELECT 1", "app", PASSWORD) == [(1,)]
    with pytest.raises(pymysql.err.OperationalError, match="Access denied"):
        connect(result, "app", PASSWORD, "fresh")
    assert query(result, "SELECT DATABASE()", "new", "n", "fresh") == [("fresh",)]


def test_a_backup_of_a_restored_instance_can_be_taken(bench: Bench) -> None:
    """A restored server is a server like any other: it restarts, and can be backed up and restored once more."""
    first = instance_spec(databases=(), users=[])
    restore(bench.engine, bench.servers, bench.take(), first)
    bench.servers.restart(first.id)
    target = bench.directory / "again.xbstream"
    access = bench.servers.access(first.id)
    take_to_file(bench.engine, access, target)
    second = instance_spec(databases=(), users=[])
    assert _checksums(restore(bench.engine, bench.servers, target, second)) == _checksums(bench.source)


def test_the_facts_are_the_streams_own(bench: Bench) -> None:
    """Versions and positions come from the stream: a full starts nowhere, its checkpoint is not after its end."""
    access = bench.servers.access(bench.spec.id)
    target = bench.directory / "facts.xbstream"
    taken = take_to_file(bench.engine, access, target)
    assert taken.from_lsn is None
    assert taken.checkpoint_lsn is not None
    assert 0 < taken.checkpoint_lsn <= taken.to_lsn <= taken.last_lsn
    assert taken.server_version == installation_of(bench.servers).version
    assert taken.tool_version == installation_of(bench.servers).version


def test_an_increment_is_taken_from_its_parents_checkpoint(bench: Bench) -> None:
    """With a parent's LSN the stream says so, and is smaller than a full one."""
    access = bench.servers.access(bench.spec.id)
    full, increment = bench.directory / "full.xbstream", bench.directory / "increment.xbstream"
    parent = take_to_file(bench.engine, access, full)
    query(bench.source, "INSERT INTO shop.orders (v) VALUES ('later')")
    child = take_to_file(bench.engine, access, increment, parent_lsn=parent.checkpoint_lsn)
    assert child.from_lsn == parent.checkpoint_lsn
    assert child.last_lsn > parent.last_lsn  # whether a checkpoint came between is the server's to say
    assert increment.stat().st_size < full.stat().st_size / 2


def test_a_parent_of_the_future_is_refused(bench: Bench) -> None:
    """A parent's LSN above the server's gives a stream that only looks good: Permanent, at the latest at its end."""
    with pytest.raises(Permanent):
        bench.take("future", parent_lsn=1 << 50)


def test_a_lock_that_is_not_released_ends_the_backup(bench: Bench) -> None:
    """A client's table lock is waited for as long as is allowed; then Permanent says so, and nothing waits on."""
    with closing(connect(bench.source)) as client, client.cursor() as cursor:
        cursor.execute("SELECT CONNECTION_ID()")
        (number,) = cursor.fetchone() or (0,)
        cursor.execute("LOCK TABLES shop.orders WRITE")
        with pytest.raises(Permanent, match="a table lock held by a client was not released within 1 s") as failed:
            bench.take("locked", lock_wait_timeout_s=1)
        assert "shop.orders" in str(failed.value)
        assert f"connection {number} of user app" in str(failed.value)
        cursor.execute("UNLOCK TABLES")
    assert query(bench.source, "INSERT INTO shop.orders (v) VALUES ('free')") == []
    bench.take("free")


def test_a_lock_that_is_released_in_time_hinders_nothing(bench: Bench) -> None:
    """The backup waits for the lock, and completes."""
    started = threading.Event()
    access = bench.servers.access(bench.spec.id)
    with closing(connect(bench.source)) as client, client.cursor() as cursor, ThreadPoolExecutor(1) as pool:
        cursor.execute("LOCK TABLES shop.orders WRITE")
        backup = pool.submit(
            take_to_file,
            bench.engine,
            access,
            bench.directory / "patient.xbstream",
            started=started,
        )
        assert started.wait(30)
        with suppress(TimeoutError):
            backup.result(timeout=1.5)
        assert not backup.done()
        cursor.execute("UNLOCK TABLES")
        assert backup.result(timeout=60).to_lsn > 0


def test_a_killed_tool_is_a_failed_read(bench: Bench) -> None:
    """Whoever reads learns of the tool's end, by exception, before the stream seems to be complete."""
    access = bench.servers.access(bench.spec.id)
    with bench.engine.take(access, parent_lsn=None, lock_wait_timeout_s=60) as stream:
        assert stream.readinto(memoryview(bytearray(4096))) > 0
        stream.kill()
        with pytest.raises(Permanent, match="SIGKILL"):
            _drain(stream)


def test_leaving_early_ends_the_tool(bench: Bench) -> None:
    """A backup that is abandoned leaves no process behind, and the facts of an unfinished one are not to be had."""
    access = bench.servers.access(bench.spec.id)
    with bench.engine.take(access, parent_lsn=None, lock_wait_timeout_s=60) as stream:
        assert stream.readinto(memoryview(bytearray(4096))) > 0
        with pytest.raises(Permanent, match="not read to its end"):
            stream.taken({})
    assert processes_naming(access.scratch) == []
    bench.take("next")


def test_a_dying_server_is_a_failed_read(bench: Bench) -> None:
    """When the source is killed in the middle, the stream never ends well."""
    access = bench.servers.access(bench.spec.id)
    with closing(connect(bench.source)) as client, client.cursor() as cursor:
        cursor.execute("LOCK TABLES shop.orders WRITE")  # so that the tool is surely not done yet
        with bench.engine.take(access, parent_lsn=None, lock_wait_timeout_s=60) as stream:
            bench.servers.stop(bench.spec.id, patience_s=0)
            with pytest.raises(Permanent):
                _drain(stream)


def test_a_server_that_is_not_there_is_refused(bench: Bench) -> None:
    """No tool is started for a server that does not answer."""
    bench.servers.stop(bench.spec.id)
    with pytest.raises(Permanent):
        bench.take("nothing")


def test_another_series_of_server_is_refused(bench: Bench) -> None:
    """The tool is bound to its server's series: another one would give a stream that only looks good."""
    access = bench.servers.access(bench.spec.id)

    class Newer:
        """The same server, which calls itself a newer one."""

        def __call__(self, statement: str, timeout_s: float) -> list[tuple[object, ...]]:
            rows = access.administer(statement, timeout_s)
            return [("11.8.3-MariaDB",)] if "version" in statement else rows

    other = type(access)(**{**access.__dict__, "administer": Newer()})
    with (
        pytest.raises(Permanent, match=r"MariaDB 11\.8\.3.* for 10\.11"),
        bench.engine.take(other, parent_lsn=None, lock_wait_timeout_s=60),
    ):
        raise AssertionError("a tool was started")


def test_files_that_are_no_backup_cannot_be_prepared(bench: Bench) -> None:
    """A damaged extract is Permanent, with the tool's own words, and no server is started on it."""
    stream = bench.take()
    copy = instance_spec(databases=(), users=[])
    staging = bench.servers.staging(copy, 1)
    extract(installation_of(bench.servers), stream, staging.directory, uid=staging.uid, gid=staging.gid)
    redo = staging.directory / "ib_logfile0"
    redo.write_bytes(b"\0" * redo.stat().st_size)
    with pytest.raises(Permanent):
        bench.engine.prepare(staging.directory, uid=staging.uid, gid=staging.gid, memory_bytes=staging.memory_bytes)
    assert [path.name for path in staging.directory.parent.glob("prepare.*")] == ["prepare.log"]  # no keys, no options
    bench.servers.discard_attempt(copy.id, 1)
    assert not staging.directory.parent.exists()


def test_a_stopped_preparation_ends_at_once(bench: Bench) -> None:
    """Whoever was superseded can end a preparation; it writes nothing more."""
    copy = instance_spec(databases=(), users=[])
    stream = bench.take()
    staging = bench.servers.staging(copy, 1)
    extract(installation_of(bench.servers), stream, staging.directory, uid=staging.uid, gid=staging.gid)
    stop = threading.Event()
    stop.set()
    with suppress(Superseded):  # it may have been faster
        bench.engine.prepare(
            staging.directory, uid=staging.uid, gid=staging.gid, memory_bytes=staging.memory_bytes, stop=stop
        )
    assert processes_naming(staging.directory) == []


def test_the_tool_has_only_the_rights_it_needs(bench: Bench) -> None:
    """The backup account cannot read or change data: the password in its file opens no more than a backup."""
    access = bench.servers.access(bench.spec.id)
    grants = access.administer("SHOW GRANTS FOR 'snaphold_backup'@'localhost'", 10)
    assert [str(row[0]).split(" TO ")[0] for row in grants] == [
        "GRANT RELOAD, PROCESS, LOCK TABLES, BINLOG MONITOR ON *.*"
    ]
