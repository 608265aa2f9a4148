"""docs/how-to/restore-by-hand.md, followed to the letter: no code of ours takes part in the restore."""

import getpass
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pymysql
import pytest

from snaphold.config import Settings
from snaphold.engines.mariadb.installation import Installation
from snaphold.formats.manifest import DataFacts, IndexFacts, Manifest, sha256_of
from snaphold.formats.xbstream import Watch
from snaphold.objects import CONTAINER
from snaphold.store.local import LocalStores
from snaphold.stream.segments import write_backup
from tests.docs.by_hand import followed, restored_by_hand
from tests.scenarios.served import ACCOUNT, eventually, served
from tests.scenarios.served import query as ask
from tests.stream.backups import manifest_of
from tests.support.instances import PASSWORD, instance_spec, query
from tests.support.servers import installation_of, mariadb_of, open_servers

pytestmark = pytest.mark.engine


@contextmanager
def started(installation: Installation, data: Path) -> Iterator["pymysql.Connection[Any]"]:
    """A server on a data directory, as anybody would start one, and a login with the password of the source."""
    socket = data / "s"
    words = [
        str(installation.mariadbd),
        "--no-defaults",
        f"--user={getpass.getuser()}",
        f"--datadir={data}",
        f"--socket={socket}",
        f"--lc-messages-dir={installation.share}",
        f"--character-sets-dir={installation.share / 'charsets'}",
        f"--log-error={data / 'error.log'}",
        "--skip-networking",
    ]
    with subprocess.Popen(words, env=dict(installation.environment)) as server:
        try:
            eventually(socket.exists, "the server to listen")
            yield pymysql.connect(unix_socket=str(socket), user="app", password=PASSWORD)
        finally:
            server.terminate()


def said(connection: "pymysql.Connection[Any]", statement: str) -> list[tuple[Any, ...]]:
    """What the server answers."""
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return list(cursor.fetchall())


class Source:
    """A server whose backups are put into a local store as the agent would."""

    def __init__(self, settings: Settings, root: Path) -> None:
        self.servers = open_servers(settings)
        self.spec = instance_spec()
        self.result = self.servers.create(self.spec, 1)
        self.store = LocalStores(root).of(ACCOUNT)
        self.engine = mariadb_of(self.servers)
        self.written_meanwhile = False

    def backup(self, number: int, parent: Manifest | None, *, busy: bool = True) -> Manifest:
        """A backup; with a parent an increment, taken from where that one began.

        ``busy``: rows are written meanwhile, so that it ends behind where it began, and an increment on it overlaps.
        """
        name, watch = f"{number:08d}-0000-4000-8000-000000000000", Watch(self.engine.captures)
        parent_lsn = None if parent is None else parent.lineage.checkpoint_lsn
        access = self.servers.access(self.spec.id)
        prefix = f"snaphold/d/{name}/1/"
        with self.engine.take(access, parent_lsn=parent_lsn, lock_wait_timeout_s=60) as stream:

            def readinto(buffer: memoryview) -> int:
                count = stream.readinto(buffer)
                if not self.written_meanwhile:
                    self._write()
                return count

            self.written_meanwhile = not busy
            written = write_backup(readinto, self.store, prefix, level=1, threads=2, watch=watch, kill=stream.kill)
            taken = stream.taken(watch.captured)
        assert (taken.checkpoint_lsn != taken.to_lsn) == busy
        data = DataFacts(name=f"{name}.xbstream.gz", size_bytes=written.size_bytes, segment_size=written.segment_size)
        self.store.publish(data.name, prefix, len(written.segments), size_bytes=data.size_bytes)
        index = IndexFacts(name=f"{name}.index", size_bytes=len(written.index), sha256=sha256_of(written.index))
        self.store.put(index.name, written.index)
        plain = manifest_of(written)
        lineage = plain.lineage.model_copy(update={"from_lsn": parent_lsn, "checkpoint_lsn": taken.checkpoint_lsn})
        facts = {
            "id": name,
            "data": data,
            "index": index,
            "lineage": lineage,
            "parent_id": None if parent is None else parent.id,
        }
        manifest = plain.model_copy(update=facts)
        self.store.put(f"{name}.json", manifest.dump())
        return manifest

    def _write(self) -> None:
        """Move the checkpoint, so that the backup ends behind where it began."""
        query(self.result, "INSERT INTO shop.t SELECT MAX(id) + 1, 'meanwhile' FROM shop.t")
        self.servers.access(self.spec.id).checkpoint(60)
        self.written_meanwhile = True


def test_a_chain_comes_back_by_hand(host_settings: Settings, tmp_path: Path) -> None:
    """A full and two increments, copied, unpacked and prepared with standard tools, are the source of that moment.

    Of a damaged chain nothing comes back: the page checks every hash.
    """
    source = Source(host_settings, tmp_path / "store")
    query(source.result, "CREATE TABLE shop.t (id INT PRIMARY KEY, v VARCHAR(200)) ENGINE=InnoDB")
    query(source.result, "INSERT INTO shop.t SELECT seq, REPEAT('x', seq MOD 200) FROM shop.seq_1_to_3000")
    full = source.backup(1, None)
    query(source.result, "UPDATE shop.t SET v = 'first' WHERE id < 500")
    query(source.result, "CREATE TABLE shop.more ENGINE=MyISAM AS SELECT * FROM shop.t")
    first = source.backup(2, full)
    query(source.result, "DELETE FROM shop.t WHERE id BETWEEN 2000 AND 2900")
    query(source.result, "DROP TABLE shop.more")
    query(source.result, "CREATE TABLE shop.last ENGINE=InnoDB AS SELECT * FROM shop.t")
    second = source.backup(3, first, busy=False)
    tables = "CHECKSUM TABLE shop.t, shop.last"
    expected = query(source.result, tables)
    query(source.result, "DELETE FROM shop.t")

    (tmp_path / "work").mkdir()
    target = tmp_path / "data"
    container = tmp_path / "store" / ACCOUNT / CONTAINER
    values: dict[str, str | Path] = {
        "BACKUP": second.id,
        "CONTAINER": container,
        "TOKEN": "",
        "WORK": tmp_path / "work",
        "TARGET": target,
    }
    messages = restored_by_hand(installation_of(source.servers), values)
    assert messages.count("completed OK!") == 3
    with started(installation_of(source.servers), target) as connection, closing(connection):
        assert said(connection, tables) == expected
        assert said(connection, "SHOW TABLES IN shop") == [("last",), ("t",)]

    damaged = container / first.data.name
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    (tmp_path / "again").mkdir()
    values |= {"WORK": tmp_path / "again", "TARGET": tmp_path / "never"}
    ended = followed(installation_of(source.servers), values)
    assert ended.returncode != 0
    assert f"{first.id}.sha256 differ" in ended.stdout
    assert not (tmp_path / "never").exists()


def test_backups_of_the_service_come_back_over_http(
    state_dir: Path, instance_network: str, engine: Installation
) -> None:
    """What the service took, an increment too, comes back with the container's URL and a token as well."""
    with served(state_dir, instance_network) as service:
        instance = service.instance()
        ask(instance, "CREATE TABLE t ENGINE=InnoDB AS SELECT seq AS id FROM seq_1_to_1000")
        full = service.backup(instance)
        ask(instance, "INSERT INTO t SELECT id + 1000 FROM t")
        expected = ask(instance, "CHECKSUM TABLE shop.t")
        wanted = {"name": "i", "instance": instance["id"], "parent_id": full["id"]}
        made = service.ok("POST", "/backups", {"backup": wanted})["backup"]
        backup = service.reaches(f"/backups/{made['id']}", "COMPLETED")
        (state_dir / "work").mkdir()
        values = {
            "BACKUP": backup["id"],
            "CONTAINER": backup["locationRef"].rpartition("/")[0],
            "TOKEN": service.token or "",
            "WORK": state_dir / "work",
            "TARGET": state_dir / "data",
        }
        restored_by_hand(engine, values)
    with started(engine, state_dir / "data") as connection, closing(connection):
        assert tuple(said(connection, "CHECKSUM TABLE shop.t")) == expected
