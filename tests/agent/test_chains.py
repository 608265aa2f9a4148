"""Chains on the real engine: taken by the agent, and brought back to the very moment, whatever went on meanwhile."""

import shutil
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from snaphold.agent.chain import Chain
from snaphold.agent.context import TaskContext
from snaphold.agent.lease import Lease
from snaphold.config import Settings
from snaphold.engines.base import Engines, ServerAccess
from snaphold.engines.mariadb.engine import MariaDB
from snaphold.engines.mariadb.installation import Installation
from snaphold.engines.mariadb.tool import MariaDBBackup
from snaphold.errors import Damaged, ObjectMissing, Permanent
from snaphold.host.servers import Servers
from snaphold.protocol import InstanceResult
from snaphold.steps import Step
from tests.agent.test_agent import When
from tests.support.chains import ACCOUNT, ROUNDS, ChainBench, chain_bench, tables_of, writers
from tests.support.instances import connect, query, wait_for
from tests.support.servers import installation_of, open_servers

pytestmark = pytest.mark.engine


@pytest.fixture
def bench(host_settings: Settings) -> tuple[ChainBench, InstanceResult]:
    """An instance with tables of every kind."""
    return chain_bench(open_servers(host_settings), host_settings)


def test_a_chain_comes_back_to_each_moment(bench: tuple[ChainBench, InstanceResult]) -> None:
    """Whatever DDL goes on between the backups, and a killed server too: overlaid, in turn and merged are equal."""
    chain, source = bench
    chain.take(full=True)
    moments = [tables_of(source)]
    for number, statements in enumerate(ROUNDS):
        for statement in statements:
            query(source, statement)
        if number == 1:
            chain.context.servers.stop(chain.spec.id, patience_s=0)
            chain.context.servers.start(chain.spec.id)
        taken = chain.take()
        assert taken.from_lsn is not None
        moments.append(tables_of(source))

    assert tables_of(chain.restore()) == moments[-1]
    assert tables_of(chain.restore(chain.links[:3])) == moments[2]
    merged, result = chain.consolidate()
    assert (result.parent_id, result.from_lsn, result.checkpoint_lsn) == (None, None, chain.results[-1].checkpoint_lsn)
    assert tables_of(chain.restore(merged)) == moments[-1]
    blocks = {name: blocks_of_packed(chain, name) for name in chain.context.servers.ids()}
    source_blocks = blocks.pop(chain.spec.id)
    assert max(blocks.values()) <= source_blocks * 1.1


def blocks_of_packed(chain: ChainBench, instance_id: str) -> int:
    """The disk's blocks under an instance's page-compressed table."""
    data = chain.context.servers.access(instance_id).data_directory
    return (data / "shop" / "packed.ibd").lstat().st_blocks


def test_the_tools_own_way_ends_in_the_same(bench: tuple[ChainBench, InstanceResult]) -> None:
    """Taken while clients write and change definitions, a chain laid over is what the tool makes of it in turn."""
    chain, source = bench
    with writers(source):
        chain.take(full=True)
        for _ in range(4):
            chain.take(named=False)  # of a table that is being rebuilt at this moment only a full one has all
    overlaid, files = chain.laid(Chain.overlay)
    in_turn, expected_files = chain.laid(Chain.apply_in_turn)
    merged, _ = chain.consolidate()

    assert tables_of(overlaid) == tables_of(in_turn) == tables_of(chain.restore(merged))
    assert files == expected_files


class StockEngine(MariaDB):
    """Takes increments as people do with the tool alone: from where the parent ended, not where it began."""

    def __init__(self, servers: Servers, chain: ChainBench) -> None:
        super().__init__(installation_of(servers))
        self._chain = chain

    @contextmanager
    def take(
        self, server: ServerAccess, *, parent_lsn: int | None, lock_wait_timeout_s: float
    ) -> Iterator[MariaDBBackup]:
        """From the parent's last position, which a checkpoint must have passed."""
        ended = None if parent_lsn is None else self._chain.last_lsn
        server.checkpoint(60)
        with super().take(server, parent_lsn=ended, lock_wait_timeout_s=lock_wait_timeout_s) as stream:
            yield stream

    def cut_tables(self, captured: Mapping[str, bytes], unfinished: Collection[int]) -> list[str]:
        """Nobody asks."""
        del captured, unfinished
        return []


def stock(chain: ChainBench) -> None:
    """Have the chain taken so from now on."""
    chain.context = TaskContext(
        servers=chain.context.servers,
        engines=Engines([StockEngine(chain.context.servers, chain)]),
        stores=chain.context.stores,
        settings=chain.context.settings,
    )


def test_a_chain_of_other_making_is_applied_in_turn(bench: tuple[ChainBench, InstanceResult]) -> None:
    """Increments taken from where their parents ended cannot be laid over: the tool applies them; none is merged."""
    chain, source = bench
    stock(chain)
    with writers(source, definitions=False):
        chain.take(full=True)
        chain.take()
    for statement in ROUNDS[0]:
        query(source, statement)
    chain.take()

    assert not Chain.opened(chain.context.stores, chain.links).overlays
    assert tables_of(chain.restore()) == tables_of(source)
    with pytest.raises(Permanent, match="can only be restored, not merged"):
        chain.consolidate()


@contextmanager
def rebuilding(source: InstanceResult) -> Iterator[None]:
    """A table is rebuilt from before this until after it: all its rows are copied, but a client still reads it."""
    query(source, "CREATE TABLE shop.big (id INT PRIMARY KEY, v VARCHAR(600))")
    query(source, "INSERT INTO shop.big SELECT seq, REPEAT(MD5(seq), 15) FROM shop.seq_1_to_40000")
    with closing(connect(source)) as client, client.cursor() as cursor:
        thread = threading.Thread(target=query, args=(source, "ALTER TABLE shop.big FORCE, ALGORITHM=INPLACE"))
        cursor.execute("SET autocommit = 0")
        thread.start()
        state = "SELECT STATE FROM information_schema.PROCESSLIST WHERE INFO LIKE 'ALTER TABLE shop.big%'"
        wait_for(lambda: query(source, state) == [("altering table",)], "rows to be copied")
        cursor.execute("SELECT * FROM shop.big WHERE id = 1")
        wait_for(lambda: query(source, state) == [("Waiting for table metadata lock",)], "all of them to be")
        yield
        client.rollback()
        thread.join()


@pytest.mark.parametrize("made", ["by us", "by others"])
def test_a_table_that_is_rebuilt_meanwhile_is_not_lost(bench: tuple[ChainBench, InstanceResult], made: str) -> None:
    """A parent has nothing of a table that was being rebuilt all the while, so an increment on it has not all.

    Refused where the parent was named, a full backup where it was not. Where others took it, the restore is refused.
    """
    chain, source = bench
    if made == "by others":
        stock(chain)
    with rebuilding(source):
        chain.take(full=True)
    if made == "by others":
        chain.take()
        with pytest.raises(Permanent, match=r"did not apply the increments completely: .*big is not sound"):
            chain.restore()
        assert chain.context.servers.ids() == [chain.spec.id]
        return
    with pytest.raises(Permanent, match=r"the table shop\.big was being rebuilt while the parent .* was taken"):
        chain.take()
    assert chain.take(named=False).parent_id is None
    query(source, "ALTER TABLE shop.big FORCE")
    assert chain.take().from_lsn is not None
    assert tables_of(chain.restore()) == tables_of(source)


def test_a_deep_chain(bench: tuple[ChainBench, InstanceResult]) -> None:
    """Twenty increments of increments: all tables, users and rights are those of the moment."""
    chain, source = bench
    chain.take(full=True)
    for number in range(20):
        query(source, f"UPDATE shop.t SET v = 'round {number}' WHERE id % 31 = {number}")
        query(source, f"CREATE TABLE a_b.t{number} (id INT PRIMARY KEY) AS SELECT {number} AS id")
        if number == 18:
            administer = chain.context.servers.access(chain.spec.id).administer
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
    store = chain.context.stores.of("1234")
    for info in [info for info in store.list("") if any(info.name.startswith(link.backup_id) for link in old)]:
        store.delete(info.name)
    query(source, "UPDATE shop.t SET v = 'second' WHERE id % 5 = 0")
    chain.take()
    assert tables_of(chain.restore()) == tables_of(source)


def test_a_merge_keeps_to_the_limit(bench: tuple[ChainBench, InstanceResult]) -> None:
    """Nobody waits for it, whatever tables are in it: it takes as long as the rate says."""
    chain, source = bench
    chain.take(full=True)
    query(source, "UPDATE shop.t SET v = 'other' WHERE id = 1")
    size = chain.take().size_bytes
    settings = chain.context.settings.model_copy(update={"max_backup_mb_per_s": size / 4 / 1_000_000})
    chain.context = replace(chain.context, settings=settings)
    begun = time.monotonic()
    chain.consolidate()
    assert time.monotonic() - begun > 3.6


@pytest.mark.parametrize("full", [True, False], ids=["full", "increment"])
def test_progress_is_of_the_instance(
    bench: tuple[ChainBench, InstanceResult], monkeypatch: pytest.MonkeyPatch, *, full: bool
) -> None:
    """Of an increment too, though it has little of it: what is done grows until all was looked at."""
    chain, source = bench
    chain.take(full=True)
    query(source, "UPDATE shop.t SET v = 'other' WHERE id = 1")
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(Lease, "tell", lambda _, **news: told.append(news))
    size = chain.take(full=full).size_bytes
    done = [news["done_bytes"] for news in told if "done_bytes" in news]
    assert [news["expected_bytes"] for news in told if "expected_bytes" in news] == [size]
    assert done == sorted(done)
    assert 0.95 * size <= done[-1] <= (2 if full else 1.05) * size  # the stream of a full one has logs too


def test_another_life_of_the_data_is_no_parent(bench: tuple[ChainBench, InstanceResult]) -> None:
    """On a parent of another incarnation: refused where it was named, a full backup where it was not."""
    chain, source = bench
    chain.take(full=True)
    data = chain.context.servers.access(chain.spec.id).data_directory
    chain.context.servers.stop(chain.spec.id)
    shutil.copytree(data, data.with_name("other"))
    for path in (data.with_name("other"), *data.with_name("other").rglob("*")):
        shutil.chown(path, data.stat().st_uid, data.stat().st_gid)
    shutil.rmtree(data)
    data.with_name("other").rename(data)
    chain.context.servers.start(chain.spec.id)

    with pytest.raises(Permanent, match="restored or replaced since its parent"):
        chain.take()
    assert chain.take(named=False).parent_id is None
    assert tables_of(chain.restore()) == tables_of(source)


def test_a_parent_of_a_later_moment_is_no_parent(bench: tuple[ChainBench, InstanceResult]) -> None:
    """Data that was rolled back with all that the host noted of it, and then written anew: the parent's LSN tells."""
    chain, source = bench
    instance = chain.context.servers.access(chain.spec.id).data_directory.parent
    chain.context.servers.incarnation(chain.spec.id)
    chain.context.servers.stop(chain.spec.id)
    shutil.copytree(instance / "data", instance / "old")
    notes = (instance / "lsn.json").read_bytes()
    chain.context.servers.start(chain.spec.id)
    query(source, "INSERT INTO shop.packed SELECT seq, REPEAT(MD5(seq), 20) FROM shop.seq_2001_to_6000")
    chain.take(full=True)
    chain.context.servers.stop(chain.spec.id)
    for path in (instance / "old").rglob("*"):
        if path.is_file():
            shutil.copyfile(path, instance / "data" / path.relative_to(instance / "old"))
    (instance / "lsn.json").write_bytes(notes)
    chain.context.servers.start(chain.spec.id)

    with pytest.raises(Permanent, match="restored or replaced since its parent"):
        chain.take()


RACE = "[00] Error 2 on file ./app/t.CSM open during `app`.`t` table copy: No such file or directory"
FATAL = "[00] FATAL ERROR: out of memory"


class FailingTool(MariaDB):
    """The engine, whose backup tool ends with these messages first."""

    def __init__(self, installation: Installation, directory: Path) -> None:
        super().__init__(installation)
        self.failures: list[str] = []
        self._tool_file = directory / "mariabackup"

    @contextmanager
    def take(
        self, server: ServerAccess, *, parent_lsn: int | None, lock_wait_timeout_s: float
    ) -> Iterator[MariaDBBackup]:
        """Start the tool, or a program that fails like it."""
        engine = MariaDB(self.installation)
        if self.failures:
            self._tool_file.write_text(f"#!/bin/sh\necho '{self.failures.pop(0)}' >&2\nexit 1\n")
            self._tool_file.chmod(0o755)
            engine = MariaDB(replace(self.installation, mariabackup=self._tool_file))
        with engine.take(server, parent_lsn=parent_lsn, lock_wait_timeout_s=lock_wait_timeout_s) as stream:
            yield stream


def test_a_tool_that_loses_a_race_gets_another_chance(bench: tuple[ChainBench, InstanceResult]) -> None:
    """A table that is moved or dropped while it is copied ends the tool: once is made up for, twice is the reason.

    A tool that fails for another reason is not run again, not for a full backup either.
    """
    chain, source = bench
    assert chain.context.settings.state_dir is not None
    directory = chain.context.settings.state_dir / "tool"
    directory.mkdir()
    engine = FailingTool(installation_of(chain.context.servers), directory)
    losing = replace(chain, context=replace(chain.context, engines=Engines([engine])))

    engine.failures = [RACE]
    losing.take(full=True)
    engine.failures = [RACE]
    assert losing.take().from_lsn is not None
    assert tables_of(losing.restore()) == tables_of(source)
    engine.failures = [RACE, RACE]
    with pytest.raises(Permanent, match="a table was moved or dropped while the backup tool copied it"):
        losing.take()
    engine.failures = [FATAL]
    with pytest.raises(Permanent, match="mariabackup failed with exit status 1"):
        losing.take(named=False)
    assert list(chain.context.stores.of(ACCOUNT).list("snaphold/")) == []  # no segment of a try that failed


def test_a_parent_that_is_damaged(bench: tuple[ChainBench, InstanceResult]) -> None:
    """No increment is taken on it: refused where it was named, a full backup where it was not."""
    chain, source = bench
    chain.take(full=True)
    assert chain.context.settings.state_dir is not None
    (manifest,) = (chain.context.settings.state_dir / "store").rglob(f"{chain.links[0].backup_id}.json")
    _flip(manifest)
    with pytest.raises(Damaged):
        chain.take()
    assert chain.take(named=False).parent_id is None
    assert tables_of(chain.restore()) == tables_of(source)


def test_an_imported_tablespace_is_not_lost(bench: tuple[ChainBench, InstanceResult]) -> None:
    """No increment holds an imported tablespace: a named parent is refused, without one a full backup is taken."""
    chain, source = bench
    chain.take(full=True)
    data = chain.context.servers.access(chain.spec.id).data_directory
    administer = chain.context.servers.access(chain.spec.id).administer
    administer("CREATE TABLE shop.copy LIKE shop.zip", 10)
    administer("ALTER TABLE shop.copy DISCARD TABLESPACE", 10)
    assert chain.take().from_lsn is not None
    assert tables_of(chain.restore()) == tables_of(source)  # that one is NULL here and there
    chain.context.servers.stop(chain.spec.id)
    saved = data.with_name("saved.ibd")
    shutil.copy2(data / "shop" / "zip.ibd", saved)
    shutil.chown(saved, data.stat().st_uid, data.stat().st_gid)
    chain.context.servers.start(chain.spec.id)
    saved.rename(data / "shop" / "copy.ibd")
    administer("ALTER TABLE shop.copy IMPORT TABLESPACE", 10)

    with pytest.raises(Permanent, match="a tablespace was imported since"):
        chain.take()
    assert chain.take(named=False).parent_id is None
    query(source, "UPDATE shop.copy SET v = 'later' WHERE id = 7")
    assert chain.take().from_lsn is not None
    assert tables_of(chain.restore()) == tables_of(source)


def test_a_tablespace_that_is_imported_meanwhile(bench: tuple[ChainBench, InstanceResult], when: When) -> None:
    """The backup has not all of it, and is taken once more, with it."""
    chain, source = bench
    access = chain.context.servers.access(chain.spec.id)
    data, administer = access.data_directory, access.administer
    administer("CREATE TABLE shop.copy LIKE shop.zip", 10)
    administer("ALTER TABLE shop.copy DISCARD TABLESPACE", 10)
    chain.context.servers.stop(chain.spec.id)
    shutil.copy2(data / "shop" / "zip.ibd", data / "shop" / "copy.ibd")
    shutil.chown(data / "shop" / "copy.ibd", data.stat().st_uid, data.stat().st_gid)
    chain.context.servers.start(chain.spec.id)
    when(Step.BACKUP_TOOL_STARTED, lambda: administer("ALTER TABLE shop.copy IMPORT TABLESPACE", 10))

    with capture_logs() as logs:
        chain.take(full=True)

    assert [line["reason"] for line in logs if line["event"] == "backup.retried"] == [
        "a tablespace was imported while the backup was taken; the backup does not contain it"
    ]
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
    before = chain.context.servers.ids()
    assert chain.context.settings.state_dir is not None
    container = next((chain.context.settings.state_dir / "store").rglob(f"{chain.links[0].backup_id}.json")).parent
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
    assert chain.context.servers.ids() == before
    assert tables_of(chain.restore()) == tables_of(source)
