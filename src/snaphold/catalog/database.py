"""The catalog's database: opening it, and transactions with the time of the database."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy import event, exc

from snaphold.catalog.files import WatchedFiles, close_to_others
from snaphold.errors import SetupError, Unavailable

_BUSY_TIMEOUT_MS = 30_000
_Value = TypeVar("_Value")
_Check = TypeVar("_Check", bound=Callable[..., Any])


def _sqlite_clock() -> int:
    return time.time_ns() // 1000  # a SQLite database uses the clock of its machine


@dataclass(frozen=True, kw_only=True)
class Transaction:
    """An open transaction and its time, which is the same for every row that it writes."""

    connection: sa.Connection
    now_us: int


def relies_on_single_writer(check: _Check) -> _Check:
    """Mark a check that a second writer could make untrue before its transaction commits.

    SQLite has one writer at a time, from BEGIN IMMEDIATE on. A database with several needs a lock or a constraint in
    each function with this mark; ARCHITECTURE.md lists them.
    """
    return check


@dataclass(frozen=True, kw_only=True)
class Database:
    """An open SQLite database, and its files, which are checked at each transaction."""

    engine: sa.Engine
    files: WatchedFiles


class Catalog:
    """The catalog of one region. Share one object among the threads of a process.

    ``clock`` replaces the database's clock (microseconds since the epoch) in tests of time.
    """

    def __init__(self, database: Database, clock: Callable[[], int] | None = None) -> None:
        self._database = database
        self._readers = database.engine
        self._writers = database.engine.execution_options(snaphold_writes=True)
        self._clock = clock or _sqlite_clock

    @property
    def engine(self) -> sa.Engine:
        """The engine, for the queue, whose tables are in the same database."""
        return self._readers

    def another_engine(self) -> sa.Engine:
        """A new engine for a library that begins its own transactions, with immediate locks; dispose of it."""
        engine = sa.create_engine(self._readers.url, hide_parameters=True)
        event.listen(engine, "connect", _prepare_foreign_connection)
        self._database.files.watch(engine)
        return engine

    def version(self) -> object:
        """A value that changes with each commit by any process. It takes microseconds."""
        return object() if self._database.files.exchanged() else self._database.files.version()

    def read_at_once(self, statement: str) -> object:
        """The one value that a statement reads, without waiting; if it cannot be read, a value equal to no other."""
        return object() if self._database.files.exchanged() else self._database.files.read_at_once(statement)

    def now_us(self) -> int:
        """The time of the database, outside of a transaction."""
        return self._clock()

    @contextmanager
    def writing(self) -> Iterator[Transaction]:
        """A transaction that may write: committed at the end, rolled back by any exception.

        Raises:
            Unavailable: the database is locked for too long, its disk is full, or its file was removed or replaced;
                nothing was written.
        """
        with _mapped(), self._writers.begin() as connection:
            yield Transaction(connection=connection, now_us=self._clock())

    @contextmanager
    def reading(self) -> Iterator[Transaction]:
        """A transaction that only reads, from one consistent snapshot."""
        with _mapped(), self._readers.connect() as connection:
            yield Transaction(connection=connection, now_us=self._clock())

    def close(self) -> None:
        """Close every connection."""
        self._readers.dispose()
        self._database.files.close()


def batched(values: Sequence[_Value], size: int) -> Iterator[Sequence[_Value]]:
    """The values in their order, ``size`` at a time, since a statement has a limited number of parameters."""
    return (values[start : start + size] for start in range(0, len(values), size))


def all_rows(result: sa.CursorResult[Any]) -> list[dict[str, Any]]:
    """All rows of a result as dictionaries, in a quarter of the time that ``mappings`` takes."""
    names = tuple(result.keys())
    return [dict(zip(names, row, strict=True)) for row in result.all()]


def one_row(result: sa.CursorResult[Any]) -> dict[str, Any] | None:
    """The one row of a result as a dictionary; None: it has none. Several rows are a bug, and raise."""
    names, row = result.keys(), result.one_or_none()
    return None if row is None else dict(zip(names, row, strict=True))


def open_database(path: Path, migrations: str) -> Database:
    """Open the SQLite database at ``path``, which only its owner may read; create or upgrade it first if needed.

    ``migrations`` names the folder of its migrations beside this module.

    Raises:
        SetupError: the file cannot be opened, is no database, or was written by a newer release.
    """
    close_to_others(path)
    engine = sa.create_engine(
        sa.URL.create("sqlite", database=str(path)),  # not a URL to parse: a path may have any character
        connect_args={"timeout": _BUSY_TIMEOUT_MS / 1000, "check_same_thread": False},
        hide_parameters=True,  # an error is logged with its statement: the values may be hashes of secrets
    )
    event.listen(engine, "connect", _prepare_connection)
    event.listen(engine, "begin", _begin)
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / migrations).replace("%", "%%"))
    config.attributes["engine"] = engine
    try:
        command.upgrade(config, "head")
    except exc.DBAPIError as error:
        raise SetupError(f"the catalog {path} cannot be opened: {error.orig}") from error
    except Exception as error:
        if "Can't locate revision" in str(error):
            raise SetupError(f"the catalog {path} was written by a newer release") from error
        raise
    files = WatchedFiles(path)
    files.watch(engine)
    return Database(engine=engine, files=files)


def open_catalog(path: Path, clock: Callable[[], int] | None = None) -> Catalog:
    """Open a region's catalog. Raises ``SetupError`` as ``open_database`` does."""
    return Catalog(open_database(path, "migrations"), clock)


def _prepare_connection(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # BEGIN is sent below, so that writers can use IMMEDIATE
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")  # a 202 survives a power cut
    connection.execute("PRAGMA foreign_keys=ON")


def _prepare_foreign_connection(connection: Any, _record: Any) -> None:
    connection.isolation_level = "IMMEDIATE"
    connection.execute(f"PRAGMA busy_timeout={_BUSY_TIMEOUT_MS}")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")


def _begin(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get("snaphold_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextmanager
def _mapped() -> Iterator[None]:
    try:
        yield
    except exc.OperationalError as error:
        raise Unavailable(f"the catalog does not answer: {error.orig}") from error
    except exc.TimeoutError as error:
        raise Unavailable("the catalog does not answer: too many requests at once") from error
