"""Chains of servers with options that our instances do not have: encryption, undo tablespaces, a binary log."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from snaphold.agent.chain import Chain
from snaphold.agent.context import TaskContext
from snaphold.config import Settings
from snaphold.engines.base import BackupMetadata, Engines, ServerAccess
from snaphold.engines.mariadb.engine import MariaDB
from snaphold.engines.mariadb.tool import MariaDBBackup
from snaphold.host.servers import Servers
from snaphold.protocol import InstanceResult
from tests.support.chains import ROUNDS, ChainBench, chain_bench, tables_of, writers
from tests.support.engine import settings_with_options
from tests.support.instances import connect, query, superuser, wait_for
from tests.support.servers import installation_of, open_servers

pytestmark = pytest.mark.engine

KEYS = "1;770A8A65DA156D24EE2A093277530142\n"
SECRET = "plain words"
AT_ONCE_BYTES = (64 << 20) + (10 << 20)  # what the tool writes of a .delta, and what it reads of a file
UNDO_TABLESPACES = 3
SMALL_UNDO_BYTES = 10 << 20  # what an undo tablespace has when it is made, and when it was truncated


@pytest.fixture
def bench(host_settings: Settings, tmp_path: Path) -> tuple[ChainBench, InstanceResult]:
    """An instance of a server that encrypts all data, and writes a binary log."""
    keys = tmp_path / "keys"
    keys.write_text(KEYS)
    keys.chmod(0o600)
    settings = host_settings.model_copy(update={"encryption_key_file": keys})
    settings = settings_with_options(settings, "--log-bin=binlog", "--server-id=7")
    return chain_bench(open_servers(settings), settings)


def gtid(chain: ChainBench) -> str | None:
    """Where the newest backup says that it stands in the binary log."""
    return Chain.opened(chain.context.stores, chain.links).newest.lineage.gtid


def test_encrypted_data_comes_back(bench: tuple[ChainBench, InstanceResult]) -> None:
    """With encrypted tables and an encrypted redo log: overlaid, in turn and merged are equal, and stay encrypted."""
    chain, source = bench
    query(source, f"UPDATE shop.t SET v = '{SECRET}' WHERE id BETWEEN 100 AND 600")
    with writers(source):
        chain.take(full=True)
        chain.take(named=False)  # of a table that is being rebuilt at this moment only a full one has all
        chain.take(named=False)
    for statements in ROUNDS:
        for statement in statements:
            query(source, statement)
        chain.take(named=False)
        assert gtid(chain) == query(source, "SELECT @@gtid_binlog_pos")[0][0]

    overlaid, files = chain.laid(Chain.overlay)
    in_turn, expected_files = chain.laid(Chain.apply_in_turn)
    merged, _ = chain.consolidate()
    restored = chain.restore(merged)
    assert tables_of(overlaid) == tables_of(in_turn) == tables_of(restored) == tables_of(source)
    assert files == expected_files
    assert query(restored, f"SELECT COUNT(*) FROM shop.t WHERE v = '{SECRET}'") != [(0,)]
    for instance_id in chain.context.servers.ids():
        data = chain.context.servers.access(instance_id).data_directory
        assert [path for path in data.rglob("t.ibd") if SECRET.encode() in path.read_bytes()] == []


@contextmanager
def commits(source: InstanceResult) -> Iterator[None]:
    """A client that commits one row after the other, and nobody else does."""
    over = threading.Event()

    def write() -> None:
        while not over.is_set():
            query(source, "INSERT INTO shop.swap_b (v) SELECT COUNT(*) FROM shop.swap_b")

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_the_position_is_the_moments(bench: tuple[ChainBench, InstanceResult]) -> None:
    """The GTID of a backup that is taken while a client commits counts exactly the commits that are in it."""
    chain, source = bench
    query(source, "ALTER TABLE shop.swap_b MODIFY id INT AUTO_INCREMENT")
    position = str(query(source, "SELECT @@gtid_binlog_pos")[0][0])
    with commits(source):
        chain.take(full=True)
        chain.take()
    ((count,),) = query(chain.restore(), "SELECT COUNT(*) FROM shop.swap_b")
    assert gtid(chain) == f"0-7-{int(position.rpartition('-')[2]) + count}"
    assert count > 0


# Undo tablespaces of their own, truncated as soon as they may be. A start makes them when the last stop left no undo.
UNDO_OPTIONS = (
    f"--innodb-undo-tablespaces={UNDO_TABLESPACES}",
    "--innodb-undo-log-truncate",
    f"--innodb-max-undo-log-size={SMALL_UNDO_BYTES}",
    "--innodb-purge-rseg-truncate-frequency=1",
)


class Undo:
    """The undo tablespaces of the chain's instance."""

    def __init__(self, chain: ChainBench, source: InstanceResult) -> None:
        self._access, self._source = chain.context.servers.access(chain.spec.id), source
        superuser(chain.context.servers, chain.spec.id)("SET GLOBAL innodb_fast_shutdown = 0", 10)
        chain.context.servers.stop(chain.spec.id)
        chain.context.servers.start(chain.spec.id)
        self._superuser = superuser(chain.context.servers, chain.spec.id)
        assert len(self.sizes) == UNDO_TABLESPACES
        query(source, "CREATE TABLE shop.wide (id INT PRIMARY KEY, v VARCHAR(1000))")
        query(source, "INSERT INTO shop.wide SELECT seq, REPEAT(MD5(seq), 30) FROM shop.seq_1_to_8000")

    @property
    def truncations(self) -> int:
        """How many there were since the server was started."""
        return int(self._access.administer("SHOW GLOBAL STATUS LIKE 'Innodb_undo_truncations'", 10)[0][1])

    @property
    def sizes(self) -> dict[str, int]:
        """The files' bytes."""
        return {path.name: path.stat().st_size for path in self._access.data_directory.glob("undo00?")}

    @contextmanager
    def grown(self, *changes: int) -> Iterator[Callable[[], None]]:
        """One transaction changes all rows so many times, then the next; an older reader still needs what was there.

        Each time that is 8 MB more in the transaction's undo tablespace. What is yielded ends the reader, and returns
        when all were truncated that had grown.
        """
        with closing(connect(self._source)) as reader, closing(connect(self._source)) as writer:
            reader.cursor().execute("START TRANSACTION WITH CONSISTENT SNAPSHOT")
            for times in changes:
                writer.begin()
                for _ in range(times):
                    writer.cursor().execute("UPDATE shop.wide SET v = CONCAT(SUBSTR(v, 2), LEFT(v, 1))")
                writer.commit()
            before = self.truncations

            def are_small() -> bool:
                query(self._source, "UPDATE shop.parts SET v = v + 1 WHERE id = 1")  # the server looks after commits
                self._superuser("SET GLOBAL innodb_max_purge_lag_wait = 0", 30)  # returns when it has
                return set(self.sizes.values()) == {SMALL_UNDO_BYTES}

            def release() -> None:
                reader.rollback()
                wait_for(are_small, "the truncations")
                assert self.truncations > before

            yield release


class WatchedBackup(MariaDBBackup):
    """A backup of which each piece is shown as it comes; the tool, whose pipe is full, waits meanwhile."""

    def __init__(self, backup: MariaDBBackup, show: Callable[[bytes], None]) -> None:
        self._backup, self._show = backup, show

    def readinto(self, buffer: memoryview) -> int:
        """The next piece."""
        count = self._backup.readinto(buffer)
        self._show(bytes(buffer[:count]))
        return count

    def kill(self) -> None:
        """End the tool."""
        self._backup.kill()

    def taken(self, captured: Mapping[str, bytes]) -> BackupMetadata:
        """The facts."""
        return self._backup.taken(captured)


class WatchedEngine(MariaDB):
    """Does something in the middle of a backup, once a file of this name has begun to come."""

    def __init__(self, servers: Servers) -> None:
        super().__init__(installation_of(servers))
        self.to_come: dict[str, Callable[[], None]] = {}

    @contextmanager
    def take(
        self, server: ServerAccess, *, parent_lsn: int | None, lock_wait_timeout_s: float
    ) -> Iterator[MariaDBBackup]:
        """Nothing else is different."""
        with super().take(server, parent_lsn=parent_lsn, lock_wait_timeout_s=lock_wait_timeout_s) as backup:
            yield WatchedBackup(backup, self._look)

    def _look(self, piece: bytes) -> None:
        for name in [name for name in self.to_come if name.encode() in piece]:
            self.to_come.pop(name)()


def test_undo_tablespaces_that_are_truncated(host_settings: Settings) -> None:
    """Truncated between backups and while one is taken: each moment comes back equal, and no file is longer.

    The tool finds a file shorter then than it was, and leaves the rest out. Undone changes need the undo that is new.
    """
    settings = settings_with_options(host_settings, *UNDO_OPTIONS)
    chain, source = chain_bench(open_servers(settings), settings)
    engine = WatchedEngine(chain.context.servers)
    chain.context = TaskContext(
        servers=chain.context.servers,
        engines=Engines([engine]),
        stores=chain.context.stores,
        settings=chain.context.settings,
    )
    undo = Undo(chain, source)
    with undo.grown(2, 2, 2) as truncated:
        chain.take(full=True)
        truncated()
    chain.take()
    with undo.grown(2, 10, 2) as truncated:
        longest = max(undo.sizes, key=undo.sizes.__getitem__)
        assert undo.sizes[longest] > AT_ONCE_BYTES  # when the first of it comes, the tool has not read the rest
        engine.to_come = {f"{longest}.delta": truncated}
        chain.take()
        assert not engine.to_come
    during = tables_of(source)
    with closing(connect(source)) as writer:
        writer.begin()
        writer.cursor().execute("UPDATE shop.wide SET v = 'not yet'")
        chain.take()
        newest = tables_of(source)
        overlaid, files = chain.laid(Chain.overlay)
        in_turn, expected_files = chain.laid(Chain.apply_in_turn)
        merged, _ = chain.consolidate()
        assert tables_of(overlaid) == tables_of(in_turn) == tables_of(chain.restore(merged)) == newest
    assert files == expected_files
    assert tables_of(chain.restore(chain.links[:3])) == during
