"""Chains of servers with options that our instances do not have: encryption, undo tablespaces, a binary log."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from snaphold.agent.chain import Chain
from snaphold.config import Settings
from snaphold.host.directory import InstanceDirectory, Record
from snaphold.host.servers import Servers
from snaphold.protocol import InstanceResult
from tests.support.chains import ROUNDS, ChainBench, chain_bench, tables_of, writers
from tests.support.instances import query

pytestmark = pytest.mark.engine

KEYS = "1;770A8A65DA156D24EE2A093277530142\n"
SECRET = "plain words"


class OtherServers(Servers):
    """Servers that keep all data encrypted, have undo tablespaces of their own, and write a binary log."""

    def _command_line(self, directory: InstanceDirectory, record: Record) -> list[str | Path]:
        """Ours first: of two that say the same the last one counts."""
        (plugin,) = self.installation.root.glob("usr/lib*/mysql/plugin/file_key_management.so")
        return [
            *super()._command_line(directory, record),
            f"--plugin-dir={plugin.parent}",
            "--plugin-load-add=file_key_management",
            f"--file-key-management-filename={self._state_dir / 'keys'}",
            "--innodb-encrypt-tables",
            "--innodb-encrypt-log",
            "--innodb-encryption-threads=1",
            "--innodb-undo-tablespaces=3",
            f"--log-bin={directory.data / 'binlog'}",
            "--server-id=7",
        ]


@pytest.fixture
def bench(host_settings: Settings) -> tuple[ChainBench, InstanceResult]:
    """An instance of such a server."""
    assert host_settings.state_dir is not None
    keys = host_settings.state_dir / "keys"
    keys.write_text(KEYS)
    keys.chmod(0o644)
    return chain_bench(OtherServers(host_settings), host_settings)


def gtid(chain: ChainBench) -> str | None:
    """Where the newest backup says that it stands in the binary log."""
    return Chain.opened(chain.room.stores, chain.links).newest.lineage.gtid


def test_encrypted_data_comes_back(bench: tuple[ChainBench, InstanceResult]) -> None:
    """With encrypted tables and an encrypted redo log: overlaid, in turn and merged are equal, and stay encrypted."""
    chain, source = bench
    query(source, f"UPDATE shop.t SET v = '{SECRET}' WHERE id BETWEEN 100 AND 600")
    with writers(source):
        chain.take(full=True)
        chain.take()
        chain.take()
    for statements in ROUNDS:
        for statement in statements:
            query(source, statement)
        chain.take()
        assert gtid(chain) == query(source, "SELECT @@gtid_binlog_pos")[0][0]

    overlaid, files = chain.laid(Chain.overlay)
    in_turn, expected_files = chain.laid(Chain.apply_in_turn)
    merged, _ = chain.consolidate()
    restored = chain.restore(merged)
    assert tables_of(overlaid) == tables_of(in_turn) == tables_of(restored) == tables_of(source)
    assert files == expected_files
    assert query(restored, f"SELECT COUNT(*) FROM shop.t WHERE v = '{SECRET}'") != [(0,)]
    for instance_id in chain.room.servers.ids():
        data = chain.room.servers.access(instance_id).data_directory
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
