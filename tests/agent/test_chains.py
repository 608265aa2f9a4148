"""Chains on the real engine: taken by the agent, and brought back to the very moment, whatever went on meanwhile."""

import pytest

from snaphold.agent.room import Room
from snaphold.config import Settings
from snaphold.engines.mariadb import MariaDB
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
