"""Chains on the real engine: taken by the agent, and brought back to the very moment, whatever went on meanwhile."""

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pymysql
import pytest

from snaphold.agent.chain import Chain
from snaphold.agent.room import Room
from snaphold.config import Settings
from snaphold.engines.base import ServerAccess
from snaphold.engines.mariadb import MariaDB, MariaDBBackup
from snaphold.errors import Damaged, ObjectMissing, Permanent
from snaphold.host.servers import Servers
from snaphold.protocol import InstanceResult
from snaphold.store.local import LocalStores
from tests.support.chains import ChainBench
from tests.support.instances import PASSWORD, instance_spec, query, user_spec

pytestmark = pytest.mark.engine


@pytest.fixture
def bench(host_settings: Settings) -> tuple[ChainBench, InstanceResult]:
    """An instance with tables of every kind."""
    assert host_settings.state_dir is not None
    servers = Servers(host_settings)
    stores = LocalStores(host_settings.state_dir / "store")
    room = Room(
        servers=servers, engines={"mariadb": MariaDB(servers.installation)}, stores=stores, settings=host_settings
    )
    spec = instance_spec(databases=("shop", "a_b"), users=[user_spec("app", PASSWORD, ["shop", "a_b"])])
    source = servers.create(spec, 1)
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
    return ChainBench(room=room, spec=spec), source


def tables_of(result: InstanceResult) -> dict[str, object]:
    """CHECKSUM TABLE of every table of the databases that are not the server's own."""
    names = query(
        result,
        "SELECT CONCAT('`', TABLE_SCHEMA, '`.`', TABLE_NAME, '`') FROM information_schema.TABLES "
        "WHERE TABLE_SCHEMA IN ('shop', 'a_b') ORDER BY 1",
    )
    return {row[0]: row[1] for row in query(result, "CHECKSUM TABLE " + ", ".join(name for (name,) in names))}


ROUNDS = (
    (
        "UPDATE shop.t SET v = REVERSE(v) WHERE id % 7 = 0",
        "RENAME TABLE shop.swap_a TO shop.c, shop.swap_b TO shop.swap_a, shop.c TO shop.swap_b",
        "INSERT INTO shop.old VALUES (1, 'x')",
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


def test_a_chain_comes_back_to_each_moment(bench: tuple[ChainBench, InstanceResult]) -> None:
    """Whatever DDL goes on between the backups, and a killed server too: overlaid, in turn and merged are equal."""
    chain, source = bench
    chain.take(full=True)
    moments = [tables_of(source)]
    for number, statements in enumerate(ROUNDS):
        for statement in statements:
            query(source, statement)
        if number == 1:
            chain.room.servers.stop(chain.spec.id, patience_s=0)
            chain.room.servers.start(chain.spec.id)
        taken = chain.take()
        assert taken.from_lsn is not None
        moments.append(tables_of(source))

    assert tables_of(chain.restore()) == moments[-1]
    assert tables_of(chain.restore(chain.links[:3])) == moments[2]
    merged, result = chain.consolidate()
    assert (result.parent_id, result.from_lsn, result.checkpoint_lsn) == (None, None, chain.results[-1].checkpoint_lsn)
    assert tables_of(chain.restore(merged)) == moments[-1]


@contextmanager
def writers(source: InstanceResult) -> Iterator[None]:
    """Clients that change rows and definitions all the time."""
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
    definitions = (
        "CREATE OR REPLACE TABLE a_b.brief AS SELECT * FROM shop.parts",
        "RENAME TABLE a_b.brief TO a_b.named",
        "TRUNCATE TABLE shop.cut",
        "INSERT INTO shop.cut SELECT seq FROM shop.seq_1_to_900",
        "ALTER TABLE shop.zip FORCE",
        "DROP TABLE a_b.named",
    )
    threads = [threading.Thread(target=write, args=(statements,)) for statements in (rows, definitions)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_the_tools_own_way_ends_in_the_same(bench: tuple[ChainBench, InstanceResult]) -> None:
    """Taken while clients write and change definitions, a chain laid over is what the tool makes of it in turn."""
    chain, source = bench
    with writers(source):
        chain.take(full=True)
        for _ in range(4):
            chain.take()
    overlaid, files = chain.laid(Chain.overlay)
    in_turn, expected_files = chain.laid(Chain.apply_in_turn)
    merged, _ = chain.consolidate()

    assert tables_of(overlaid) == tables_of(in_turn) == tables_of(chain.restore(merged))
    assert files == expected_files


class StockEngine(MariaDB):
    """Takes increments as people do with the tool alone: from where the parent ended, not where it began."""

    def __init__(self, servers: Servers, chain: ChainBench) -> None:
        super().__init__(servers.installation)
        self._chain = chain

    @contextmanager
    def take(
        self, server: ServerAccess, *, parent_lsn: int | None, lock_wait_timeout_s: float
    ) -> Iterator[MariaDBBackup]:
        """From the parent's last position."""
        ended = None if parent_lsn is None else self._chain.last_lsn
        with super().take(server, parent_lsn=ended, lock_wait_timeout_s=lock_wait_timeout_s) as stream:
            yield stream


def test_a_chain_of_other_making_is_applied_in_turn(bench: tuple[ChainBench, InstanceResult]) -> None:
    """Increments taken from where their parents ended cannot be laid over: the tool applies them; none is merged."""
    chain, source = bench
    chain.room = Room(
        servers=chain.room.servers,
        engines={"mariadb": StockEngine(chain.room.servers, chain)},
        stores=chain.room.stores,
        settings=chain.room.settings,
    )
    with writers(source):
        chain.take(full=True)
        chain.take()
    for statement in ROUNDS[0]:
        query(source, statement)
    chain.take()

    assert not Chain.opened(chain.room.stores, chain.links).overlays
    assert tables_of(chain.restore()) == tables_of(source)
    with pytest.raises(Permanent, match="cannot be merged"):
        chain.consolidate()


def test_a_deep_chain(bench: tuple[ChainBench, InstanceResult]) -> None:
    """Twenty increments of increments: all tables, users and rights are those of the moment."""
    chain, source = bench
    chain.take(full=True)
    for number in range(20):
        query(source, f"UPDATE shop.t SET v = 'round {number}' WHERE id % 31 = {number}")
        query(source, f"CREATE TABLE a_b.t{number} (id INT PRIMARY KEY) AS SELECT {number} AS id")
        if number == 18:
            administer = chain.room.servers.access(chain.spec.id).administer
            administer("CREATE USER late@'%' IDENTIFIED BY 'pw'", 10)
            administer("GRANT SELECT ON shop.* TO late@'%'", 10)
        chain.take()

    restored = chain.restore()
    assert tables_of(restored) == tables_of(source)
    assert query(restored, "SHOW GRANTS", "late", "pw") == query(source, "SHOW GRANTS", "late", "pw")


def test_an_increment_on_a_merged_backup(bench: tuple[ChainBench, InstanceResult]) -> None:
    """A consolidated backup is a parent like the one that it was made from, whose objects it does not need."""
    chain, source = bench
    chain.take(full=True)
    query(source, "UPDATE shop.t SET v = 'first' WHERE id % 3 = 0")
    chain.take()
    old = chain.links
    chain.links, _ = chain.consolidate()
    store = chain.room.stores.of("1234")
    for info in [info for info in store.list("") if any(info.name.startswith(link.backup_id) for link in old)]:
        store.delete(info.name)
    query(source, "UPDATE shop.t SET v = 'second' WHERE id % 5 = 0")
    chain.take()
    assert tables_of(chain.restore()) == tables_of(source)


def test_another_life_of_the_data_is_no_parent(bench: tuple[ChainBench, InstanceResult]) -> None:
    """On a parent of another incarnation: refused where it was named, a full backup where it was not."""
    chain, source = bench
    chain.take(full=True)
    data = chain.room.servers.access(chain.spec.id).data_directory
    chain.room.servers.stop(chain.spec.id)
    shutil.copytree(data, data.with_name("other"))
    for path in (data.with_name("other"), *data.with_name("other").rglob("*")):
        shutil.chown(path, data.stat().st_uid, data.stat().st_gid)
    shutil.rmtree(data)
    data.with_name("other").rename(data)
    chain.room.servers.start(chain.spec.id)

    with pytest.raises(Permanent, match="restored or replaced since its parent"):
        chain.take()
    assert chain.take(named=False).parent_id is None
    assert tables_of(chain.restore()) == tables_of(source)


def test_an_imported_tablespace_is_not_lost(bench: tuple[ChainBench, InstanceResult]) -> None:
    """No increment holds an imported tablespace: a named parent is refused, without one a full backup is taken."""
    chain, source = bench
    chain.take(full=True)
    data = chain.room.servers.access(chain.spec.id).data_directory
    administer = chain.room.servers.access(chain.spec.id).administer
    administer("CREATE TABLE shop.copy LIKE shop.zip", 10)
    administer("ALTER TABLE shop.copy DISCARD TABLESPACE", 10)
    with pytest.raises(Permanent, match="has no data of the table shop/copy"):
        chain.take()
    chain.room.servers.stop(chain.spec.id)
    saved = data.with_name("saved.ibd")
    shutil.copy2(data / "shop" / "zip.ibd", saved)
    shutil.chown(saved, data.stat().st_uid, data.stat().st_gid)
    chain.room.servers.start(chain.spec.id)
    saved.rename(data / "shop" / "copy.ibd")
    administer("ALTER TABLE shop.copy IMPORT TABLESPACE", 10)

    with pytest.raises(Permanent, match="a tablespace was imported since"):
        chain.take()
    assert chain.take(named=False).parent_id is None
    query(source, "UPDATE shop.copy SET v = 'later' WHERE id = 7")
    assert chain.take().from_lsn is not None
    assert tables_of(chain.restore()) == tables_of(source)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_damaged_link_is_found_before_a_server_is_touched(bench: tuple[ChainBench, InstanceResult]) -> None:
    """Whichever object of whichever link is gone, cut or exchanged: the restore is refused, and it is named."""
    chain, source = bench
    chain.take(full=True)
    for number in range(2):
        query(source, f"UPDATE shop.t SET v = {number}")
        chain.take()
    before = chain.room.servers.ids()
    assert chain.room.settings.state_dir is not None
    container = next((chain.room.settings.state_dir / "store").rglob(f"{chain.links[0].backup_id}.json")).parent
    for link in chain.links:
        manifest, data = (container / f"{link.backup_id}.{end}" for end in ("json", "xbstream.gz"))
        for path in (manifest, data):
            kept = path.read_bytes()
            path.unlink()
            with pytest.raises(ObjectMissing, match=path.name):
                chain.restore()
            path.write_bytes(kept[:-1])
            with pytest.raises(Damaged, match=path.name):
                chain.restore()
            path.write_bytes(kept)
            _flip(path)
            with pytest.raises(Damaged, match=path.name):
                chain.restore()
            path.write_bytes(kept)
    with pytest.raises(Damaged, match="was not made from"):
        chain.restore([chain.links[0], chain.links[2]])
    with pytest.raises(Damaged, match="begins with"):
        chain.restore(chain.links[1:])
    assert chain.room.servers.ids() == before
    assert tables_of(chain.restore()) == tables_of(source)
