"""The files of a database under a process that has it open."""

import logging
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from snaphold.catalog import hosts
from snaphold.catalog.database import Catalog, open_catalog
from snaphold.catalog.files import EXCHANGED
from snaphold.catalog.identity_db import open_identity_database
from snaphold.errors import Unavailable
from snaphold.queue import said_once
from tests.support.region import open_region

FILES = ["catalog.db", "catalog.db-shm", "catalog.db-wal"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Of a catalog with a host."""
    open_region(tmp_path).deployment.catalog.close()
    return tmp_path / "catalog.db"


def add_host(catalog: Catalog) -> None:
    """Write something."""
    with catalog.writing() as tx:
        hosts.put(tx, "new", "0" * 64)


def move_away_while_writing(catalog: Catalog, path: Path) -> None:
    """The file goes between a statement and its commit."""
    with catalog.writing() as tx:
        hosts.put(tx, "new", "0" * 64)
        path.rename(path.with_name("away"))


def names(catalog: Catalog) -> list[str]:
    """Read what there is."""
    with catalog.reading() as tx:
        return [host.name for host in hosts.every(tx)]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("found", ["removed", "replaced"])
def test_a_file_that_is_exchanged(path: Path, name: str, found: str) -> None:
    """Nothing is read or written from then on, and one line says why; where it is put back, all goes on."""
    file, away = path.with_name(name), path.with_name("away")
    with closing(open_catalog(path)) as catalog:
        before = catalog.version()
        file.rename(away)
        if found == "replaced":
            file.write_bytes(away.read_bytes())
        with capture_logs() as logs:
            for use in (names, add_host, names):
                with pytest.raises(Unavailable, match="its file was removed or replaced"):
                    use(catalog)
        assert [(line["event"], line["file"], line["found"]) for line in logs] == [
            ("database.file_exchanged", str(file), found)
        ]
        assert catalog.version() != before
        assert catalog.version() != catalog.version()
        away.replace(file)
        add_host(catalog)
        assert names(catalog) == ["host", "new"]


def test_exchanged_before_the_commit(path: Path) -> None:
    """What was begun before is not committed into a file that nobody will find."""
    with closing(open_catalog(path)) as catalog:
        with pytest.raises(Unavailable):
            move_away_while_writing(catalog, path)
        path.with_name("away").rename(path)
        assert names(catalog) == ["host"]


def test_the_queue_writes_nothing_either(path: Path) -> None:
    """The library that runs the queue begins its own transactions: they are held to the same."""
    with closing(open_catalog(path)) as catalog:
        engine = catalog.another_engine()
        path.rename(path.with_name("away"))
        with pytest.raises(sa.exc.OperationalError), engine.begin() as connection:
            connection.exec_driver_sql("DELETE FROM hosts")
        engine.dispose()
    assert not path.exists() or path.stat().st_size == 0


@pytest.mark.parametrize(("message", "logged"), [(f"(sqlite3.OperationalError) {EXCHANGED}", False), ("late", True)])
def test_the_queue_does_not_fill_the_log(message: str, *, logged: bool) -> None:
    """What the queue's library would say at each look for work is said once, by us; all else is logged."""
    record = logging.LogRecord("dbos", logging.WARNING, "x", 1, "Exception polling: %s", (message,), None)
    assert said_once(record) is logged


def test_other_processes_that_come_and_go(path: Path) -> None:
    """A database that others open and leave stays the same, and its version changes with each of their commits."""
    with closing(open_catalog(path)) as catalog:
        before = catalog.version()
        for number in range(3):
            with closing(open_catalog(path)) as other:
                assert names(other) == names(catalog)
            with closing(sqlite3.connect(path)) as plain:
                plain.execute("UPDATE hosts SET seen_us = ?", [number])
                plain.commit()
            assert catalog.version() != before
            before = catalog.version()
        assert catalog.version() == before


@pytest.mark.parametrize("umask", [0o000, 0o022])
def test_only_the_owner_may_read_them(tmp_path: Path, umask: int) -> None:
    """From the first moment on, whatever the umask is; files that an older release left open are closed."""
    former = os.umask(umask)
    try:
        for _ in range(2):
            with (
                closing(open_catalog(tmp_path / "catalog.db")) as catalog,
                closing(open_identity_database(tmp_path / "identity.db")) as identity,
            ):
                add_host(catalog)
                identity.users()
                modes = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.glob("*.db*")}
                assert len(modes) == 6
                assert set(modes.values()) == {0o600}
            for file in tmp_path.glob("*.db*"):
                file.chmod(0o644)
    finally:
        os.umask(former)
