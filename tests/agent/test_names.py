"""Names that customers give, and what else is called so in a data directory or a backup of it."""

import pytest

from snaphold.config import Settings
from snaphold.errors import Permanent
from snaphold.protocol import InstanceResult
from tests.support.chains import ChainBench, plain_bench
from tests.support.instances import query
from tests.support.servers import open_servers

pytestmark = pytest.mark.engine
TOOLS_NAMES = ("xtrabackup_history", "xtrabackup_info", "xtrabackup_binlog_info", "mariadb_backup_checkpoints")
LONGEST = "表数字库备" * 10  # 250 bytes in a file's name; with .ibd.meta 259, more than a file system takes


@pytest.fixture
def bench(host_settings: Settings) -> tuple[ChainBench, InstanceResult]:
    """An instance whose databases have the names of the backup tool's files."""
    return plain_bench(open_servers(host_settings), host_settings, (*TOOLS_NAMES, "app"))


def test_databases_and_tables_named_as_files_of_the_engine(bench: tuple[ChainBench, InstanceResult]) -> None:
    """Only regular files of exact names beside the databases are the tool's or a log: all else comes back, and counts.

    One that stands where the engine needs a file ends the backup with a reason, for it could not be restored.
    """
    chain, source = bench
    tables = [f"{name}.t" for name in TOOLS_NAMES]
    before = chain.context.servers.result(chain.spec.id).used_bytes
    for table, engine in (("app.aria_log_events", "Aria"), ("app.ib_logfile_x", "MyISAM"), ("app.ibtmp1", "MyISAM")):
        query(source, f"CREATE TABLE {table} (v CHAR(250)) ENGINE={engine}")
        query(source, f"INSERT INTO {table} SELECT 'x' FROM app.seq_1_to_4000")
    assert chain.context.servers.result(chain.spec.id).used_bytes > before + 3 * 4000 * 250
    for table in tables:
        query(source, f"CREATE TABLE {table} (a INT PRIMARY KEY)")
        query(source, f"INSERT INTO {table} VALUES (1)")
    chain.take(full=True)
    for table in tables:
        query(source, f"INSERT INTO {table} VALUES (2)")
    chain.take()

    merged, _ = chain.consolidate()

    for links, rows in ((chain.links[:1], [(1,)]), (chain.links, [(1,), (2,)]), (merged, [(1,), (2,)])):
        restored = chain.restore(links)
        assert {table: query(restored, f"SELECT a FROM {table} ORDER BY a") for table in tables} == dict.fromkeys(
            tables, rows
        )
        assert query(restored, "SELECT COUNT(*) FROM app.aria_log_events") == [(4000,)]

    chain.context.servers.access(chain.spec.id).administer("CREATE DATABASE xtrabackup_checkpoints", 10)
    with pytest.raises(Permanent, match="the database xtrabackup_checkpoints has the name of a file"):
        chain.take(full=True)


def test_table_names_that_an_increment_makes_longer(bench: tuple[ChainBench, InstanceResult]) -> None:
    """A name that fits a file fits every backup; where the tool takes none, an unnamed parent is no matter."""
    chain, _ = bench
    administer = chain.context.servers.access(chain.spec.id).administer
    administer(f"CREATE TABLE app.{LONGEST} (a INT PRIMARY KEY)", 10)
    administer(f"INSERT INTO app.{LONGEST} VALUES (1)", 10)
    chain.take(full=True)
    administer(f"INSERT INTO app.{LONGEST} VALUES (2)", 10)
    assert chain.take().from_lsn is not None
    merged, _ = chain.consolidate()
    for links, rows in ((chain.links[:1], [(1,)]), (chain.links, [(1,), (2,)]), (merged, [(1,), (2,)])):
        assert query(chain.restore(links), f"SELECT a FROM app.{LONGEST} ORDER BY a") == rows

    database = f"{LONGEST}表"  # 255 bytes, as many as a directory's name may have
    administer(f"CREATE DATABASE {database}", 10)
    administer(f"CREATE TABLE {database}.{LONGEST[:49]}a (a INT PRIMARY KEY)", 10)
    with pytest.raises(Permanent, match=f"a table of the database {database} has a name that is too long"):
        chain.take()
    assert chain.take(named=False).parent_id is None
    administer(f"CREATE TABLE {database}.{LONGEST} (a INT PRIMARY KEY)", 10)
    with pytest.raises(Permanent, match=f"a table of the database {database} has a name that is too long"):
        chain.take(full=True)
